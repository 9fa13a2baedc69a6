"""The one order of rows that a run follows, fixed by seed and settings alone.

Every way in (command, import, script) and every resume feeds the trainer this order through a sequential sampler.
"""

from collections.abc import Sequence
from random import Random

# As in Transformers' length grouping: wide enough to fill micro-batches with like lengths, narrow enough to stay random.
_WINDOW_MICRO_BATCHES = 50


def training_order(lengths: Sequence[int], *, needed: int, micro_batch_size: int, seed: int) -> list[int]:
    """Indices of `needed` rows: seeded passes over all rows, then micro-batches of like length within a window.

    `lengths` holds the tokens of each row. `needed` is a multiple of `micro_batch_size`; rows repeat from the
    next pass where it goes beyond the last one.
    """
    rng = Random(seed)
    drawn: list[int] = []
    while len(drawn) < needed:
        drawn.extend(rng.sample(range(len(lengths)), len(lengths)))
    return _grouped(drawn[:needed], lengths, micro_batch_size, rng)


def _grouped(order: list[int], lengths: Sequence[int], micro_batch_size: int, rng: Random) -> list[int]:
    window = _WINDOW_MICRO_BATCHES * micro_batch_size
    grouped: list[int] = []
    for start in range(0, len(order), window):
        by_length = sorted(order[start : start + window], key=lambda row: lengths[row])
        batches = [by_length[i : i + micro_batch_size] for i in range(0, len(by_length), micro_batch_size)]
        rng.shuffle(batches)
        grouped.extend(row for batch in batches for row in batch)
    return grouped


def steps_for(rows: int, *, epochs: float, rows_per_step: int) -> int:
    """Optimiser steps that see every row at least `epochs` times; at least one."""
    return max(1, -(-round(rows * epochs) // rows_per_step))


def split_for_evaluation(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on and to hold out, both in file order; at least one on each side where `fraction` > 0."""
    if fraction == 0 or count < 2:
        return list(range(count)), []
    held = set(Random(seed).sample(range(count), min(max(1, round(count * fraction)), count - 1)))
    return [i for i in range(count) if i not in held], sorted(held)
