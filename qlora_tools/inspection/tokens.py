"""What the tokens and labels of a sample tell: what is learnt, what ends an answer, what is cut."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.schema import RunConfig
from ..data.examples import Conversation, Example, PlainText, answer_texts
from ..data.rendering import Renderer
from ..data.rows import IGNORED, EncodedRows, TokenRow, encode_examples
from ..events import Listener, RunEvent
from ..results import Finding
from .findings import Hits, Severity, finding
from .rows import CheckedRow

_FEW = 0.01
_CUT_NOTE, _CUT_ERROR = 0.01, 0.10
_NOTHING_SHARE = 0.05


@dataclass(frozen=True)
class TokenView:
    """A sample of rows in tokens, as training would make them."""

    rows: Sequence[CheckedRow]
    renderer: Renderer
    encoded: EncodedRows
    max_length_tokens: int
    long_rows: str
    loss_on: str

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.renderer.tokenizer

    def examples(self) -> dict[int, Example]:
        """Examples by row number."""
        return {row.number: row.example for row in self.rows}


def tokenise_sample(
    rows: Sequence[CheckedRow], tokenizer: Any, config: RunConfig, on_event: Listener
) -> tuple[Renderer, EncodedRows]:
    """Tokens and labels of a sample at full length, and what rendered them."""
    examples = [row.example for row in rows]
    renderer = Renderer.for_examples(tokenizer, examples)
    encoded = encode_examples(
        examples,
        renderer,
        loss_on=config.data.loss_on,
        row_numbers=[row.number for row in rows],
        on_progress=lambda done, total: on_event(RunEvent("progress", "rows", {"done": done, "total": total})),
    )
    return renderer, encoded


def token_findings(view: TokenView) -> list[Finding]:
    """All that is wrong with labels, ends and lengths."""
    checks: tuple[Callable[[TokenView], list[Finding]], ...] = (
        _nothing_to_learn,
        _only_marks_learnt,
        _earlier_answers,
        _without_stop_token,
        _double_bos,
        _special_tokens_in_text,
        _too_long,
    )
    return [found for check in checks for found in check(view)]


def _nothing_to_learn(view: TokenView) -> list[Finding]:
    rows = [row.number for row in view.encoded.rows if not row.learnt_tokens]
    return _hits(view, rows).finding(
        "nothing_to_learn",
        _severity(len(rows), len(view.encoded.rows), error_over=_NOTHING_SHARE),
        "Rows have nothing to learn: they do not end with an answer",
        len(view.encoded.rows),
        next_step="End each row with an assistant turn, or set data.loss_on: assistant to learn the earlier answers.",
    )


def _only_marks_learnt(view: TokenView) -> list[Finding]:
    """Rows of which the end of the turn is learnt, and nothing before it."""
    special = special_ids(view.tokenizer)
    learnt = [row for row in view.encoded.rows if row.learnt_tokens]
    rows = [row.number for row in learnt if all(label == IGNORED or label in special for label in row.labels)]
    return _hits(view, rows).finding(
        "only_marks_learnt",
        "error",
        "Rows have only special tokens to learn, and no word of an answer: the template may put answers before prompts",
        len(learnt),
        next_step="Look at the masks; check the model's chat template.",
    )


def _earlier_answers(view: TokenView) -> list[Finding]:
    chats = [row for row in view.rows if isinstance(row.example, Conversation)]
    answers = [len(answer_texts(row.example)) for row in chats]
    several = [row.number for row, count in zip(chats, answers, strict=True) if count > 1]
    if view.loss_on != "completions" or len(several) * 2 < len(view.rows) or not several:
        return []
    message = f"Rows have {sum(answers) / len(answers):.1f} answers on average, and only the last of each is learnt"
    step = "Set data.loss_on: assistant to learn every answer."
    return [finding("earlier_answers", "note", message, several, len(view.rows), next_step=step)]


def _without_stop_token(view: TokenView) -> list[Finding]:
    stops = set(view.encoded.stop_token_ids)
    learnt = [row for row in view.encoded.rows if row.learnt_tokens]
    rows = [row.number for row in learnt if not _ends_in(row, stops, view.tokenizer)]
    return _hits(view, rows).finding(
        "stop_token_not_learnt",
        _severity(len(rows), len(learnt), error_over=_FEW),
        "Rows end without a stop token that is learnt, so the model would not learn to stop",
        len(learnt),
        next_step="The chat template has to write EOS or an end-of-turn token after answers; check the model's template.",
    )


def _ends_in(row: TokenRow, stops: set[int], tokenizer: Any) -> bool:
    learnt = (label for label in reversed(row.labels) if label != IGNORED)
    return next((label in stops for label in learnt if not tokenizer.decode([label]).isspace()), False)


def _double_bos(view: TokenView) -> list[Finding]:
    bos = view.tokenizer.bos_token_id
    rows = [row.number for row in view.encoded.rows if bos is not None and row.input_ids[:2] == [bos, bos]]
    return _hits(view, rows).finding(
        "double_bos",
        "error",
        f"Rows begin with {view.tokenizer.bos_token} twice: one stands in the text, and one is added",
        len(view.encoded.rows),
        next_step="Remove it from the texts of the dataset.",
    )


def _special_tokens_in_text(view: TokenView) -> list[Finding]:
    """Marks that a text cannot hold without meaning them: an end of turn inside an answer ends it there."""
    marks = special_texts(view.tokenizer)
    rows = [row for row in view.rows if any(mark in text for text in _inner_texts(row.example) for mark in marks)]
    if not rows:
        return []
    first = next(mark for mark in marks if any(mark in text for text in _inner_texts(rows[0].example)))
    return Hits([row.number for row in rows], _around(rows[0].example, first)).finding(
        "special_token_in_text",
        _severity(len(rows), len(view.rows), error_over=_FEW),
        f"Rows hold special tokens of the model in their texts, such as {first}: what stands there ends or opens a turn",
        len(view.rows),
        next_step="Remove the marks: the chat template writes its own.",
    )


def special_ids(tokenizer: Any) -> set[int]:
    """The tokens that stand for themselves, such as the end of a turn."""
    added = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return {*tokenizer.all_special_ids, *added}


def special_texts(tokenizer: Any) -> list[str]:
    """The special tokens of a tokenizer as texts, longest first; marks of one or two characters mean nothing."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({text for text in (*tokenizer.all_special_tokens, *added) if len(text) > 2}, key=len, reverse=True)


