"""What gradients and evaluations tell: explosions, and rows that are learnt by heart."""

from collections import deque
from math import inf
from statistics import median

from .metrics import Record
from .notices import Notice

_TYPICAL = 100
_LATELY = 20
_LEAST_TYPICAL = 20
_TIMES = 10
_LEAST_LARGE = 5


class Explosion:
    """Gradients many times longer than they were, again and again: single long ones are usual and are clipped."""

    def __init__(self, max_gradient_norm: float) -> None:
        self._limit = max_gradient_norm
        self._typical: deque[float] = deque(maxlen=_TYPICAL)
        self._large: deque[bool] = deque(maxlen=_LATELY)
        self._median = inf

    def look(self, record: Record) -> Notice | None:
        """Five of the last twenty norms are no numbers, or clipped and ten times the usual norm."""
        if "gradient_norm" not in record:
            return None
        norm = inf if record["gradient_norm"] is None else float(record["gradient_norm"])
        large = norm == inf or (norm > _TIMES * self._median and norm > self._limit)
        self._large.append(large)
        if not large:
            self._typical.append(norm)
            if len(self._typical) >= _LEAST_TYPICAL:
                self._median = median(self._typical)
        count = sum(self._large)
        return self._notice(int(record["step"]), norm, count) if count >= _LEAST_LARGE else None

    def _notice(self, step: int, norm: float, count: int) -> Notice:
        usual = "" if self._median == inf else f", where {self._median:.2g} is usual"
        last = "no number" if norm == inf else f"{norm:.3g}"
        return Notice(
            "gradient_explosion",
            step,
            f"Gradients explode: {count} of the last {len(self._large)} norms are far too long, the last one at step {step} "
            f"is {last}{usual}.",
            "Lower training.learning_rate or training.max_gradient_norm, raise training.warmup_fraction, and take "
            "quantization.compute_dtype: bfloat16 where the GPU has it.",
        )


class Overfitting:
    """Training goes on falling while the evaluation rises."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_LATELY)
        self._best = inf
        self._best_step = 0
        self._training_then = inf
        self._earlier_rise = 0.0
        self._seen: Notice | None = None

    def look(self, record: Record) -> Notice | None:
        """What the last evaluation said."""
        if record.get("loss") is not None:
            self._losses.append(float(record["loss"]))
        if record.get("evaluation_loss") is not None and self._losses:
            self._seen = self._judge(int(record["step"]), float(record["evaluation_loss"]))
        return self._seen

    def _judge(self, step: int, evaluation: float) -> Notice | None:
        training = sum(self._losses) / len(self._losses)
        if evaluation <= self._best:
            self._best, self._best_step, self._training_then = evaluation, step, training
            self._earlier_rise = 0.0
            return None
        rise, earlier = evaluation - self._best, self._earlier_rise
        self._earlier_rise = rise
        slight, clear = max(0.02, 0.04 * self._best), max(0.05, 0.1 * self._best)
        fell = self._training_then - training
        lasting = min(rise, earlier) > slight and fell > max(0.02, 0.04 * self._training_then)
        sudden = rise > clear and fell > max(0.05, 0.1 * self._training_then)
        return self._notice(step, evaluation, training) if lasting or sudden else None

    def _notice(self, step: int, evaluation: float, training: float) -> Notice:
        return Notice(
            "overfitting",
            step,
            f"The rows are being learnt by heart: the evaluation rose from {self._best:.3f} at step {self._best_step} to "
            f"{evaluation:.3f} at step {step}, while training fell from {self._training_then:.3f} to {training:.3f}.",
            f"The best adapter is that of step {self._best_step} (training.keep_best keeps it). Stop here, or next time set "
            "training.early_stopping_patience, fewer training.epochs, a smaller lora.rank, some lora.dropout or "
            "training.weight_decay, or add rows.",
        )
