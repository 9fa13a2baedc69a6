"""What was left in answers by the making of the data: marks of templates, and text that stands for nothing."""

import re
from collections.abc import Sequence

from ..results import Finding
from .doubled import CODE, doubled_template
from .findings import Hits, rows_said
from .identify import is_code_like
from .rows import CheckedRow

_BESIDE = 60
_ON_PURPOSE = 0.5
_LABELS = 0.3  # where so many answers are this short, `None` is a label among others
_LABEL_WORDS = 3

_MARK = re.compile(
    r"<\|[a-z][a-z_0-9]{1,30}\|>|"
    r"<\uff5c[^\uff5c<>]{2,40}\uff5c>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>|"
    r"<(?:bos|eos|pad|unk)>|\[(?:EOS|BOS|PAD|UNK)\]|"
    r"</?assistant>|^</?(?:user|system|human|bot)>|"
    r"^#{2,3} ?(?:Response|Instruction|Input|Assistant|Human|User|System|Output|Answer):|"
    r"</s>|<s>(?!.{0,400}</s>)|^(?:Human|Assistant|### ?Human|USER|ASSISTANT): |<\|(?:im|eot|end)",
    re.MULTILINE,
)
# Found fast, so that most rows need no search.
_HINTS = (
    *(
        "<|",
        "<\uff5c",
        "INST]",
        "SYS>>",
        "_of_turn>",
        "<bos>",
        "<eos>",
        "<pad>",
        "<unk>",
        "[EOS]",
        "[BOS]",
        "[PAD]",
        "[UNK]",
        "</s>",
    ),
    *(
        "<s>",
        "assistant>",
        "user>",
        "system>",
        "human>",
        "bot>",
        "## ",
        "##R",
        "##I",
        "Human:",
        "Assistant:",
        "USER:",
        "ASSISTANT:",
    ),
)
_STRIKE = re.compile(r"<s>.{1,400}?</s>|<(?:b|p|i|em|div|span|del|a)\b", re.DOTALL | re.IGNORECASE)

_WORDS_FOR_NOTHING = """
    n/a na null none nan nil todo tbd tba undefined [deleted] [removed] <noinput> noinput nooutput <nooutput>
    no_output no_answer placeholder [placeholder] [answer] <answer> [insert] [output] <output> [response] <response>
    #n/a #ref! #value!    [blank] (blank) <blank> [empty] <empty> [null] <null> [none] xxx ??? ... … - -- --- ? . asdf test
"""
_EMPTY_WORDS = frozenset(_WORDS_FOR_NOTHING.split())
_FILLER = re.compile(
    r"\blorem ipsum\b|\byour (?:answer|response|text) (?:goes )?here\b|"
    r"\[insert (?:answer|response|text|output)[^\]]{0,30}\]",
    re.IGNORECASE,
)
_UNFINISHED = re.compile(r"^(?:TODO|TBD|FIXME)\b[: ]")
_ABOUT_FILLER = re.compile(
    r"\blorem\b|placeholder|dummy text|filler|\bipsum\b|template|\bcss\b|\bhtml\b", re.IGNORECASE
)


def check_template_marks(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Marks of chat templates inside answers, such as `<|im_end|>`, and prompts written out in one; a warning at any."""
    hits, plain = Hits(), sum(row.is_plain for row in rows)
    for row in rows:
        if match := _mark(row) or doubled_template(row):
            text = match.string
            hits.add(row.number, text[max(0, match.start() - _BESIDE) : match.end() + _BESIDE])
    if plain and hits.share(plain) > _ON_PURPOSE:
        return []  # Plain text that was written out in a template on purpose.
    message = f"Marks of a chat template stand in answers or prompts: {rows_said(len(hits.rows))}"
    step = "Remove them; the template adds its own, and these would be learnt as text."
    return hits.finding("template_marks", "warning", message, len(rows), next_step=step)


def _mark(row: CheckedRow) -> re.Match[str] | None:
    """A mark outside code that the prompt does not speak of."""
    text = row.answers
    if not any(hint in text for hint in _HINTS) or not _MARK.search(text):
        return None
    for match in _MARK.finditer(CODE.sub(" ", text)):
        mark = match[0].strip()
        if mark in row.asked or (mark in ("<s>", "</s>") and _STRIKE.search(text)):
            continue
        return match
    return None


def check_placeholders(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Answers that stand for nothing, such as N/A, null or lorem ipsum; a warning at any."""
    answered = [row for row in rows if not row.is_plain and row.answer]
    short = sum(len(row.answer) < 40 and len(row.answer.split()) <= _LABEL_WORDS for row in answered)
    labels = short > _LABELS * len(answered)
    hits = Hits()
    for row in answered:
        if stands_for_nothing(row, labels=labels):
            hits.add(row.number, row.answer)
    message = f"Answers are placeholders: {rows_said(len(hits.rows))}"
    return hits.finding(
        "placeholders", "warning", message, len(rows), next_step="Write true answers or remove the rows."
    )


def stands_for_nothing(row: CheckedRow, *, labels: bool = False) -> bool:
    """Whether the answer is a placeholder; among `labels`, `None` may be one of them."""
    text = row.answer.strip()
    if len(text) < 20:
        word = text.lower()
        bare = word if word in _EMPTY_WORDS else word.rstrip(".! ")
        return bare in _EMPTY_WORDS and not labels and bare not in row.prompt.lower()
    if _UNFINISHED.search(text):
        return not is_code_like(text)
    likely = "ipsum" in text or " here" in text or "[insert" in text.lower()
    return likely and bool(_FILLER.search(text)) and not _ABOUT_FILLER.search(row.prompt)
