"""The one order of rows that a run follows, fixed by seed and settings alone.

Every way in (command, import, script) and every resume feeds the trainer this order through a sequential sampler.
"""

import math
from collections.abc import Sequence
from random import Random

# As in Transformers' length grouping: wide enough to fill micro-batches with like lengths, narrow enough to stay random.
_WINDOW_MICRO_BATCHES = 50


def training_order(lengths: Sequence[int], *, needed: int, micro_batch_size: int, seed: int) -> list[int]:
    """Indices of `needed` rows: seeded passes over all rows, each in micro-batches of like length.

    `lengths` holds the tokens of each row, at least one row. A pass is complete before the next begins; what is left
    of a pass after its last whole micro-batch starts the next micro-batch.
    """
    rng = Random(seed)
    order: list[int] = []
    while len(order) < needed:
        one_pass = rng.sample(range(len(lengths)), len(lengths))
        # The first rows of a pass fill the micro-batch that the pass before left open.
        open_places = min(-len(order) % micro_batch_size, len(one_pass))
        order.extend(one_pass[:open_places])
        order.extend(_grouped(one_pass[open_places:], lengths, micro_batch_size, rng))
    return order[:needed]


def _grouped(order: list[int], lengths: Sequence[int], micro_batch_size: int, rng: Random) -> list[int]:
    window = _WINDOW_MICRO_BATCHES * micro_batch_size
    grouped: list[int] = []
    for start in range(0, len(order), window):
        by_length = sorted(order[start : start + window], key=lambda row: lengths[row])
        whole = len(by_length) - len(by_length) % micro_batch_size
        batches = [by_length[i : i + micro_batch_size] for i in range(0, whole, micro_batch_size)]
        rng.shuffle(batches)
        # A window that is no multiple of the micro-batch can only be the last; its rest comes last.
        grouped.extend(row for batch in [*batches, by_length[whole:]] for row in batch)
    return grouped


def steps_for(rows: int, *, epochs: float, rows_per_step: int) -> int:
    """Optimiser steps that see every row at least `epochs` times; at least one."""
    # The tolerance keeps 3 x 0.1 passes, a little over 0.3 in binary, from costing a step.
    return max(1, math.ceil(rows * epochs / rows_per_step - 1e-9))


def split_for_evaluation(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on and to hold out, both in file order; at least one on each side where `fraction` > 0."""
    if fraction == 0 or count < 2:
        return list(range(count)), []
    held = set(Random(seed).sample(range(count), min(max(1, round(count * fraction)), count - 1)))
    return [i for i in range(count) if i not in held], sorted(held)
