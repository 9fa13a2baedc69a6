"""Which earlier row nearly says the same: candidates by MinHash, each verified exactly."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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
_MOST_CANDIDATES = 20


@dataclass(frozen=True)
class NearPair:
    """A row, and an earlier one that nearly says the same."""

    row: CheckedRow
    earlier: CheckedRow


class NearIndex:
    """Rows to compare with. Sequences that many of `like` share do not count: a common instruction is no repetition."""

    def __init__(self, like: Sequence[CheckedRow]) -> None:
        from rensa import RMinHashLSH

        self.compared = 0
        self._common = _common_sequences(like)
        self._index: Any = RMinHashLSH(NEAR, _PERMUTATIONS, _BANDS)
        self._rows: list[CheckedRow] = []
        self._last: tuple[CheckedRow | None, frozenset[str]] = (None, frozenset())

    def nearest(self, row: CheckedRow) -> NearPair | None:
        """An indexed row that is near this one."""
        own = self._own_sequences(row)
        if not own:
            return None
        self.compared += 1
        for place in sorted(self._index.query(_min_hash(own)))[:_MOST_CANDIDATES]:
            other = self._own_sequences(self._rows[place])
            if len(own & other) >= NEAR * len(own | other):
                return NearPair(row, self._rows[place])
        return None

    def add(self, row: CheckedRow) -> None:
        """Index a row, if it is long enough to be compared."""
        if own := self._own_sequences(row):
            self._index.insert(len(self._rows), _min_hash(own))
            self._rows.append(row)

    def _own_sequences(self, row: CheckedRow) -> frozenset[str]:
        # Asked for twice in a row, by `nearest` and `add`.
        if self._last[0] is not row:
            found = _sequences(row) - self._common
            self._last = (row, found if len(found) >= _LEAST_OWN else frozenset())
        return self._last[1]


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
