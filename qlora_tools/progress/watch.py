"""Looks at each record of a run as it comes, and says once what is wrong and what to do."""

from typing import Protocol

from .gradient_checks import Explosion, Overfitting
from .loss_checks import Divergence, LossNumber
from .metrics import Record, known_value
from .notices import Notice
from .speed_checks import SlowData, SlowSteps
from .stagnation import Stagnation

# What was noticed has gone away when this many records in a row say nothing of it.
_QUIET_RECORDS = 50


class _Check(Protocol):
    def look(self, record: Record) -> Notice | None:
        """What is wrong as of `record`, None when nothing is."""


class CourseWatch:
    """Fed with every record of a run in order, tells each thing once; again only after it went away.

    `max_gradient_norm` is the norm that gradients are clipped to. A feed costs microseconds, however long the run.
    """

    def __init__(self, planned_steps: int, *, max_gradient_norm: float = 1.0) -> None:
        self._checks: tuple[_Check, ...] = (
            LossNumber(),
            Divergence(),
            Explosion(max_gradient_norm),
            Overfitting(),
            Stagnation(planned_steps),
            SlowData(),
            SlowSteps(),
        )
        # By kind: for how many records in a row it was not seen.
        self._quiet: dict[str, int] = {}

    def feed(self, record: Record) -> list[Notice]:
        """What `record`, a line of the metrics file, shows that was not told yet. NaN and infinity count as null."""
        known = {key: known_value(value) for key, value in record.items()}
        seen = [notice for check in self._checks if (notice := check.look(known)) is not None]
        new = [notice for notice in seen if notice.kind not in self._quiet]
        kinds = {notice.kind for notice in seen}
        quiet = {kind: 0 if kind in kinds else count + 1 for kind, count in self._quiet.items()}
        self._quiet = {kind: count for kind, count in quiet.items() if count < _QUIET_RECORDS}
        self._quiet.update((kind, 0) for kind in kinds)
        return new
