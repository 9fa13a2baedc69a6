"""Filling bins of a fixed number of tokens with whole rows: best fit, longest rows first."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of row indices whose lengths sum to at most `capacity` each; the same bins for the same lengths.

    Best-fit decreasing: every row goes to the fullest bin that still takes it. No row may be longer than `capacity`.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), ascending
    for row in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = bisect_left(room, (lengths[row], -1))
        if place == len(room):
            bins.append([row])
            insort(room, (capacity - lengths[row], len(bins) - 1))
        else:
            left, chosen = room.pop(place)
            bins[chosen].append(row)
            insort(room, (left - lengths[row], chosen))
    return bins