def _inner_texts(example: Example) -> list[str]:
    """Texts as the dataset has them; a mark at the very end of a text that no template closes belongs there."""
    if isinstance(example, PlainText):
        return []
    return [turn["content"] for turn in example.messages]


def _around(example: Example, mark: str) -> str:
    text = next(text for text in _inner_texts(example) if mark in text)
    place = text.index(mark)
    return text[max(0, place - 60) : place + 60 + len(mark)]


def _too_long(view: TokenView) -> list[Finding]:
    limit = view.max_length_tokens
    rows = [row.number for row in view.encoded.rows if len(row.input_ids) > limit]
    if not rows:
        return []
    share = len(rows) / len(view.encoded.rows)
    chat = any(isinstance(row.example, Conversation) for row in view.rows)
    severity: Severity = "note" if share <= _CUT_NOTE or not chat else "error" if share > _CUT_ERROR else "warning"
    what = (
        "are cut at the end, and lose the end of the answer and its stop token"
        if view.long_rows == "cut" and chat
        else "are cut at the end"
        if view.long_rows == "cut"
        else "are dropped"
    )
    return [
        finding(
            "over_length",
            severity,
            f"Rows are longer than {limit:,} tokens and {what}",
            rows,
            len(view.encoded.rows),
            next_step="Raise training.max_length_tokens, split these rows, or set data.long_rows: drop.",
        )
    ]


def _severity(count: int, looked_at: int, *, error_over: float) -> Severity:
    return "error" if count > error_over * looked_at else "warning"


def _hits(view: TokenView, rows: list[int]) -> Hits:
    """Rows with the answers of the first of them as an example."""
    if not rows:
        return Hits()
    example = view.examples()[rows[0]]
    return Hits(rows, "\n".join(answer_texts(example)) or _last_turn(example))


def _last_turn(example: Example) -> str:
    if isinstance(example, PlainText):
        return example.text
    turn = example.messages[-1]
    return f"{turn['role']}: {turn['content']}"
