"""From rendered text to token ids and labels, with a count of everything that was cut or left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import DataError
from .formats import Example, RowError
from .rendering import LossOn, RenderedExample, Renderer, Span

IGNORED = -100
_CHUNK = 512


@dataclass(frozen=True)
class TokenRow:
    """Token ids of one row and its labels: the id where the token is learnt, -100 where it is not."""

    input_ids: list[int]
    labels: list[int]

    @property
    def learnt_tokens(self) -> int:
        """Tokens that count in the loss."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class LengthLimit:
    """The longest row in tokens, and whether longer ones are cut at their end or dropped."""

    max_length_tokens: int
    long_rows: Literal["cut", "drop"]


@dataclass(frozen=True)
class TokenRows:
    """All rows of a dataset in tokens. Counts say what happened to the others; nothing is dropped in silence."""

    rows: tuple[TokenRow, ...]
    read: int
    cut: int
    dropped_long: int
    dropped_nothing_to_learn: int
    stop_token_ids: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.input_ids) for row in self.rows)


def tokenize_examples(
    examples: Sequence[Example],
    renderer: Renderer,
    *,
    loss_on: LossOn,
    limit: LengthLimit,
    row_numbers: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenRows:
    """Tokens and labels of every example. `row_numbers` are their places in the file, for errors; default 1, 2, ...

    Raises `DataError` when a row does not suit the template or when no row is left to learn from.
    """
    encoder = _Encoder(renderer)
    numbers = row_numbers or range(1, len(examples) + 1)
    complete: list[TokenRow] = []
    for start in range(0, len(examples), _CHUNK):
        rendered = [
            _rendered(renderer, example, loss_on, numbers[start + offset])
            for offset, example in enumerate(examples[start : start + _CHUNK])
        ]
        complete.extend(encoder.rows(rendered))
        if on_progress:
            on_progress(min(start + _CHUNK, len(examples)), len(examples))
    return _within_length(complete, limit, encoder.stop_token_ids())


def _rendered(renderer: Renderer, example: Example, loss_on: LossOn, number: int) -> RenderedExample:
    try:
        return renderer.training_text(example, loss_on)
    except RowError as error:
        raise DataError(f"Row {number}: {error}.", next_step="Mend the row or choose another data.loss_on.") from None


def _within_length(rows: list[TokenRow], limit: LengthLimit, stop_token_ids: tuple[int, ...]) -> TokenRows:
    longest, long_rows = limit.max_length_tokens, limit.long_rows
    too_long = [len(row.input_ids) > longest for row in rows]
    if long_rows == "cut":
        fitting = [TokenRow(row.input_ids[:longest], row.labels[:longest]) for row in rows]
    else:
        fitting = [row for row, over in zip(rows, too_long, strict=True) if not over]
    useful = tuple(row for row in fitting if row.learnt_tokens)
    if not useful:
        raise DataError(
            f"None of the {len(rows)} rows has a token to learn within {longest} tokens"
            f" ({sum(too_long)} are longer, {sum(not row.learnt_tokens for row in rows)} have no answer).",
            next_step="Raise training.max_length_tokens, or check that rows end with an assistant turn.",
        )
    return TokenRows(
        rows=useful,
        read=len(rows),
        cut=sum(too_long) if long_rows == "cut" else 0,
        dropped_long=sum(too_long) if long_rows == "drop" else 0,
        dropped_nothing_to_learn=len(fitting) - len(useful),
        stop_token_ids=stop_token_ids,
    )


class _Encoder:
    """Tokenises rendered rows and settles which token ends an answer."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._tokenizer = renderer.tokenizer
        added = renderer.tokenizer.added_tokens_decoder
        self._special = {
            *renderer.tokenizer.all_special_ids,
            *(index for index, token in added.items() if token.special),
        }
        self._ends: set[int] = set()

    def stop_token_ids(self) -> tuple[int, ...]:
        """The tokens that ended the learnt answers, and the tokenizer's EOS: where generation has to stop."""
        eos = self._tokenizer.eos_token_id
        return tuple(sorted(self._ends | ({eos} if eos is not None else set())))

    def rows(self, rendered: Sequence[RenderedExample]) -> list[TokenRow]:
        encoded = self._tokenizer(
            [example.text for example in rendered],
            add_special_tokens=self._renderer.adds_special_tokens,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        offsets = encoded["offset_mapping"]
        return [self._row(example, encoded["input_ids"][i], offsets[i]) for i, example in enumerate(rendered)]

    def _row(self, example: RenderedExample, ids: list[int], offsets: list[tuple[int, int]]) -> TokenRow:
        ids, labels = list(ids), [IGNORED] * len(ids)
        if self._renderer.adds_special_tokens and ids and ids[-1] == self._tokenizer.eos_token_id:
            ids, labels, offsets = ids[:-1], labels[:-1], offsets[:-1]
        for span in example.learnt:
            for i in self._learnt_tokens(span, ids, offsets):
                labels[i] = ids[i]
        self._end_answer(example, ids, labels)
        return TokenRow(ids, labels)

    def _learnt_tokens(self, span: Span, ids: list[int], offsets: list[tuple[int, int]]) -> list[int]:
        """The content and the first special token after it: there generation stops, so nothing behind it is learnt."""
        starts = [left if right > left else -1 for left, right in offsets]
        content = [i for i, left in enumerate(starts) if span.start <= left < span.content_end]
        after = [i for i, left in enumerate(starts) if span.content_end <= left < span.end]
        stop = next((place for place, i in enumerate(after) if ids[i] in self._special), None)
        if stop is None:
            return content
        self._ends.add(ids[after[stop]])
        return content + after[: stop + 1]

    def _end_answer(self, example: RenderedExample, ids: list[int], labels: list[int]) -> None:
        """Where the text itself does not end with a special token, EOS is added and learnt: else the model never stops."""
        eos = self._tokenizer.eos_token_id
        ends_with_answer = bool(example.learnt) and example.learnt[-1].end == len(example.text)
        if ends_with_answer and eos is not None and not self._ends_with_special(labels):
            ids.append(eos)
            labels.append(eos)
            self._ends.add(eos)

    def _ends_with_special(self, labels: list[int]) -> bool:
        """Whether the last learnt token, white space aside, is a special one."""
        for label in reversed(labels):
            if label != IGNORED and not self._tokenizer.decode([label]).isspace():
                return label in self._special
        return False
