"""How the rows of a step are cut into micro-batches, smaller ones after the GPU ran out of memory.

The rows of each step, their order and the schedule stay as they are: only how many are computed at once changes.
"""

from dataclasses import replace
from typing import Any

from datasets import Dataset

from ..config.schema import TrainingConfig
from ..data.rows import IGNORED
from .batches import Layout
from .training_state import MicroBatches

_MOST_BIN_PARTS = 64


def first_cut(training: TrainingConfig) -> MicroBatches:
    """As the config says."""
    size = training.micro_batch_size
    return MicroBatches(size, training.gradient_accumulation_steps, evaluation_size=size)


def smaller_cut(cut: MicroBatches, layout: Layout, *, in_evaluation: bool) -> MicroBatches | None:
    """About half of the memory, the same rows in a step; None where it cannot be less.

    With packing a single bin is cut in two between its rows: half of the token budget.
    """
    if in_evaluation:
        return replace(cut, evaluation_size=cut.evaluation_size // 2) if cut.evaluation_size > 1 else None
    if cut.size > 1:
        in_a_step = cut.size * cut.accumulation
        size = next(size for size in range(cut.size // 2, 0, -1) if in_a_step % size == 0)
        return replace(
            cut, size=size, accumulation=in_a_step // size, evaluation_size=max(1, min(cut.evaluation_size, size))
        )
    if layout != "bins" or cut.bin_parts >= _MOST_BIN_PARTS:
        return None
    return replace(cut, accumulation=cut.accumulation * 2, bin_parts=cut.bin_parts * 2)


def cut_bins(bins: Any, parts: int, pad_token_id: int) -> Any:
    """Each bin as `parts` items, whole rows in each, as equal as their lengths allow.

    A bin of fewer rows than parts is filled up with items of one token that is not learnt, so that every step keeps its
    number of micro-batches.
    """
    if parts == 1:
        return bins
    empty = {"input_ids": [pad_token_id], "labels": [IGNORED], "lengths": [1], "rows": []}
    return Dataset.from_list([part for one in bins for part in _parts(one, parts, empty)])


def _parts(one: dict[str, Any], parts: int, empty: dict[str, Any]) -> list[dict[str, Any]]:
    rows, place = [], 0
    for length, number in zip(one["lengths"], one["rows"], strict=True):
        rows.append((one["input_ids"][place : place + length], one["labels"][place : place + length], number))
        place += length
    groups: list[list[Any]] = [[] for _ in range(parts)]
    for row in sorted(rows, key=lambda row: len(row[0]), reverse=True):
        min(groups, key=lambda group: sum(len(member[0]) for member in group)).append(row)
    return [_joined(group) if group else empty for group in groups]


def _joined(group: list[Any]) -> dict[str, Any]:
    return {
        "input_ids": [token for ids, _, _ in group for token in ids],
        "labels": [label for _, labels, _ in group for label in labels],
        "lengths": [len(ids) for ids, _, _ in group],
        "rows": [number for _, _, number in group],
    }
