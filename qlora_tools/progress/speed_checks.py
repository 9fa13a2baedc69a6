"""What makes a run slow while it goes: waiting for rows, and steps that take longer than they did."""

from collections import deque
from statistics import median

from .metrics import Record
from .notices import Notice

_WINDOW = 20
# The first steps allocate, compile and fill caches.
_FIRST_STEPS = 3
_MOST_WAITING, _WAITING_IS_OVER = 0.3, 0.15
_SLOWER, _SLOWER_IS_OVER = 1.5, 1.2
_MOST_WINDOWS = 50
_LEAST_SECONDS = 0.01


class SlowData:
    """The device waits for rows in a good part of each step."""

    def __init__(self) -> None:
        self._shares: deque[float] = deque(maxlen=_WINDOW)
        self._skipped = 0
        self._is_slow = False

    def look(self, record: Record) -> Notice | None:
        """The median share of the last twenty steps that was spent waiting."""
        if record.get("event") == "resumed":
            self._skipped = 0
            self._shares.clear()
        waited, took = record.get("data_seconds"), record.get("step_seconds")
        if waited is None or not took or took < _LEAST_SECONDS:
            return None if not self._is_slow else self._notice(int(record["step"]))
        self._skipped += 1
        if self._skipped > _FIRST_STEPS:
            self._shares.append(waited / took)
        if len(self._shares) < _WINDOW:
            return None
        self._is_slow = median(self._shares) > (_WAITING_IS_OVER if self._is_slow else _MOST_WAITING)
        return self._notice(int(record["step"])) if self._is_slow else None

    def _notice(self, step: int) -> Notice:
        return Notice(
            "slow_data",
            step,
            f"Steps wait for their rows: {median(self._shares):.0%} of the last {_WINDOW} steps' time (at step {step}).",
            "Stop other work on the CPUs, and put data and cache on a local disk. Fewer, fuller batches are made faster: "
            "training.packing: bins, or fewer training.gradient_accumulation_steps with a larger training.micro_batch_size.",
        )


class SlowSteps:
    """Steps take much longer than they did earlier in this attempt, and not because they hold more tokens."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._window: list[tuple[float, float | None]] = []
        self._medians: list[tuple[float, float | None]] = []
        self._slow_windows = 0
        self._skipped = 0
        self._seen: Notice | None = None

    def look(self, record: Record) -> Notice | None:
        """Two windows of twenty steps in a row, each half as slow again as the usual one, at a lower rate of tokens."""
        if record.get("event") == "resumed":
            self._begin()
        took = record.get("step_seconds")
        if took is None or took < _LEAST_SECONDS:
            return self._seen
        self._skipped += 1
        if self._skipped > _FIRST_STEPS:
            self._window.append((float(took), record.get("tokens_per_second")))
        if len(self._window) == _WINDOW:
            self._seen = self._judge(int(record["step"]), _medians(self._window))
            self._window.clear()
        return self._seen

    def _judge(self, step: int, now: tuple[float, float | None]) -> Notice | None:
        if not self._medians:
            self._medians.append(now)
            return None
        usual = _medians(self._medians)
        factor = _SLOWER_IS_OVER if self._seen else _SLOWER
        slow = now[0] > factor * usual[0] and (now[1] is None or usual[1] is None or now[1] * factor < usual[1])
        self._slow_windows = self._slow_windows + 1 if slow else 0
        if not slow and len(self._medians) < _MOST_WINDOWS:
            self._medians.append(now)
        return self._notice(step, now[0], usual[0]) if self._slow_windows >= (1 if self._seen else 2) else None

    def _notice(self, step: int, now: float, usual: float) -> Notice:
        return Notice(
            "slow_steps",
            step,
            f"Steps became slow: {now:.2f} s now (at step {step}), {usual:.2f} s before.",
            "See in nvidia-smi whether another process uses this GPU, or whether it is hot and slowed down. On a GPU that is "
            "nearly full a paged training.optimizer moves its states to and fro: lower training.micro_batch_size or "
            "training.max_length_tokens.",
        )


def _medians(values: list[tuple[float, float | None]]) -> tuple[float, float | None]:
    """Of the seconds, and of the tokens a second where they are known."""
    rates = [rate for _, rate in values if rate is not None]
    return median(seconds for seconds, _ in values), median(rates) if rates else None
