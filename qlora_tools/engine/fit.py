"""The fit itself: TRL's trainer, fed in our order, watched by our callbacks."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from ..config import RunConfig
from ..config.library_arguments import trainer_arguments
from ..data.rows import TokenRows
from ..events import Listener, StopAsked, never
from ..memory.estimate import MemoryEstimate
from ..models.hardware import Hardware
from ..progress.setup_notices import setup_notices
from ..requirements import TRAINING_LIBRARIES
from ..results import RowCounts, TrainResult
from .adapters import count_parameters, frozen_dtypes, master_weights_kept, offloaded_parameters
from .batches import TrainingSet, build_evaluation_set
from .device import peak_memory
from .expectation import predicted_peak
from .fast.choosing import EngineChoice, choose_engine
from .fast.model import FastModel
from .fast.trainer import FastTrainer
from .loop import Outcome, TrainingLoop
from .training_state import MicroBatches, TrainingState


@dataclass(frozen=True)
class Fit:
    """A run that is ready to fit: everything settled but the model's weights.

    `start` is the state to go on from, None for a new run; `identity` says what its checkpoints belong to. A `throw_away` fit
    keeps no checkpoint and does not recover.
    """

    config: RunConfig
    training_set: TrainingSet
    training_rows: TokenRows
    evaluation_rows: TokenRows | None
    hardware: Hardware
    compute_dtype: str
    output: Path
    on_event: Listener
    expected: MemoryEstimate | None
    start: TrainingState | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    stop: StopAsked = never
    throw_away: bool = False

    @property
    def items_per_step(self) -> int:
        """Rows or bins of one optimiser step."""
        return self.config.training.micro_batch_size * self.config.training.gradient_accumulation_steps

    @property
    def epochs_per_step(self) -> float:
        """The part of an epoch that a step is."""
        return self.items_per_step / self.training_set.items_per_epoch

    def summary(self, model: Any) -> str:
        """The derived quantities, said before the first step."""
        count = count_parameters(model)
        unit = "bins" if self.training_set.layout == "bins" else "rows"
        return (
            f"Training {count.trainable:,} of {count.total:,} parameters "
            f"({100 * count.trainable / count.total:.2f} %): {self.training_set.steps} steps of {self.items_per_step} {unit}"
            + self._expectation()
            + self._kept(model)
            + (f", going on after step {self.start.loop.step}" if self.start else "")
        )

    def _expectation(self) -> str:
        if self.expected is None:
            return ""
        return f", expected peak {predicted_peak(self.expected, self.hardware) / 2**30:.2f} GiB"

    def _kept(self, model: Any) -> str:
        words = self._kept_words
        return "" if words is None or self.engine(model).name == "stock" else f", fast engine: {words}"

    @property
    def _kept_words(self) -> str | None:
        return None if self.expected is None else self.expected.kept_words()

    def engine(self, model: Any) -> EngineChoice:
        """Which engine trains `model`, and why; with a memory limit, how many layers are kept."""
        found, words = choose_engine(self.config.training.engine, model), self._kept_words
        return found if found.name == "stock" or words is None else replace(found, reason=f"{found.reason}; {words}")

    def keep(self, layers: int) -> list[bool]:
        """Which layers the fast engine keeps: the last ones, which the backward pass uses up first."""
        kept = 0 if self.config.training.gradient_checkpointing else layers
        if self.expected is not None and self.expected.kept is not None:
            kept = self.expected.kept.count
        return [index >= layers - kept for index in range(layers)]

    def warnings(self, model: Any) -> list[str]:
        """What will make every step slow, and what was asked for and cannot be."""
        found = setup_notices(
            device=self.hardware.kind,
            compute_dtype=self.compute_dtype,
            computes_bfloat16=self.hardware.computes_bfloat16,
            frozen_dtypes=frozen_dtypes(model),
            offloaded_parameters=offloaded_parameters(model, self.hardware.kind),
        )
        return [*self._engine_warning(model), *(f"{notice.message} {notice.next_step}" for notice in found)]

    def _engine_warning(self, model: Any) -> list[str]:
        engine, wanted = self.engine(model), self.config.training.engine
        if wanted in ("auto", engine.name):
            return []
        return [f"training.engine is {wanted}, and this run uses the {engine.name} engine ({engine.reason})."]

    def rows_of(self, step: int) -> list[dict[str, Any]]:
        """What a step, counted from 1, is computed on: tokens, labels and the rows' numbers in their files."""
        last = step * self.items_per_step
        items = self.training_set.dataset.select(range(last - self.items_per_step, last))
        return [{"rows": item["rows"], "input_ids": item["input_ids"], "labels": item["labels"]} for item in items]

    def run(self, model: Any, tokenizer: Any) -> Outcome:
        """Train to the end, from `start` where there is one."""
        return TrainingLoop(self, model, tokenizer).run()

    def trainer(self, model: Any, tokenizer: Any, rows: Any, cut: MicroBatches, callbacks: list[Any]) -> Any:
        """A trainer of `rows`, in their order, in micro-batches as `cut` says."""
        evaluation = build_evaluation_set(self.evaluation_rows) if self.evaluation_rows else None
        with warnings.catch_warnings(), master_weights_kept(model):
            # Renamed to activation_checkpointing in 5.2x; the floor of our range knows the old name only.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
            arguments = SFTConfig(**self._arguments(cut, evaluates=evaluation is not None))
            # One process uses one GPU; with several visible, Trainer would wrap the model in DataParallel.
            if arguments.n_gpu > 1:
                arguments._n_gpu = 1
            trainer = self._trainer_class(model)(
                model=model,
                args=arguments,
                train_dataset=rows,
                eval_dataset=evaluation,
                data_collator=self.training_set.collator,
                processing_class=tokenizer,
                callbacks=callbacks,
            )
        trainer.remove_callback(PrinterCallback)
        _watch_norm(trainer, callbacks[-1].watched_norm)
        return trainer

    def _trainer_class(self, model: Any) -> Callable[..., Any]:
        if self.engine(model).name == "stock":
            return cast(Callable[..., Any], SFTTrainer)
        keep = self.keep(model.config.num_hidden_layers)
        planned = None if self.expected is None else self.expected.kept
        on_host = planned is not None and planned.on_host
        return partial(FastTrainer, fast=FastModel(model, keep=keep, on_host=on_host))

    def _arguments(self, cut: MicroBatches, *, evaluates: bool) -> dict[str, Any]:
        return {
            **trainer_arguments(
                self.config,
                steps=self.training_set.steps,
                compute_dtype=self.compute_dtype,
                on_gpu=self.hardware.kind == "cuda",
                evaluates=evaluates,
                output_directory=self.output,
            ),
            "per_device_train_batch_size": cut.size,
            "gradient_accumulation_steps": cut.accumulation,
            "per_device_eval_batch_size": cut.evaluation_size,
        }

    def result(self, model: Any, outcome: Outcome, *, smoke_answer: str | None, total_seconds: float) -> TrainResult:
        """The result that the user gets."""
        count, memory = count_parameters(model), peak_memory(self.hardware)
        engine = self.engine(model)
        return TrainResult(
            output_directory=str(self.output),
            adapter_directory=str(self.output / "adapter"),
            engine=engine.name,
            engine_reason=engine.reason,
            device=self.hardware.name,
            compute_dtype=self.compute_dtype,
            packing=self.training_set.layout,
            steps=outcome.steps,
            planned_steps=self.training_set.steps,
            stopped_early=outcome.best.stopped_early and outcome.steps < self.training_set.steps,
            losses=outcome.metrics.losses,
            evaluation_losses=outcome.metrics.evaluation_losses,
            saved_step=outcome.saved_step,
            trainable_parameters=count.trainable,
            total_parameters=count.total,
            training_rows=_row_counts(self.training_rows),
            evaluation_rows=_row_counts(self.evaluation_rows) if self.evaluation_rows else None,
            peak_allocated_bytes=memory.allocated_bytes,
            peak_reserved_bytes=memory.reserved_bytes,
            predicted_peak_bytes=predicted_peak(self.expected, self.hardware) if self.expected else None,
            train_seconds=outcome.seconds,
            total_seconds=total_seconds,
            tokens_per_second=outcome.tokens / outcome.seconds,
            smoke_answer=smoke_answer,
            resumed_from_step=self.start.loop.step if self.start else None,
            recoveries=outcome.recoveries,
            warnings=outcome.metrics.warnings,
            versions={name: version(name) for name in TRAINING_LIBRARIES},
        )


def _watch_norm(trainer: Any, watched: Callable[[Any, bool], Any]) -> None:
    """Let the keeper see each gradient norm between clipping and the optimiser's step; no callback is told of it."""
    clip = trainer.accelerator.clip_grad_norm_

    def clipped(*args: Any, **kwargs: Any) -> Any:
        return watched(clip(*args, **kwargs), trainer.accelerator.scaler is not None)

    trainer.accelerator.clip_grad_norm_ = clipped


def _row_counts(rows: TokenRows) -> RowCounts:
    return RowCounts(
        read=rows.read,
        used=len(rows.rows),
        tokens=rows.tokens,
        learnt_tokens=sum(row.learnt_tokens for row in rows.rows),
        cut=rows.cut,
        dropped_long=rows.dropped_long,
        dropped_nothing_to_learn=rows.dropped_nothing_to_learn,
        dropped_unusable=len(rows.unusable),
    )
