"""Lengths and packing in figures."""

import math
from collections.abc import Sequence

from ..data.lengths import RowLengths, needed_length
from ..data.packing import pack
from ..results import LengthSummary, LimitShare, PackingSummary

_PERCENTILES = (10, 25, 50, 75, 90, 95, 99)
_SHORTEST_LIMIT = 256
_BARS = 24
_USUAL_BIN = 8192


def length_summary(lengths: RowLengths, *, limit: int | None, model_limit: int | None) -> LengthSummary:
    """Percentiles, what each limit would cost, and a histogram. Without a `limit`, the suggested one counts."""
    suggested = needed_length(lengths, model_limit)
    chosen = limit or suggested
    return LengthSummary(
        how=lengths.how,
        note=lengths.note,
        rows=lengths.rows,
        mean=lengths.mean,
        percentiles={f"p{percent}": lengths.percentile(percent) for percent in _PERCENTILES},
        longest=lengths.longest,
        limits=[_limit_share(lengths, value) for value in _limits(lengths, chosen)],
        histogram=_histogram(lengths.tokens),
        max_length_tokens=chosen,
        suggested_max_length_tokens=suggested,
    )


def _limits(lengths: RowLengths, chosen: int) -> list[int]:
    powers = [_SHORTEST_LIMIT]
    while powers[-1] < lengths.longest:
        powers.append(powers[-1] * 2)
    return sorted({*powers, chosen})


def _limit_share(lengths: RowLengths, limit: int) -> LimitShare:
    lost = sum(max(0, tokens - limit) for tokens in lengths.tokens)
    return LimitShare(
        max_length_tokens=limit,
        rows_over=lengths.rows_over(limit),
        share_over=lengths.share_over(limit),
        tokens_lost_share=lost / sum(lengths.tokens),
    )


def _histogram(tokens: Sequence[int]) -> list[tuple[int, int]]:
    """Bars of equal width on a logarithmic axis, since lengths of text spread over orders of magnitude."""
    low, high = tokens[0], tokens[-1]
    if low == high:
        return [(high, len(tokens))]
    ratio = (high / low) ** (1 / _BARS)
    ends = sorted({math.ceil(low * ratio**step) for step in range(1, _BARS)} | {high})
    ends = [end for end in ends if end <= high]
    counts, place = [], 0
    for end in ends:
        start = place
        while place < len(tokens) and tokens[place] <= end:
            place += 1
        counts.append((end, place - start))
    return counts


def packing_summary(lengths: RowLengths, *, limit: int, micro_batch_size: int, bins: bool) -> PackingSummary:
    """How full bins would be: of `limit` tokens where rows are packed into bins, else of 8,192 or the limit."""
    capacity = limit if bins else max(limit, _USUAL_BIN)
    cut = [min(tokens, limit) for tokens in lengths.tokens]
    packed = pack(cut, capacity)
    total = sum(cut)
    return PackingSummary(
        bin_tokens=capacity,
        bins=len(packed),
        rows_per_bin=len(cut) / len(packed),
        fill=total / (capacity * len(packed)),
        padded_fill=min(1.0, (total / len(cut)) / lengths.padded(micro_batch_size, limit)),
    )
