"""Filling bins of a fixed number of tokens with whole rows: best fit, longest rows first."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of row indices whose lengths sum to at most `capacity` each; the same bins for the same lengths.

    Best-fit decreasing: every row goes to the fullest bin that still takes it. No row may be longer than `capacity`.
    """
    bins: list[list[int]] = []
    open_bins: dict[int, list[int]] = {}  # by the tokens that they have left
    rooms: list[int] = []  # the keys of open_bins, ascending: at most `capacity` of them, however many bins there are
    for row in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = bisect_left(rooms, lengths[row])
        if place == len(rooms):
            chosen, room = len(bins), capacity
            bins.append([])
        else:
            room = rooms[place]
            chosen = open_bins[room].pop()
            if not open_bins[room]:
                del open_bins[room], rooms[place]
        bins[chosen].append(row)
        left = room - lengths[row]
        if left not in open_bins:
            open_bins[left] = []
            insort(rooms, left)
        open_bins[left].append(chosen)
    return bins
