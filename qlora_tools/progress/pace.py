"""How fast a run goes now, and how long it will take."""

from collections import deque
from collections.abc import Sequence
from statistics import fmean, median

_RECENT = 20
# Of the recent steps: the slowest and the fastest fifth say nothing about the pace.
_LEFT_OUT = 0.2
# A pause shorter than this share of a step is part of stepping: logging, reading a clock.
_LEAST_PAUSE = 0.5
_LEAST_PAUSES = 2


class Pace:
    """The pace of the last 20 steps that were told. Pauses between steps, for evaluations and checkpoints, count apart."""

    def __init__(self, planned_steps: int) -> None:
        self._planned_steps = planned_steps
        self._step: int | None = None
        self._clock = 0.0
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self._pauses: deque[float] = deque(maxlen=_RECENT)
        self._pause_count = 0
        self._steps_seen = 0

    def feed(self, step: int, seconds: float, *, step_seconds: float | None = None) -> None:
        """Tell that `step` was done when the clock of this attempt stood at `seconds`.

        `step_seconds` is what one step took, where it was measured; the rest of the time since the last call is a pause.
        The same step once more means that all the time since was a pause. A clock or a step that goes back begins anew.
        """
        before, self._step = self._step, step
        passed, self._clock = seconds - self._clock, seconds
        if before is None or step < before or passed < 0:
            if step_seconds is not None and step_seconds >= 0:
                self._steps.append(step_seconds)
            return
        self._count(step - before, passed, step_seconds)

    def _count(self, done: int, passed: float, step_seconds: float | None) -> None:
        if done and (step_seconds is None or step_seconds < 0):
            self._steps.append(passed / done)
            stepping = min(passed, 2 * done * (self.step_seconds or 0.0))
        else:
            stepping = done * (step_seconds or 0.0)
            self._steps.extend([step_seconds] if done and step_seconds is not None else [])
        self._steps_seen += done
        pause = passed - stepping
        if pause > _LEAST_PAUSE * (self.step_seconds or 0.0) and pause > 0:
            self._pauses.append(pause)
            self._pause_count += 1

    @property
    def step_seconds(self) -> float | None:
        """Seconds of a recent step: the mean of the middle three fifths, so that a few odd ones change nothing."""
        return _middle_mean(self._steps) if self._steps else None

    @property
    def pause_seconds(self) -> float:
        """Seconds of pauses to expect for each step: none before the second pause, which shows that they come again."""
        if self._pause_count < _LEAST_PAUSES or not self._steps_seen:
            return 0.0
        return median(self._pauses) * min(1.0, self._pause_count / self._steps_seen)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the last planned step at the recent pace; None before a pace is known."""
        if self.step_seconds is None or self._step is None:
            return None
        return max(0, self._planned_steps - self._step) * (self.step_seconds + self.pause_seconds)


def _middle_mean(values: Sequence[float]) -> float:
    cut = int(len(values) * _LEFT_OUT)
    # Of three or four the middle ones: a first step takes several times as long.
    cut = max(cut, 1) if len(values) >= 3 else cut
    return fmean(sorted(values)[cut : len(values) - cut])
