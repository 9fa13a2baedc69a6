"""Losses and logits of tokens without holding `[batch, sequence, vocabulary]` in fp32.

Only labelled positions reach the head; logits stay in the model's dtype under a budget, and fp32 exists in slices of them.
A row whose logits alone break the budget is fed in pieces through the key-value cache, so that every model computes its
own logits: caps and scales of families need no list here.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import MachineError
from ..events import Listener, RunEvent, ignore
from ..results.instruments import Interval
from .statistics import PairedSums, compare

# Token ids, and labels at the tokens' own places; -100 is not counted.
TokenRow = tuple[Sequence[int], Sequence[int]]

_IGNORED = -100
_LOGIT_BYTES = {"cuda": 1 << 30, "cpu": 1 << 28}
_SLICE_BYTES = 1 << 26
# Padded tokens in one forward, for what the layers hold.
_BATCH_TOKENS = {"cuda": 16_384, "cpu": 4_096}


@dataclass(frozen=True)
class RowLoss:
    """Summed loss of a row's labelled tokens in nats, and how many there are."""

    nats: float
    tokens: int


@dataclass(frozen=True)
class LogitPiece:
    """Logits `[positions, vocabulary]` in the model's dtype, with the token to be predicted and the row, `[positions]`.

    Row numbers are those of the batch.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Right-padded tokens `[rows, length]`; `targets[:, t]` is what position t should predict, -100 where nothing counts.

    Predictions are wanted from position `first` on.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor
    first: int


def text_rows(tokenizer: Any, texts: Sequence[str], *, most_tokens: int = 512) -> list[TokenRow]:
    """Plain texts as rows with the tokenizer's special tokens: all but the first token count; cut off at `most_tokens`."""
    rows = [tokenizer(text)["input_ids"][:most_tokens] for text in texts]
    return [(ids, [_IGNORED, *ids[1:]]) for ids in rows]


def perplexity(losses: Sequence[RowLoss]) -> float:
    """exp of the mean loss of all tokens; infinite where that is too large for a number."""
    mean = mean_loss(losses)
    return math.exp(mean) if mean < 700 else math.inf


def mean_loss(losses: Sequence[RowLoss]) -> float:
    """Nats a token over all tokens of all rows."""
    return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


def loss_difference(base: Sequence[RowLoss], other: Sequence[RowLoss]) -> Interval:
    """95 % interval of the change of the mean loss from `base` to `other`, in nats a token, over the same rows."""
    before, after = (np.array([(loss.nats, loss.tokens) for loss in losses]) for losses in (base, other))
    measured = PairedSums(before, after, score=lambda sums: sums[:, 0] / sums[:, 1])
    change = compare("loss", measured, higher_is_better=False, seed=0).difference
    return Interval(low=change.low, high=change.high)


def row_losses(model: Any, rows: Sequence[TokenRow], *, on_event: Listener = ignore) -> list[RowLoss]:
    """The loss of each row, in the order of `rows`; a row without labelled tokens has 0 nats of 0 tokens.

    `model` is a causal language model in eval mode, with or without adapter. Raises `MachineError` where one row does
    not fit into memory.
    """
    losses = [RowLoss(0.0, 0)] * len(rows)
    done = sum(not _counted(row) for row in rows)
    for numbers in batched(model, rows):
        sums = _batch_losses(model, [rows[number] for number in numbers])
        for number, loss in zip(numbers, sums, strict=True):
            losses[number] = loss
        done += len(numbers)
        on_event(RunEvent("progress", "rows", {"done": done, "total": len(rows)}))
    return losses


def batched(model: Any, rows: Sequence[TokenRow]) -> Iterator[list[int]]:
    """Numbers of rows that go together: of like length, within the budgets of tokens and of logits.

    Rows without labelled tokens are in no batch.
    """
    kind, most_logits = model.device.type, _most_positions(model)
    counted = [number for number in range(len(rows)) if _counted(rows[number])]
    batch: list[int] = []
    first = 0
    for number in sorted(counted, key=lambda n: len(rows[n][0])):
        length, count = len(rows[number][0]), len(batch) + 1
        first = min(first, _first_kept(rows[number])) if batch else _first_kept(rows[number])
        if batch and (count * length > _BATCH_TOKENS[kind] or count * (length - first) > most_logits):
            yield batch
            batch, first = [], _first_kept(rows[number])
        batch.append(number)
    if batch:
        yield batch


