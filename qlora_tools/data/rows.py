"""From rendered text to token ids and labels, with a count of everything that was cut or left out."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

from ..errors import DataError
from .answer_spans import RenderedConversation, Span
from .disguise import WORD
from .examples import Example, Message, RowError
from .rendering import LossOn, RenderedExample, Renderer

IGNORED = -100
_CHUNK = 512
Offsets = list[tuple[int, int]]


@dataclass(frozen=True)
class TokenRow:
    """Token ids of one row and its labels: the id where the token is learnt, -100 where it is not.

    `number` is the row's place in its file, from 1.
    """

    input_ids: list[int]
    labels: list[int]
    number: int = 0

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
class EncodedRows:
    """Rows in tokens at their full length, and those that the template refuses, with their numbers and why."""

    rows: tuple[TokenRow, ...]
    unusable: tuple[tuple[int, str], ...]
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class TokenRows:
    """All rows of a dataset in tokens. Counts say what happened to the others; nothing is dropped in silence.

    `unusable` are rows that could not be read, do not fit the format, or are refused by the chat template, with their
    numbers and why. `epoch` has the places in `rows` that make one epoch, where sources have weights.
    """

    rows: tuple[TokenRow, ...]
    read: int
    cut: int
    dropped_long: int
    dropped_nothing_to_learn: int
    stop_token_ids: tuple[int, ...]
    unusable: tuple[tuple[int, str], ...] = ()
    epoch: tuple[int, ...] | None = None

    def of_an_epoch(self) -> list[TokenRow]:
        """The rows of one epoch: each once, or as often as its source's weight says."""
        return list(self.rows) if self.epoch is None else [self.rows[place] for place in self.epoch]

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
    """Tokens and labels of every example within `limit`. `row_numbers` are their places in the file; default 1, 2, ...

    Rows that do not suit the template are left out and named in `unusable`. Raises `DataError` when no row is left to
    learn from.
    """
    encoded = encode_examples(examples, renderer, loss_on=loss_on, row_numbers=row_numbers, on_progress=on_progress)
    return within_length(encoded, limit)


