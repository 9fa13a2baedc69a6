"""A course of any length in bounded memory: blocks of neighbouring losses, which double when there are too many."""

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

_MOST_BLOCKS = 64


@dataclass
class Block:
    """Count, sum and last step of neighbouring losses."""

    count: int
    total: float
    last_step: int

    @property
    def mean(self) -> float:
        """The mean loss."""
        return self.total / self.count

    def join(self, later: "Block") -> "Block":
        """Both as one."""
        return Block(self.count + later.count, self.total + later.total, later.last_step)


class Blocks:
    """Losses in at most 64 complete blocks of equal size, and apart from them the first `beginning` ones."""

    def __init__(self, *, beginning: int) -> None:
        self._beginning = beginning
        self._size = 1
        self._complete: list[Block] = []
        self._open: Block | None = None
        self._first: list[float] = []
        self.count = 0

    def add(self, step: int, loss: float) -> bool:
        """Take the next loss; true when it completes a block."""
        self.count += 1
        self._first += [loss] if len(self._first) < self._beginning else []
        new = Block(1, loss, step)
        self._open = new if self._open is None else self._open.join(new)
        if self._open.count < self._size:
            return False
        self._complete.append(self._open)
        self._open = None
        if len(self._complete) == _MOST_BLOCKS:
            self._size *= 2
            pairs = zip(self._complete[::2], self._complete[1::2], strict=True)
            self._complete = [first.join(second) for first, second in pairs]
        return True

    @property
    def start(self) -> float:
        """The mean of the beginning."""
        return sum(self._first) / len(self._first)

    @property
    def level(self) -> float:
        """The mean of the last eighth."""
        return self._part(7 / 8).mean

    def fall_since_start(self) -> tuple[float, float]:
        """How far the last third lies below the beginning, and the standard error of that."""
        last = self._part(2 / 3)
        scatter = self._scatter(self._complete)
        return self.start - last.mean, scatter * sqrt(1 / len(self._first) + 1 / last.count)

    def fall_since_first_eighth(self) -> tuple[float, float]:
        """How far the last third lies below the first eighth, and the standard error of that."""
        first, last = self._part(0, 1 / 8), self._part(2 / 3)
        scatter = self._scatter(self._complete)
        return first.mean - last.mean, scatter * sqrt(1 / first.count + 1 / last.count)

    def fall_of_last_half(self) -> tuple[float, float, int]:
        """How far a straight line through the last half falls, the standard error of that, and the steps it spans."""
        blocks = self._complete[len(self._complete) // 2 :]
        middle = (len(blocks) - 1) / 2
        spread = sum((index - middle) ** 2 for index in range(len(blocks)))
        slope = sum((index - middle) * block.mean for index, block in enumerate(blocks)) / spread
        # Blocks are of equal size, and so are their errors.
        error = self._scatter(blocks) / sqrt(spread * blocks[0].count)
        steps = blocks[-1].last_step - self._complete[len(self._complete) - len(blocks) - 1].last_step
        return -slope * len(blocks), error * len(blocks), steps

    def _part(self, start: float, end: float = 1) -> Block:
        blocks = self._complete
        chosen = blocks[int(len(blocks) * start) : max(int(len(blocks) * start) + 1, int(len(blocks) * end))]
        joined = chosen[0]
        for block in chosen[1:]:
            joined = joined.join(block)
        return joined

    def _scatter(self, blocks: list[Block]) -> float:
        """Of single losses: from neighbouring blocks, whose differences hold noise and next to no trend."""
        steps = [later.mean - earlier.mean for earlier, later in pairwise(blocks)]
        return sqrt(sum(step**2 for step in steps) / (2 * len(steps)) * blocks[0].count)