def collate(rows: Sequence[TokenRow], device: Any) -> Batch:
    """Rows of one batch, padded on the right; what pads is masked, so its value does not matter."""
    longest = max(len(ids) for ids, _ in rows)
    padding = [longest - len(ids) for ids, _ in rows]
    ids = [[*row, *[0] * pad] for (row, _), pad in zip(rows, padding, strict=True)]
    mask = [[1] * len(row) + [0] * pad for (row, _), pad in zip(rows, padding, strict=True)]
    # Position t predicts the token at t + 1; the last position predicts none.
    targets = [[*labels[1:], *[_IGNORED] * (pad + 1)] for (_, labels), pad in zip(rows, padding, strict=True)]
    padded, attended, wanted = (
        torch.tensor(values, dtype=torch.long, device=device) for values in (ids, mask, targets)
    )
    return Batch(padded, attended, wanted, first=min(_first_kept(row) for row in rows))


def logit_pieces(model: Any, batch: Batch) -> Iterator[LogitPiece]:
    """Logits at the labelled positions of a batch, piece by piece in the order of positions.

    One forward where the batch's logits fit their budget, else a prefix first and then a piece at a time on its cache.
    """
    rows, length = batch.ids.shape
    width = max(1, _most_positions(model) // rows)
    if length - batch.first <= width:
        yield from _labelled(_forward(model, batch.ids, batch.mask, length - batch.first), batch, length)
        return
    cache, start = None, 0
    while start < length:
        end = min(length, max(batch.first, start + width)) if start == 0 else min(length, start + width)
        kept = min(end - start, width, max(1, end - batch.first))
        output = _forward(model, batch.ids[:, start:end], batch.mask[:, :end], kept, cache=cache, use_cache=True)
        yield from _labelled(output, batch, end)
        cache, start = output.past_key_values, end


def in_slices(piece: LogitPiece) -> Iterator[slice]:
    """Slices of a piece whose logits take 64 MiB in fp32."""
    step = max(1, _SLICE_BYTES // (4 * piece.logits.shape[1]))
    for start in range(0, len(piece.targets), step):
        yield slice(start, min(start + step, len(piece.targets)))


def _batch_losses(model: Any, rows: Sequence[TokenRow]) -> list[RowLoss]:
    try:
        return _summed(model, rows)
    except torch.cuda.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()
    if len(rows) == 1:
        raise MachineError(
            f"The GPU ran out of memory on one row of {len(rows[0][0])} tokens.",
            next_step="Use shorter rows or a GPU with more memory.",
        )
    half = len(rows) // 2
    return _batch_losses(model, rows[:half]) + _batch_losses(model, rows[half:])


def _summed(model: Any, rows: Sequence[TokenRow]) -> list[RowLoss]:
    sums = torch.zeros(len(rows), dtype=torch.float64)
    with torch.inference_mode():
        for piece in logit_pieces(model, collate(rows, model.device)):
            for part in in_slices(piece):
                logits, targets = piece.logits[part].float(), piece.targets[part]
                nats = logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]
                sums.index_add_(0, piece.rows[part].cpu(), nats.double().cpu())
    return [RowLoss(nats, _counted(row)) for nats, row in zip(sums.tolist(), rows, strict=True)]


def _labelled(output: Any, batch: Batch, end: int) -> Iterator[LogitPiece]:
    """The labelled positions among those that `output` has logits of, which end before position `end` of the batch."""
    targets = batch.targets[:, end - output.logits.shape[1] : end]
    chosen = targets != _IGNORED
    if chosen.any():
        yield LogitPiece(output.logits[chosen], targets[chosen], chosen.nonzero()[:, 0])


def _forward(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, kept: int, *, cache: Any = None, use_cache: bool = False
) -> Any:
    return model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=use_cache, logits_to_keep=kept)


def _counted(row: TokenRow) -> int:
    """How many tokens of the row are predicted and counted; none comes before the first."""
    return sum(label != _IGNORED for label in row[1][1:])


def _first_kept(row: TokenRow) -> int:
    """The first position that predicts a labelled token."""
    labels = row[1]
    return next(place for place in range(1, len(labels)) if labels[place] != _IGNORED) - 1


def _most_positions(model: Any) -> int:
    size = model.dtype.itemsize * model.config.get_text_config().vocab_size
    return max(1, int(_LOGIT_BYTES[model.device.type] // size))
