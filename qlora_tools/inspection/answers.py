"""The form of answers: very short, the same as the prompt, or cut off in the middle."""

import re
from collections.abc import Sequence
from statistics import median

from ..results import Finding
from .findings import Hits, Severity, rows_said
from .identify import is_code_like
from .leftovers import stands_for_nothing
from .rows import CheckedRow, folded, word_count

_READ_CHARACTERS = 2000
_LONGEST_WORD = 30
_FEW, _MANY = 0.005, 0.3
_SHORT_WORDS, _LONG_WORDS = 3, 10
_LEAST_ANSWERS = 20
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
_UNSPACED_WORD = 4
_CODE_MARK = re.compile(r"[{}\[\]()<>;=|/\\]")

_LEAST_SHARED = 30
# Where a text is copied or mended, an answer may be what was asked.
_COPIES = re.compile(
    r"\b(?:correct|grammar|proofread|fix|edit|rewrite|extract|repeat|copy|quote|complete|continue|find|which sentence)\b",
    re.IGNORECASE,
)

_LONG_ANSWER = 200
_LAST_LINE = 60
_MOSTLY_ENDED, _NEARLY_ALL_ENDED = 0.7, 0.9
_DOTS_SHARE = 0.01
_LIST_ITEM = re.compile(r"\s*(?:[-*•–+|>#]|\d{1,3}[.)]|[a-zA-Z][.)]|[A-Z][\w ]{0,40}:)\s?")
# Words after which no sentence ends.
_GOES_ON = re.compile(
    r"(?:\b(?:the|a|an|of|and|or|to|in|with|for|by|from|as|at|that|which|is|are|was|were|be|because|but|if|than|into|their|its|his|"
    r"her|our|your|my|this|these|der|die|das|und|oder|von|mit|le|la|les|de|des|et|el|los|y|con|del|che|di)|[,(\[{–—-])\Z",
    re.IGNORECASE,
)


def check_short_answers(rows: Sequence[CheckedRow]) -> list[Finding]:
    """One-word answers: a warning where they are 0.5 % to 30 % and the others long; a note where most answers are short."""
    answered = [row for row in rows if not row.is_plain and row.answer.strip()]
    if not answered:
        return []
    one = [row for row in answered if _is_one_word(row.answer) and not stands_for_nothing(row)]
    lengths = [word_count(row.answer[:_READ_CHARACTERS]) for row in answered]
    if sum(length <= _SHORT_WORDS for length in lengths) > len(answered) / 2:
        return _labels_note(
            [row for row, length in zip(answered, lengths, strict=True) if length <= _SHORT_WORDS], len(answered)
        )
    hits = Hits([row.number for row in one], f"{one[0].asked[:100]} → {one[0].answer}" if one else None)
    if len(one) > _MANY * len(answered) or median(lengths) < _LONG_WORDS:
        return []
    severity: Severity = "warning" if hits.share(len(answered)) >= _FEW else "note"
    message = f"Answers are a single word though most are long: {rows_said(len(one))}"
    step = "Look whether these are whole answers; short ones among long ones teach to stop early."
    return hits.finding("short_answers", severity, message, len(answered), next_step=step)


def _labels_note(short: Sequence[CheckedRow], looked_at: int) -> list[Finding]:
    if all(_CODE_MARK.search(row.answer) for row in short):
        return []
    hits = Hits([row.number for row in short], short[0].answer)
    message = f"Most answers have at most {_SHORT_WORDS} words, as in classification: {rows_said(len(short))}"
    return hits.finding("short_answers", "note", message, looked_at)


def _is_one_word(answer: str) -> bool:
    word = answer.strip()
    if len(word) > _LONGEST_WORD or len(word.split()) != 1 or _CODE_MARK.search(word):
        return False
    return len(word) <= _UNSPACED_WORD or not _UNSPACED.search(word)


def check_echoes(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Answers that repeat their prompt, or that their prompt ends with; a warning at any."""
    hits = Hits()
    for row in rows:
        if not row.is_plain and row.answer and (_repeats_prompt(row) or _is_shared(row)):
            hits.add(row.number, row.answer)
    message = f"Answers repeat their prompt, or stand in it already: {rows_said(len(hits.rows))}"
    return hits.finding("echoes", "warning", message, len(rows), next_step="Write true answers or remove the rows.")


def _repeats_prompt(row: CheckedRow) -> bool:
    # Cheap first: folding costs time.
    if not any(row.answer.strip()[:8].casefold() in text[:40].casefold() for text in (row.asked, row.last_question)):
        return False
    instruction = row.last_question.partition("\n\n")[0]
    return folded(row.answer) in {folded(text) for text in (row.asked, row.last_question, instruction)}


def _is_shared(row: CheckedRow) -> bool:
    """An answer that begins with its whole prompt, or a prompt that ends with the whole answer; not in code or edits."""
    asked, answer = row.last_question.strip(), row.answer.strip()
    if min(len(asked), len(answer)) < _LEAST_SHARED:
        return False
    begins = answer.startswith(asked)
    ends = not begins and asked.endswith(answer) and not asked[: -len(answer)][-1:].isalnum()
    return (begins or ends) and not _COPIES.search(asked) and not is_code_like(asked)


def check_cut_answers(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Long answers that stop without an end though most others have one, or that trail off in dots."""
    long = [row for row in rows if not row.is_plain and len(row.answer) > _LONG_ANSWER and not is_code_like(row.answer)]
    if len(long) < _LEAST_ANSWERS:
        return []
    endings = [row.answer.rstrip() for row in long]
    ended = sum(not text[-1:].isalnum() and not text.endswith((",", "-", "(")) for text in endings) / len(long)
    cut, dots = Hits(), Hits()
    for row, text in zip(long, endings, strict=True):
        if text.endswith(("...", "…")):
            dots.add(row.number, text[-_LONG_ANSWER // 2 :])
        elif ended >= _MOSTLY_ENDED and _stops_midway(text):
            cut.add(row.number, text[-_LONG_ANSWER // 2 :])
    return [*_cut_finding(cut, len(long), ended), *_dots_finding(dots, len(long))]


def _stops_midway(text: str) -> bool:
    last = text[text.rfind("\n") + 1 :]
    if _GOES_ON.search(last[-20:]) and not _LIST_ITEM.match(last):
        return True
    return (
        last[-1:].isalnum()
        and len(last) >= _LAST_LINE
        and not _LIST_ITEM.match(last)
        and "://" not in last[-_LAST_LINE:]
    )


def _cut_finding(cut: Hits, looked_at: int, ended: float) -> list[Finding]:
    severity: Severity = "warning" if ended >= _NEARLY_ALL_ENDED else "note"
    message = (
        f"Long answers stop in the middle of a sentence, though {ended:.0%} end with one: {rows_said(len(cut.rows))}"
    )
    step = "Look whether they were cut at a length limit; the model learns to stop there too."
    return cut.finding("cut_answers", severity, message, looked_at, next_step=step)


def _dots_finding(dots: Hits, looked_at: int) -> list[Finding]:
    severity: Severity = "warning" if _DOTS_SHARE <= dots.share(looked_at) <= _MANY else "note"
    message = f"Long answers end in dots, as if shortened: {rows_said(len(dots.rows))}"
    return dots.finding("trailing_dots", severity, message, looked_at, next_step="Look whether the rest was left out.")
