"""What the training loss tells: it leaves what was learnt, or is zero or no number."""

from collections import deque
from math import inf, sqrt
from statistics import median

from .metrics import Record
from .notices import Notice

_WINDOW, _LONGEST_WINDOW = 10, 30
# From a mean deviation to a standard deviation, and from the error of a mean to that of a median.
_SPREAD = 1.25
_ZEROS = 3
_ZERO_BEFORE = 0.05


class Divergence:
    """The loss rises far above the best level that the run had."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_LONGEST_WINDOW)
        self._best = inf
        self._best_step = 0
        self._deviation = 0.0
        self._count = 0

    def look(self, record: Record) -> Notice | None:
        """A rise by half of the best level, by 0.5 at least, and by more than medians of a scattering loss differ."""
        if record.get("loss") is None:
            return None
        loss, step = float(record["loss"]), int(record["step"])
        window = min(_LONGEST_WINDOW, max(_WINDOW, self._count // 5))
        self._count += 1
        # The scatter around the median before it, of the last hundred losses or so.
        level = self._level(window) if self._recent else loss
        self._deviation += (abs(loss - level) - self._deviation) / min(self._count, 100)
        self._recent.append(loss)
        if self._count < _WINDOW:
            return None
        level = self._level(window)
        if level < self._best:
            self._best, self._best_step = level, step
        # The least and the largest of many medians lie some eight of their standard errors apart.
        margin = max(0.5, 0.5 * self._best, 8 * _SPREAD * _SPREAD * self._deviation / sqrt(window))
        return self._notice(step, level) if level > self._best + margin else None

    def _level(self, window: int) -> float:
        return median(list(self._recent)[-window:])

    def _notice(self, step: int, level: float) -> Notice:
        return Notice(
            "divergence",
            step,
            f"The loss diverges: it is {level:.3f} (median of the last steps) at step {step}, after {self._best:.3f} at step "
            f"{self._best_step}.",
            "Stop, and run again with a training.learning_rate of a half to a fifth; a larger training.warmup_fraction, a "
            "smaller training.max_gradient_norm or more training.gradient_accumulation_steps steady it too.",
        )


class LossNumber:
    """The loss is no number, or all at once nothing but zero."""

    def __init__(self) -> None:
        self._zeros = 0
        self._before: float | None = None

    def look(self, record: Record) -> Notice | None:
        """null at once; zero after three in a row, unless the loss had come close to it by itself."""
        if "loss" not in record:
            return None
        loss, step = record["loss"], int(record["step"])
        if loss is None:
            return _not_a_number(step)
        if loss > 0:
            self._zeros, self._before = 0, float(loss)
            return None
        self._zeros += 1
        learnt = self._before is not None and self._before < _ZERO_BEFORE
        return None if learnt or self._zeros < _ZEROS else self._zero(step)

    def _zero(self, step: int) -> Notice:
        since = "since the first step" if self._before is None else f"after {self._before:.3f}"
        return Notice(
            "loss_zero",
            step,
            f"The loss is exactly 0 at step {step}, {self._zeros} times in a row, {since}: nothing is learnt.",
            "See which tokens count with `qlora data inspect`: data.loss_on and data.columns decide it. With "
            "quantization.compute_dtype: float16 gradients may underflow: use bfloat16 or float32.",
        )


def _not_a_number(step: int) -> Notice:
    return Notice(
        "loss_not_a_number",
        step,
        f"The loss at step {step} is no number (NaN or infinity): every step after it destroys the adapter.",
        "Go back to an earlier checkpoint with a lower training.learning_rate or training.max_gradient_norm, or with "
        "quantization.compute_dtype: bfloat16 or float32.",
    )
