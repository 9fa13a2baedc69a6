"""Rows as the trainer's own collator hands them to the model: which tokens are learnt and which are not."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ..data.examples import Conversation, Example
from ..data.rows import IGNORED, TokenRow
from ..results import MaskedRow, MaskPiece
from .redact import masked_text
from .tokens import TokenView, special_ids

_MOST_ROWS = 10
_LONGEST_LEARNT, _LONGEST_UNLEARNT = 600, 240
_MOST_PIECES = 40


def masked_rows(view: TokenView, *, side_by_side: bool) -> list[MaskedRow]:
    """Up to ten rows, unlike ones first, each put through the collator alone (`side_by_side`: the one for joined rows)."""
    from ..data.collate import FlatCollator, PaddedCollator

    tokenizer, limit = view.tokenizer, view.max_length_tokens
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    collator = FlatCollator() if side_by_side else PaddedCollator(pad)
    special = special_ids(tokenizer)
    shown = []
    for row in _unlike(view.encoded.rows, view.examples(), limit):
        batch = collator([{"input_ids": row.input_ids[:limit], "labels": row.labels[:limit]}])
        ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
        shown.append(
            MaskedRow(
                row=row.number,
                tokens=len(ids),
                learnt_tokens=sum(label != IGNORED for label in labels),
                cut=len(row.input_ids) > limit,
                pieces=_pieces(ids, labels, special, tokenizer),
            )
        )
    return shown


def _unlike(rows: Sequence[TokenRow], examples: dict[int, Example], limit: int) -> list[TokenRow]:
    """The first row, then one of each kind that there is, then rows spread evenly; in the order of the file."""
    chosen: dict[int, TokenRow] = {}
    kinds: set[tuple[bool, ...]] = set()
    for row in rows:
        example = examples[row.number]
        turns = example.messages if isinstance(example, Conversation) else ()
        kind = (
            len(row.input_ids) > limit,
            len(turns) > 3,
            any("tool_calls" in turn for turn in turns),
            not row.learnt_tokens,
        )
        if kind not in kinds and len(chosen) < _MOST_ROWS:
            kinds.add(kind)
            chosen[row.number] = row
    step = max(1, len(rows) // _MOST_ROWS)
    for row in rows[::step]:
        if len(chosen) == _MOST_ROWS:
            break
        chosen[row.number] = row
    return sorted(chosen.values(), key=lambda row: row.number)


def _pieces(ids: list[int], labels: list[int], special: set[int], tokenizer: Any) -> list[MaskPiece]:
    marked = zip(ids, labels, strict=True)
    pieces = []
    for (learnt, is_special), run in groupby(marked, key=lambda pair: (pair[1] != IGNORED, pair[0] in special)):
        # Reports are kept and sent around: what is private in a row is masked here too.
        text = masked_text(_text([index for index, _ in run], tokenizer))
        most = _LONGEST_LEARNT if learnt else _LONGEST_UNLEARNT
        pieces.append(MaskPiece(text=_shortened(text, most), learnt=learnt, special=is_special))
    if len(pieces) <= _MOST_PIECES:
        return pieces
    half, left_out = _MOST_PIECES // 2, len(pieces) - _MOST_PIECES
    gap = MaskPiece(text=f" [... {left_out:,} pieces ...] ", learnt=False, special=False)
    return [*pieces[:half], gap, *pieces[-half:]]


def _text(ids: list[int], tokenizer: Any) -> str:
    text = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    # Decoded alone, tokens that mark words by a leading sign lose the space in front.
    first = tokenizer.convert_ids_to_tokens(ids[0]) or ""
    return " " + text if first.startswith("▁") and not text.startswith(" ") else text


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"
