"""Training from a state to the end: one trainer after another, since a run that lacks memory goes on with a smaller cut."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import extract_model_from_parallel

from ..checkpoints import problem_of
from ..disk import DISK_FULL
from ..durable import as_json, replace_file
from ..errors import CheckFailed, MachineError, RunStopped
from ..events import RunEvent
from ..progress.watch import CourseWatch
from ..results import Recovery
from ..run_output import BAD_STEP_FILE, METRICS_FILE, SAMPLES_FILE
from .callbacks import BestWatch, SampleWriter, sample_prompts
from .device import forget_optimised_modules, memory_summary, release_memory
from .metrics_writer import MetricsWriter
from .micro_batches import cut_bins, first_cut, smaller_cut
from .saving import CheckpointSaver, os_words
from .step_keeper import BadStep, Phase, StepKeeper, StepsEnded, Trial
from .training_state import (
    BestEvaluation,
    TrainingState,
    load_state,
    load_weights,
    put_weights,
    require_space,
    trained_weights,
)
from .warm_up import try_evaluation, try_training

if TYPE_CHECKING:
    from .fit import Fit

_MOST_RECOVERIES = 3


@dataclass(frozen=True)
class Outcome:
    """How a fit went. `tokens` and `seconds` are those of this attempt."""

    metrics: MetricsWriter
    best: BestEvaluation
    steps: int
    saved_step: int
    seconds: float
    tokens: int
    recoveries: list[Recovery]


@dataclass(frozen=True)
class _Lack:
    """Where the GPU ran out of memory, what torch said of it, and the state to go on from, None at the start."""

    during: Phase
    summary: str
    state: TrainingState | None


class TrainingLoop:
    """The steps of one fit on one model."""

    def __init__(self, fit: "Fit", model: Any, tokenizer: Any) -> None:
        training, start = fit.config.training, fit.start
        self._fit, self._model, self._tokenizer = fit, model, tokenizer
        self._state = start
        self._cut = start.cut if start else first_cut(training)
        self._best = replace(start.best) if start else BestEvaluation()
        self._recoveries = [Recovery(**one) for one in start.recoveries] if start else []
        self._recovered_here = 0
        steps = fit.training_set.steps
        watch = CourseWatch(steps, max_gradient_norm=training.max_gradient_norm)
        self._metrics = MetricsWriter(
            fit.output / METRICS_FILE, fit.hardware, fit.on_event, watch, steps, fit.epochs_per_step
        )
        self._saver = CheckpointSaver(
            fit.output,
            fit.identity,
            keep=fit.config.output.keep_checkpoints,
            every_steps=training.checkpoint_every_steps,
            on_event=fit.on_event,
        )
        self._saver.before = self._metrics.sync
        # What the first step begins with: an optimiser that lacks memory may leave the weights half changed.
        keeps = fit.hardware.kind == "cuda" and start is None
        self._first_weights = (
            {name: w.to("cpu", copy=True) for name, w in trained_weights(model).items()} if keeps else {}
        )

    def run(self) -> Outcome:
        """Train, evaluate at the end, and put the best adapter back where that is asked for.

        Raises `RunStopped`, `CheckFailed`, `MachineError`; each after the last whole step was saved, where there is one.
        """
        began, first_tokens = time.monotonic(), 0
        if self._state is not None:
            first_tokens = self._state.loop.tokens
            self._saver.last = self._saver.place_of(self._state.loop.step)
            self._metrics.go_on_from(self._state.loop.step, first_tokens)
        if not self._fit.throw_away:
            # Weights, and an optimiser of at most twice their size: what the first checkpoint takes.
            require_space(self._fit.output, 3 * sum(w.nbytes for w in trained_weights(self._model).values()))
        for warning in self._fit.warnings(self._model):
            self._metrics.warn(warning, 0)
        try:
            while (lack := self._attempt()) is not None:
                self._go_on_smaller(lack)
        finally:
            self._metrics.close()
            forget_optimised_modules()
        assert self._state is not None
        steps = self._state.loop.step
        return Outcome(
            self._metrics,
            self._best,
            steps=steps,
            saved_step=self._put_best(steps),
            seconds=time.monotonic() - began,
            tokens=self._metrics.tokens - first_tokens,
            recoveries=self._recoveries,
        )

    def _attempt(self) -> _Lack | None:
        """Train with one trainer until the end; returns what was lacking where the memory of the GPU was."""
        keeper = StepKeeper(self._saver, self._fit.stop, self._best, self._cut, tuple(self._recoveries))
        trainer = self._trainer(keeper)
        try:
            self._train(trainer, keeper)
            return None
        except torch.cuda.OutOfMemoryError:
            if self._fit.throw_away:
                raise
            state = None if keeper.phase == "the optimiser" or keeper.loop is None else keeper.state()
            return _Lack(keeper.phase, memory_summary(), state)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise self._saver.disk_full(os_words(error)) from None
        except BadStep as bad:
            raise self._refused(bad, self._saved(keeper)) from None
        except StepsEnded:
            raise RunStopped(keeper.loop.step if keeper.loop else 0, self._saved(keeper)) from None
        finally:
            extract_model_from_parallel(self._model, keep_fp32_wrapper=False)  # the next trainer wraps it again

    def _train(self, trainer: Any, keeper: StepKeeper) -> None:
        if self._is_over:
            assert self._state is not None
            put_weights(self._model, self._state.adapter)
            keeper.loop = self._state.loop
        else:
            keeper.until_the_end()
        assert keeper.loop is not None
        if self._fit.evaluation_rows is not None and keeper.loop.step not in self._metrics.evaluation_losses:
            keeper.loop = replace(keeper.loop, evaluation_due=True)
            self._saved(keeper)
            keeper.phase = "evaluation"
            trainer.evaluate()
        self._state = keeper.state()
        self._saved(keeper)

    @property
    def _is_over(self) -> bool:
        """Whether a resumed run has made all its steps already."""
        done = self._state is not None and self._state.loop.step >= self._fit.training_set.steps
        return done or self._best.stopped_early

    def _trainer(self, keeper: StepKeeper) -> Any:
        """A trainer whose rows begin where the state stands."""
        fit = self._fit
        step = 0 if self._state is None or self._is_over else self._state.loop.step
        first = step * fit.items_per_step
        rows = cut_bins(fit.training_set.rows_from(first), self._cut.bin_parts, self._tokenizer.pad_token_id)
        watch = BestWatch(self._best, fit.config.training.early_stopping_patience)
        callbacks = [watch, *self._samples(), self._metrics, keeper]
        trainer = fit.trainer(self._model, self._tokenizer, rows, self._cut, callbacks)
        keeper.attach(trainer, self._state, self._trials(trainer, first))
        return trainer

    def _samples(self) -> list[SampleWriter]:
        fit = self._fit
        wanted = fit.config.training.evaluation_samples
        if fit.evaluation_rows is None or wanted == 0:
            return []
        prompts = sample_prompts(fit.evaluation_rows.rows, wanted, self._tokenizer)
        stops = fit.training_rows.stop_token_ids
        return [SampleWriter(fit.output / SAMPLES_FILE, self._tokenizer, prompts, stops, fit.on_event)]

    def _trials(self, trainer: Any, first: int) -> list[Trial]:
        """What is tried before the first step; nothing on a CPU, where no allocation fails by itself."""
        fit = self._fit
        if fit.hardware.kind != "cuda" or fit.throw_away:
            return []
        lengths = fit.training_set.lengths[first:]
        if self._cut.bin_parts > 1:
            lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
        held = [len(row.input_ids) for row in fit.evaluation_rows.rows] if fit.evaluation_rows else []
        return [
            ("warm-up", lambda loop: try_training(trainer, loop, lengths)),
            ("evaluation", lambda loop: try_evaluation(trainer, loop, held)),
        ]

    def _saved(self, keeper: StepKeeper) -> Path | None:
        """The checkpoint of the last whole step, saved now unless it is; None before the first step."""
        if self._fit.throw_away or keeper.loop is None or keeper.loop.step == 0:
            return self._saver.last
        return self._saver.save(keeper.state())

    def _go_on_smaller(self, lack: _Lack) -> None:
        """Set up the next attempt; raises `MachineError` where nothing smaller is left, or it was tried too often."""
        self._model.zero_grad(set_to_none=True)
        release_memory()
        state = lack.state or self._last_state()
        layout, in_evaluation = self._fit.training_set.layout, lack.during == "evaluation"
        smaller = smaller_cut(self._cut, layout, in_evaluation=in_evaluation)
        self._recovered_here += 1
        step = state.loop.step if state else 0
        summary = self._fit.output / f"memory-summary-{len(self._recoveries) + 1}.txt"
        summary.write_text(lack.summary, encoding="utf-8")
        if smaller is None or self._recovered_here > _MOST_RECOVERIES:
            raise self._out_of_memory(lack, state, summary)
        self._cut = smaller
        self._recoveries.append(
            Recovery(
                step=step,
                during=lack.during,
                micro_batch_size=smaller.evaluation_size if in_evaluation else smaller.size,
                gradient_accumulation_steps=smaller.accumulation,
                memory_summary=summary.name,
            )
        )
        self._go_back_to(replace(state, cut=smaller) if state else None, whole=lack.state is not None)
        self._fit.on_event(RunEvent("warning", _told(self._recoveries[-1], self._cut.bin_parts), {"step": step}))

    def _go_back_to(self, state: TrainingState | None, *, whole: bool) -> None:
        """Stand at `state`; not `whole` says that steps after it were made and are lost."""
        self._state = state
        self._best = replace(state.best) if state else BestEvaluation()
        if state is None:
            put_weights(self._model, self._first_weights)
        if not whole:
            self._metrics.go_on_from(state.loop.step if state else 0, state.loop.tokens if state else 0)

    def _last_state(self) -> TrainingState | None:
        """The state of the last checkpoint; None where the run has to begin again."""
        return load_state(self._saver.last)[0] if self._saver.last is not None else None

    def _out_of_memory(self, lack: _Lack, state: TrainingState | None, summary: Path) -> MachineError:
        saved = self._saver.save(state) if state is not None and state.loop.step > 0 else self._saver.last
        where = f"The checkpoint of step {state.loop.step} is {saved}." if state and saved else "No step was done."
        tried = f" after {self._recovered_here - 1} smaller micro-batches" if self._recovered_here > 1 else ""
        return MachineError(
            f"The GPU ran out of memory in {lack.during}{tried}; micro-batches of {self._cut.size} cannot be halved again. "
            f"{where} {summary} has torch's account.",
            next_step="Turn training.gradient_checkpointing on, then lower training.max_length_tokens; `nvidia-smi` shows "
            "what else uses the GPU, `qlora estimate` what fits.",
        )

    def _refused(self, bad: BadStep, saved: Path | None) -> CheckFailed:
        path = self._fit.output / BAD_STEP_FILE
        replace_file(path, as_json({"step": bad.step, "what": bad.what, "rows": self._fit.rows_of(bad.step)}))
        numbers = sorted({number for row in self._fit.rows_of(bad.step) for number in row["rows"]})
        shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
        kept = f"The checkpoint of step {bad.step - 1} is {saved}" if saved else "There is no checkpoint before it"
        return CheckFailed(
            f"{bad.what[0].upper()}{bad.what[1:]} at step {bad.step}; no adapter was written, and the step was not applied. "
            f"{kept}; the rows of the step (rows {shown}) are in {path}.",
            next_step="Resume with a third of training.learning_rate, more training.warmup_fraction, a lower "
            "training.max_gradient_norm, or quantization.compute_dtype: bfloat16 or float32. If it comes back, look at these "
            "rows. A new run, not this one, can have a lower lora.rank, lora.target_modules: attention, or "
            "quantization.kind: int8 instead of nf4.",
        )

    def _put_best(self, last: int) -> int:
        """Put the weights of the best evaluation back; returns the step whose weights stand there now."""
        step = self._best.step
        if not self._fit.config.training.keep_best or step is None or step == last:
            return last
        directory = self._saver.place_of(step)
        problem = problem_of(directory)
        if problem is not None:
            self._metrics.warn(
                f"The best checkpoint {directory} cannot be used: {problem}. The last adapter is saved.", last
            )
            return last
        put_weights(self._model, load_weights(directory))
        return step


def _told(recovery: Recovery, bin_parts: int) -> str:
    parts = f", each bin in {bin_parts} parts" if bin_parts > 1 else ""
    return (
        f"The GPU ran out of memory in {recovery.during}; going on after step {recovery.step} with micro-batches of "
        f"{recovery.micro_batch_size}{parts} and {recovery.gradient_accumulation_steps} of them a step, with the same rows "
        f"in each step. {recovery.memory_summary} has torch's account."
    )
