"""Two sides measured on the same rows: intervals, paired tests, and the difference that so many rows can show.

Every measure is a function of sums over rows (of scores, of losses and tokens, of counts of words), so one bootstrap and
one randomisation test serve all of them. Pure: rows of numbers in, numbers out.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..results import Comparison, ScoreInterval
from .intervals import exact_paired_p, exact_share

Sums = Any  # numpy arrays, [rows or resamples, sums]; numpy comes with the training libraries and is imported inside.
_RESAMPLES = 2_000
_SWAPS = 10_000
_EXACT_ROWS = 12  # so few that every way of swapping them is tried
_CELLS = 4_000_000  # numbers of a block of resamples: 32 MB
_Z95 = 1.959964
# A true difference of this many standard errors is missed once in five times at p < 0.05: 1.96 + 0.84.
_SEEN = 2.80
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class PairedSums:
    """What a measure is computed from: sums of each row for both sides, [rows, sums], and the score of summed rows.

    `score` maps [n, sums] to [n]. `is_share` says that each row is right (1) or wrong (0), and the score their share.
    """

    base: Sums
    adapter: Sums
    score: Callable[[Sums], Sums]
    is_share: bool = False

    @property
    def rows(self) -> int:
        """How many rows were measured."""
        return len(self.base)

    def chosen(self, kept: list[int]) -> "PairedSums":
        """The same measure on some of the rows."""
        return PairedSums(self.base[kept], self.adapter[kept], self.score, self.is_share)

    @cached_property
    def of_rows(self) -> tuple[Sums, Sums]:
        """The score of each row alone, base and adapter."""
        return self.score(self.base), self.score(self.adapter)

    @cached_property
    def values(self) -> tuple[float, float]:
        """The score over all rows, base and adapter."""
        base, adapter = (float(self.score(side.sum(axis=0, keepdims=True))[0]) for side in (self.base, self.adapter))
        return base, adapter


def compare(name: str, measured: PairedSums, *, higher_is_better: bool, seed: int) -> Comparison:
    """Both sides with 95 % intervals, their difference (adapter - base) with interval and paired p-value, and what it took.

    Right-or-wrong measures: the exact interval for a side, Agresti and Min's (2005) for the difference, McNemar's exact
    test. All others: a bootstrap over rows (2,000 resamples, percentiles) and a randomisation test that swaps the sides of
    rows (10,000 times, or every way where there are few rows). Needs at least one row.
    """
    base, adapter = measured.values
    better, worse = _wins(measured, higher_is_better)
    intervals = _share_intervals if measured.is_share else _bootstrap_intervals
    of_base, of_adapter, of_difference, error = intervals(measured, seed)
    p_value = exact_paired_p(worse, better) if measured.is_share else randomisation(measured, seed)
    return Comparison(
        name=name,
        higher_is_better=higher_is_better,
        is_share=measured.is_share,
        rows=measured.rows,
        base=ScoreInterval(value=base, low=of_base[0], high=of_base[1]),
        adapter=ScoreInterval(value=adapter, low=of_adapter[0], high=of_adapter[1]),
        difference=ScoreInterval(value=adapter - base, low=of_difference[0], high=of_difference[1]),
        p_value=p_value,
        test="McNemar, exact" if measured.is_share else "randomisation over rows",
        noise_floor=_SEEN * error if error > 0 else None,
        better=better,
        worse=worse,
        same=measured.rows - better - worse,
    )


def _wins(measured: PairedSums, higher_is_better: bool) -> tuple[int, int]:
    """Rows on which the adapter is better, and worse."""
    base, adapter = measured.of_rows
    gain = (adapter - base) if higher_is_better else (base - adapter)
    return int((gain > _TOLERANCE).sum()), int((gain < -_TOLERANCE).sum())


def _share_intervals(measured: PairedSums, seed: int) -> tuple[Any, Any, Any, float]:
    rows = measured.rows
    base, adapter = (side[:, 0] for side in (measured.base, measured.adapter))
    better, worse = int((adapter > base).sum()), int((adapter < base).sum())
    # Half a row in each cell of the table keeps the interval honest where no row differs.
    difference = (better - worse) / (rows + 2)
    error = math.sqrt((better + worse + 1) / (rows + 2) - difference**2) / math.sqrt(rows + 2)
    of_difference = (max(-1.0, difference - _Z95 * error), min(1.0, difference + _Z95 * error))
    shares = [exact_share(int(side.sum()), rows) for side in (base, adapter)]
    return (shares[0].low, shares[0].high), (shares[1].low, shares[1].high), of_difference, error


def _bootstrap_intervals(measured: PairedSums, seed: int) -> tuple[Any, Any, Any, float]:
    import numpy as np

    resampled = [
        (measured.score(counts @ measured.base), measured.score(counts @ measured.adapter))
        for counts in _resamples(measured.rows, seed)
    ]
    base, adapter = (np.concatenate([pair[side] for pair in resampled]) for side in (0, 1))
    spans = [_span(values) for values in (base, adapter, adapter - base)]
    return spans[0], spans[1], spans[2], float((adapter - base).std())


def _span(values: Sums) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _resamples(rows: int, seed: int) -> Iterator[Sums]:
    """How often each row comes in a resample, [resamples, rows], a block at a time."""
    import numpy as np

    random = np.random.default_rng(seed)
    block = max(1, min(_RESAMPLES, _CELLS // rows))
    for start in range(0, _RESAMPLES, block):
        count = min(block, _RESAMPLES - start)
        drawn = random.integers(0, rows, (count, rows)) + rows * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)


def randomisation(measured: PairedSums, seed: int) -> float:
    """Two-sided p-value: how often the difference is as large when each row's sides are swapped by chance.

    Approximate randomisation (Riezler and Maxwell 2005), exact where there are at most 12 rows.
    """
    apart = measured.adapter - measured.base
    total_base, total_adapter = measured.base.sum(axis=0), measured.adapter.sum(axis=0)
    base, adapter = measured.values
    # Swapped sums are added up in another order, so equal differences may differ in the last bit.
    least = abs(adapter - base) * (1 - 1e-9) - _TOLERANCE
    as_large = tried = 0
    for swapped in _swaps(measured.rows, seed):
        moved = swapped @ apart
        differences = measured.score(total_adapter - moved) - measured.score(total_base + moved)
        as_large += int((abs(differences) >= least).sum())
        tried += len(swapped)
    return as_large / tried if measured.rows <= _EXACT_ROWS else (as_large + 1) / (tried + 1)


def _swaps(rows: int, seed: int) -> Iterator[Sums]:
    """Which rows are swapped, [ways, rows] of 0 and 1, a block at a time."""
    import numpy as np

    if rows <= _EXACT_ROWS:
        yield (np.arange(2**rows)[:, None] >> np.arange(rows) & 1).astype(np.float64)
        return
    random = np.random.default_rng(seed)
    block = max(1, min(_SWAPS, _CELLS // rows))
    for start in range(0, _SWAPS, block):
        yield random.integers(0, 2, (min(block, _SWAPS - start), rows)).astype(np.float64)
