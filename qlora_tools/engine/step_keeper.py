"""Knows, at every moment of a fit, the state after the last whole step: what a stop, a crash or a recovery goes back to."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from transformers import TrainerCallback

from ..events import StopAsked
from ..results import Recovery
from .random_state import RandomState
from .saving import CheckpointSaver
from .training_state import BestEvaluation, LoopState, MicroBatches, TrainingState

Phase = Literal["warm-up", "a training step", "the optimiser", "evaluation"]
# What may lack memory, and computing it once to find out.
Trial = tuple[Phase, Callable[[LoopState], None]]
# A norm that is this many times the usual one, and large in itself, is no batch that is merely hard.
_EXPLOSION = 1000.0
_LEAST_EXPLODED_NORM = 1000.0
_STEPS_TO_KNOW = 20
# GradScaler skips steps while it looks for its scale; more in a row means that no scale helps.
_MOST_SKIPPED_STEPS = 30


class StepsEnded(Exception):  # noqa: N818 - no error: it leaves the trainer's loop
    """The loop is left between two micro-batches: because a stop was `asked` for, or because all is done."""

    def __init__(self, *, asked: bool) -> None:
        super().__init__()
        self.asked = asked


class BadStep(Exception):  # noqa: N818 - the run's end is told as CheckFailed
    """A step whose loss or gradient cannot be used; it was not applied."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(what)
        self.step = step
        self.what = what


class StepKeeper(TrainerCallback):
    """Takes the state of each step's end, saves those that are due, and leaves the loop where that is asked for."""

    def __init__(
        self,
        saver: CheckpointSaver,
        stop: StopAsked,
        best: BestEvaluation,
        cut: MicroBatches,
        recoveries: Sequence[Recovery],
    ) -> None:
        self._saver = saver
        self._stop = stop
        self._best = best
        self._cut = cut
        self._recoveries = recoveries
        self._norms = _UsualNorm()
        self._skipped = 0
        self._due = False
        self._trainer: Any = None
        self._start: TrainingState | None = None
        self._trials: Sequence[Trial] = ()
        self._random_to_put: RandomState | None = None
        self.loop: LoopState | None = None
        self.phase: Phase = "warm-up"

    def attach(self, trainer: Any, start: TrainingState | None, trials: Sequence[Trial]) -> None:
        """Watch `trainer`, which is to go on from `start`; the trials are made before its first step."""
        self._trainer, self._start, self._trials = trainer, start, trials

    def until_the_end(self) -> None:
        """Train; raises `StepsEnded` where a stop was asked for, `BadStep`, and what the trainer raises."""
        try:
            self._trainer.train()
        except StepsEnded as ended:
            if ended.asked:
                raise

    def state(self) -> TrainingState:
        """The whole state after the last step; right as long as the optimiser was not interrupted."""
        assert self.loop is not None
        state = TrainingState.take(self._trainer, self.loop, self._cut, self._best)
        return replace(state, recoveries=tuple(one.model_dump() for one in self._recoveries))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The trainer has its optimiser and schedule, and no row yet."""
        trainer, start = self._trainer, self._start
        if start is None:
            self.loop = LoopState(0, RandomState.take(), torch.zeros_like(trainer._tr_loss), last_logged=0)
        else:
            start.put(trainer)
            self.loop = start.loop
            self._norms.known = start.loop.usual_norm
        for phase, trial in self._trials:
            self.phase = phase
            trial(self.loop)
        if self.loop.evaluation_due:
            self.phase = "evaluation"
            self.loop.random.put()
            trainer.evaluate()
        if start is not None:
            # Making the loader draws a number: the random state is put when the first batch is there.
            self._random_to_put = self.loop.random

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between two steps: everything that belongs to the last one is done."""
        if self._random_to_put is not None:
            self._random_to_put.put()
            self._random_to_put = None
        self._save_if_due()
        self._leave_if_asked()
        if self._best.stopped_early:
            raise StepsEnded(asked=False)
        self.phase = "a training step"

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between two micro-batches of a step."""
        self._leave_if_asked()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between two micro-batches of an evaluation."""
        self._leave_if_asked()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The last moment at which a loss that is no number has destroyed nothing."""
        loss = self._trainer._tr_loss
        if not torch.isfinite(loss):  # one device sync per step; the clipping has waited for the GPU already
            raise BadStep(state.global_step + 1, f"the loss is {loss.item()}")
        self.phase = "the optimiser"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The step is applied."""
        self.loop = self._loop_after(state.global_step, logs=control.should_log, evaluates=control.should_evaluate)
        self._due = self._due or self._saver.is_due(state.global_step)
        self.phase = "evaluation"

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        """The evaluation of this step is done."""
        assert self.loop is not None
        self.loop = replace(self.loop, evaluation_due=False, random=RandomState.take())
        self._due = self._due or self._best.step == self.loop.step
        if self._best.stopped_early:
            control.should_training_stop = True

    def watched_norm(self, norm: Any, scaled: bool) -> Any:
        """Look at the gradient norm of a step before it is applied, and hand it on.

        `scaled` says that GradScaler skips steps whose norm is no number. Raises `BadStep`.
        """
        value = float(norm)  # one device sync per step
        step = self._trainer.state.global_step + 1
        self._skipped = 0 if math.isfinite(value) else self._skipped + 1
        if not math.isfinite(value) and not (scaled and self._skipped <= _MOST_SKIPPED_STEPS):
            loss = float(self._trainer._tr_loss)
            raise BadStep(step, f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {value}")
        if self._norms.is_explosion(value):
            raise BadStep(step, f"the gradient norm jumped to {value:.3g} from usually {self._norms.usual:.3g}")
        return norm

    def _loop_after(self, step: int, *, logs: bool, evaluates: bool) -> LoopState:
        trainer = self._trainer
        window = torch.zeros_like(trainer._tr_loss) if logs else trainer._tr_loss.detach().clone()
        return LoopState(
            step=step,
            random=RandomState.take(),
            window_loss=window,
            last_logged=step if logs else trainer._globalstep_last_logged,
            tokens=int(trainer._total_train_tokens),
            window_metrics={} if logs else {name: list(values) for name, values in trainer._metrics["train"].items()},
            evaluation_due=evaluates,
            usual_norm=self._norms.known,
        )

    def _save_if_due(self) -> None:
        if self._due:
            self._due = False
            self._saver.save(self.state())

    def _leave_if_asked(self) -> None:
        if self._stop():
            raise StepsEnded(asked=True)


class _UsualNorm:
    """A slow mean of the logarithm of gradient norms: what is usual in this run."""

    def __init__(self) -> None:
        self.known = (0.0, 0)

    @property
    def usual(self) -> float:
        """The usual norm."""
        return math.exp(self.known[0])

    def is_explosion(self, norm: float) -> bool:
        """Whether `norm` is far out of the usual; remembers it where it is not."""
        if not math.isfinite(norm) or norm <= 0:
            return False
        mean, seen = self.known
        if seen >= _STEPS_TO_KNOW and norm > _LEAST_EXPLODED_NORM and norm > _EXPLOSION * self.usual:
            return True
        self.known = (mean + (math.log(norm) - mean) / min(seen + 1, 100), seen + 1)
        return False
