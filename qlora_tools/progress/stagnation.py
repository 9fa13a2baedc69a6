"""The loss no longer moves though the learning rate would move it, or has not moved since the start."""

from collections import deque
from math import inf

from .blocks import Blocks
from .metrics import Record
from .notices import Notice

_LEAST_LOSSES = 30
_BEGINNING = 0.05
_LEARNT, _LEARNT_SHARE = 0.1, 0.2
# How far, as shares of the level, a loss may fall and still count as unmoved: as measured, and at most.
_UNMOVED = 0.005
_AT_MOST, _AT_MOST_BY_EVALUATION = 0.015, 0.025
_GONE = 0.98
_EVALUATIONS, _LEAST_EVALUATIONS = 100, 3


class Stagnation:
    """Asks a straight line through the last half of the losses by how much they fell, and how sure that is.

    What noise may hide is not told, and neither is a loss that is low because the task is learnt.
    """

    def __init__(self, planned_steps: int) -> None:
        self._planned_steps = max(1, planned_steps)
        self._blocks = Blocks(beginning=min(100, max(10, planned_steps // 100)))
        self._peak_rate = 0.0
        self._rate = 0.0
        self._evaluations: deque[tuple[int, float]] = deque(maxlen=_EVALUATIONS)
        self._first_step: int | None = None
        self._seen: Notice | None = None
        self._level_then = inf

    def look(self, record: Record) -> Notice | None:
        """What was seen when the last block of losses was complete."""
        step = int(record["step"])
        if record.get("evaluation_loss") is not None:
            self._evaluations.append((step, float(record["evaluation_loss"])))
        self._rate = float(record.get("learning_rate") or self._rate)
        self._peak_rate = max(self._peak_rate, self._rate)
        if self._first_step is None:
            self._first_step = step
        if record.get("loss") is not None and self._blocks.add(step, float(record["loss"])):
            self._decide(step)
        return self._seen

    def _decide(self, step: int) -> None:
        """What was told stands until the loss is clearly lower: on the border it would come and go."""
        judged, level = self._judge(step), self._blocks.level
        if judged is not None and self._seen is None:
            self._level_then = level
        if judged is not None or level < _GONE * self._level_then:
            self._seen = judged

    def _judge(self, step: int) -> Notice | None:
        if self._blocks.count < _LEAST_LOSSES or self._blocks.level < _LEARNT:
            return None
        return self._not_learning(step) or self._plateau(step)

    def _not_learning(self, step: int) -> Notice | None:
        level, start = self._blocks.level, self._blocks.start
        # Seen from the middle of a run on, its start is not known.
        began_late = (self._first_step or 0) > max(1, _BEGINNING * self._planned_steps)
        if began_late or step < 0.3 * self._planned_steps or level < 0.5 or self._evaluation_moved(0):
            return None
        fall, doubt = self._blocks.fall_since_start()
        later_fall, later_doubt = self._blocks.fall_since_first_eighth()
        is_unmoved = abs(fall) < 0.015 * level and abs(fall) + 2 * doubt < 0.05 * level
        if not is_unmoved or abs(later_fall) + 2 * later_doubt >= 0.025 * level:
            return None
        return Notice(
            "not_learning",
            step,
            f"Nothing is learnt so far: the loss is {level:.3f} at step {step} and was {start:.3f} at the start.",
            "Raise training.learning_rate (2e-4 is usual for LoRA), see with `qlora data inspect` that the answers are what "
            "is learnt (data.loss_on), and take lora.target_modules: all-linear.",
        )

    def _plateau(self, step: int) -> Notice | None:
        share, level = step / self._planned_steps, self._blocks.level
        if self._blocks.count < 100 or not 0.4 <= share <= 0.8 or self._rate < 0.2 * self._peak_rate:
            return None
        fall, doubt, steps = self._blocks.fall_of_last_half()
        moved = self._evaluation_moved(step - steps)
        at_most = _AT_MOST if moved is None else _AT_MOST_BY_EVALUATION
        is_flat = abs(fall) < _UNMOVED * level and abs(fall) + 2 * doubt < at_most * level
        if moved or not is_flat or level < _LEARNT_SHARE * self._blocks.start:
            return None
        return Notice(
            "plateau",
            step,
            f"The loss stands still: {level:.3f} at step {step}, and {abs(fall) / level:.1%} of change in the last "
            f"{steps:,} steps; {self._planned_steps - step:,} are left.",
            "If the evaluation stands still too, stop here: more steps cost time and change little. For a lower loss "
            "raise lora.rank or training.learning_rate, or add rows; fewer training.epochs end it sooner.",
        )

    def _evaluation_moved(self, since: int) -> bool | None:
        """Whether the evaluation loss moved by 0.5 % after step `since`; None where too few evaluations tell."""
        losses = [loss for step, loss in self._evaluations if step >= since]
        if len(losses) < _LEAST_EVALUATIONS:
            return None
        return abs(losses[0] - losses[-1]) > _UNMOVED * losses[0]