def encode_examples(
    examples: Sequence[Example],
    renderer: Renderer,
    *,
    loss_on: LossOn,
    row_numbers: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EncodedRows:
    """Tokens and labels of every example at its full length."""
    encoder = _Encoder(renderer)
    numbers = row_numbers or range(1, len(examples) + 1)
    rows: list[TokenRow] = []
    unusable: list[tuple[int, str]] = []
    for start in range(0, len(examples), _CHUNK):
        rendered: list[tuple[int, RenderedExample]] = []
        for number, example in zip(numbers[start : start + _CHUNK], examples[start : start + _CHUNK], strict=True):
            try:
                rendered.append((number, renderer.training_text(example, loss_on)))
            except RowError as error:
                unusable.append((number, str(error)))
        rows.extend(encoder.rows(rendered))
        if on_progress:
            on_progress(min(start + _CHUNK, len(examples)), len(examples))
    return EncodedRows(tuple(rows), tuple(unusable), encoder.stop_token_ids())


def within_length(encoded: EncodedRows, limit: LengthLimit) -> TokenRows:
    """The rows as they are trained: cut or dropped where too long, left out where nothing of them is learnt.

    Raises `DataError` when no row is left.
    """
    rows, longest = encoded.rows, limit.max_length_tokens
    too_long = sum(len(row.input_ids) > longest for row in rows)
    cuts = limit.long_rows == "cut"
    fitting = [
        row if len(row.input_ids) <= longest else _cut(row, longest) for row in rows if cuts or _fits(row, longest)
    ]
    useful = tuple(row for row in fitting if row.learnt_tokens)
    if not useful:
        raise _nothing_left(encoded, longest, too_long)
    return TokenRows(
        rows=useful,
        read=len(rows) + len(encoded.unusable),
        cut=too_long if cuts else 0,
        dropped_long=0 if cuts else too_long,
        dropped_nothing_to_learn=len(fitting) - len(useful),
        stop_token_ids=encoded.stop_token_ids,
        unusable=encoded.unusable,
    )


def _fits(row: TokenRow, longest: int) -> bool:
    return len(row.input_ids) <= longest


def _cut(row: TokenRow, longest: int) -> TokenRow:
    return replace(row, input_ids=row.input_ids[:longest], labels=row.labels[:longest])


def _nothing_left(encoded: EncodedRows, longest: int, too_long: int) -> DataError:
    reasons = "".join(f"\n  - row {number}: {reason}" for number, reason in encoded.unusable[:5])
    without = sum(not row.learnt_tokens for row in encoded.rows)
    refused = f", {len(encoded.unusable)} cannot be used:{reasons}" if encoded.unusable else ""
    return DataError(
        f"None of the {len(encoded.rows) + len(encoded.unusable)} rows has a token to learn within {longest} tokens"
        f" ({too_long} are longer, {without} have no answer){refused}.",
        next_step="Raise training.max_length_tokens, or check that rows end with an assistant turn; `qlora data inspect` "
        "shows each row's mask.",
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
        } - {renderer.tokenizer.unk_token_id}
        self._ends: set[int] = set()

    def stop_token_ids(self) -> tuple[int, ...]:
        """The tokens that ended the learnt answers, and the tokenizer's EOS: where generation has to stop."""
        known = {*self._ends, self._tokenizer.eos_token_id, self._usual_end}
        return tuple(sorted(token for token in known if token is not None))

    @cached_property
    def _usual_end(self) -> int | None:
        """What ends an ordinary answer that another turn follows: EOS where it is written there, else a special token."""
        if self._renderer.style != "chat_template":
            return None
        user, answer = Message(role="user", content="hi"), Message(role="assistant", content=WORD)
        chat = RenderedConversation(self._renderer.template, (user, answer, user))
        try:
            span = chat.answer(1)
        except RowError:
            return None
        ((ids, offsets),) = self._encode([chat.text], special_tokens=False)
        closing = [ids[i] for i in self._inside(span, ids, offsets) if self._closes(span, ids[i], offsets[i])]
        eos = self._tokenizer.eos_token_id
        return eos if eos in closing else next(iter(closing), None)

    def rows(self, rendered: Sequence[tuple[int, RenderedExample]]) -> list[TokenRow]:
        rows: list[TokenRow] = []
        for templated in (True, False):
            chosen = [item for item in rendered if item[1].templated is templated]
            if chosen:
                encoded = self._encode([example.text for _, example in chosen], special_tokens=not templated)
                rows += [self._row(*item, ids, offsets) for item, (ids, offsets) in zip(chosen, encoded, strict=True)]
        return sorted(rows, key=lambda row: row.number)

    def _encode(self, texts: list[str], *, special_tokens: bool) -> list[tuple[list[int], Offsets]]:
        encoded = self._tokenizer(
            texts, add_special_tokens=special_tokens, return_offsets_mapping=True, return_attention_mask=False
        )
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))

    def _row(self, number: int, example: RenderedExample, ids: list[int], offsets: Offsets) -> TokenRow:
        if not example.templated and ids and ids[-1] == self._tokenizer.eos_token_id:
            ids, offsets = ids[:-1], offsets[:-1]
        ids, offsets = self._parted(example, ids, offsets)
        labels = [IGNORED] * len(ids)
        for span in example.learnt:
            for i in self._learnt_tokens(span, ids, offsets):
                labels[i] = ids[i]
        self._end_answer(example, ids, labels)
        return TokenRow(ids, labels, number)

    def _parted(self, example: RenderedExample, ids: list[int], offsets: Offsets) -> tuple[list[int], Offsets]:
        """Two tokens where one holds the end of a prompt and the start of its answer: generation has the prompt's own."""
        before = ((span.start, bisect_left(offsets, (span.start, 0)) - 1) for span in example.learnt)
        borders = [border for border, i in before if i >= 0 and offsets[i][1] > border and ids[i] not in self._special]
        if not borders:
            return list(ids), offsets
        places = [0, *borders, len(example.text)]
        pieces = self._encode([example.text[start:end] for start, end in pairwise(places)], special_tokens=False)
        added = sum(right == 0 for _, right in offsets)  # BOS, which stands for no character
        parted = ids[:added] + [token for tokens, _ in pieces for token in tokens]
        # Some tokenizers mark the start of every text by a space, so that parts do not make the whole.
        if self._tokenizer.decode(parted) != self._tokenizer.decode(ids):
            return list(ids), offsets
        shifted = [
            (start + left, start + right)
            for start, (_, part) in zip(places, pieces, strict=False)
            for left, right in part
        ]
        return parted, offsets[:added] + shifted

    def _learnt_tokens(self, span: Span, ids: list[int], offsets: Offsets) -> list[int]:
        """The content and the token after it at which generation stops: nothing behind it is learnt."""
        inside = self._inside(span, ids, offsets)
        behind = bisect_left(inside, span.content_end, key=lambda i: offsets[i][1])
        closing = [
            place
            for place in range(behind, len(inside))
            if self._closes(span, ids[inside[place]], offsets[inside[place]])
        ]
        if closing:
            # Marks that close a tool call may be special too; what ends an ordinary answer comes behind them.
            usual = (place for place in closing if ids[inside[place]] == self._usual_end)
            inside = inside[: next(usual, closing[-1]) + 1]
            self._ends.add(ids[inside[-1]])
        elif span.closed_otherwise and inside and inside[-1] + 1 < len(ids) and ids[inside[-1] + 1] in self._special:
            # It ends an answer within a conversation, but no generation: another token stands where the text ends.
            inside.append(inside[-1] + 1)
        return inside

    def _inside(self, span: Span, ids: list[int], offsets: Offsets) -> list[int]:
        """Tokens that hold something of the content, or stand between its end and that of the span."""
        first = max(0, bisect_left(offsets, (span.start, 0)) - 1)
        past = bisect_left(offsets, (span.end, 0), lo=first)
        return [
            i
            for i, (left, right) in enumerate(offsets[first:past], start=first)
            if right > span.start
            and right > left
            and (right <= span.end or left < span.content_end)
            and (left >= span.start or ids[i] not in self._special)
        ]

    def _closes(self, span: Span, token: int, offset: tuple[int, int]) -> bool:
        return offset[1] > span.content_end and token in self._special

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
