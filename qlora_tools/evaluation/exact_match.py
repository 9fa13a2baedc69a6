"""Exact match: the share of answers that equal their reference."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ExactMatch:
    """Answers equal to their reference after stripping white space at both ends."""

    matches: int
    total: int

    @property
    def percent(self) -> float:
        """Share of matches, 0 to 100."""
        return 100 * self.matches / self.total


def exact_match(answers: Sequence[str], references: Sequence[str]) -> ExactMatch:
    """Count the answers that equal the reference at the same place."""
    pairs = zip(answers, references, strict=True)
    return ExactMatch(sum(answer.strip() == reference.strip() for answer, reference in pairs), len(references))
