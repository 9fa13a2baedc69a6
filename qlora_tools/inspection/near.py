"""Which earlier row nearly says the same: candidates by MinHash, each verified exactly."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .rows import CheckedRow, words_of

REQUIRED_LIBRARIES = ("rensa",)
NEAR = 0.85  # of the three-word sequences that either row has, those that both have
LEAST_WORDS = 15
_LEAST_OWN = 12  # sequences that are not shared with many rows
_TOGETHER = 3
_PERMUTATIONS, _BANDS, _SEED = 128, 16, 4  # a pair at 0.85 is missed once in 150 times
_SHARED = 0.2  # a sequence in more of the rows than this belongs to a template, as an instruction that all share
_SAMPLED = 400
_LIKELY = 0.75  # estimated; three standard errors below a true 0.85
_MOST_CANDIDATES, _MOST_COMPARED = 500, 10


@dataclass(frozen=True)
class NearPair:
    """A row, and an earlier one that nearly says the same."""

    row: CheckedRow
    earlier: CheckedRow


@dataclass(frozen=True)
class _Sketch:
    """What of a row is compared; no sequences where it is too short."""

    row: CheckedRow
    sequences: frozenset[str]
    signature: Any


class NearIndex:
    """Rows to compare with. Sequences that many of `like` share do not count: a common instruction is no repetition."""

    def __init__(self, like: Sequence[CheckedRow]) -> None:
        from rensa import RMinHashLSH

        self.compared = 0
        self._common = _common_sequences(like)
        self._index: Any = RMinHashLSH(NEAR, _PERMUTATIONS, _BANDS)
        self._rows: list[tuple[CheckedRow, Any]] = []
        self._last: _Sketch | None = None

    def nearest(self, row: CheckedRow) -> NearPair | None:
        """An indexed row that is near this one."""
        sketch = self._sketch(row)
        if not sketch.sequences:
            return None
        self.compared += 1
        for other in self._likely(sketch.signature):
            found = _sequences(other) - self._common
            if len(sketch.sequences & found) >= NEAR * len(sketch.sequences | found):
                return NearPair(row, other)
        return None

    def add(self, row: CheckedRow) -> None:
        """Index a row, if it is long enough to be compared."""
        sketch = self._sketch(row)
        if sketch.sequences:
            self._index.insert(len(self._rows), sketch.signature)
            self._rows.append((row, sketch.signature))

    def _likely(self, signature: Any) -> Iterator[CheckedRow]:
        """Candidates whose signatures agree well enough to be worth an exact comparison, earliest first."""
        places = sorted(self._index.query(signature))[:_MOST_CANDIDATES]
        likely = (row for row, other in map(self._rows.__getitem__, places) if signature.jaccard(other) >= _LIKELY)
        return islice(likely, _MOST_COMPARED)

    def _sketch(self, row: CheckedRow) -> _Sketch:
        # Asked for twice in a row, by `nearest` and `add`.
        if self._last is None or self._last.row is not row:
            own = _sequences(row) - self._common
            own = own if len(own) >= _LEAST_OWN else frozenset()
            self._last = _Sketch(row, own, _min_hash(own))
        return self._last


def _min_hash(sequences: frozenset[str]) -> Any:
    from rensa import RMinHash

    signature = RMinHash(_PERMUTATIONS, _SEED)
    signature.update(list(sequences))
    return signature


def _sequences(row: CheckedRow) -> frozenset[str]:
    words = words_of(row)
    if len(words) < LEAST_WORDS:
        return frozenset()
    return frozenset(map(" ".join, zip(*(words[place:] for place in range(_TOGETHER)), strict=False)))


def _common_sequences(rows: Sequence[CheckedRow]) -> frozenset[str]:
    step = max(1, len(rows) // _SAMPLED)
    sampled = [found for row in rows[::step] if (found := _sequences(row))]
    counts = Counter(sequence for found in sampled for sequence in found)
    least = max(5.0, _SHARED * len(sampled))
    return frozenset(sequence for sequence, count in counts.items() if count > least)
