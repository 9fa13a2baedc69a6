"""The fit itself: TRL's trainer, fed in our order, watched by our callbacks."""

import time
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from ..config import RunConfig
from ..config.library_arguments import trainer_arguments
from ..data.rows import TokenRows
from ..events import Listener
from ..memory.estimate import MemoryEstimate
from ..models.hardware import Hardware
from ..requirements import TRAINING_LIBRARIES
from ..results import RowCounts, TrainResult
from .adapters import count_parameters, master_weights_kept
from .batches import TrainingSet, build_evaluation_set
from .callbacks import BestAdapter, LossGuard, MetricsWriter
from .device import forget_optimised_modules, peak_memory
from .expectation import predicted_peak
from .output import METRICS_FILE


@dataclass(frozen=True)
class Outcome:
    """How a fit went."""

    metrics: MetricsWriter
    best: BestAdapter
    steps: int
    saved_step: int
    seconds: float


@dataclass(frozen=True)
class Fit:
    """A run that is ready to fit: everything settled but the model's weights."""

    config: RunConfig
    training_set: TrainingSet
    training_rows: TokenRows
    evaluation_rows: TokenRows | None
    hardware: Hardware
    compute_dtype: str
    output: Path
    on_event: Listener
    expected: MemoryEstimate | None

    @property
    def items_per_step(self) -> int:
        """Rows or bins of one optimiser step."""
        return self.config.training.micro_batch_size * self.config.training.gradient_accumulation_steps

    def summary(self, model: Any) -> str:
        """The derived quantities, said before the first step."""
        count = count_parameters(model)
        unit = "bins" if self.training_set.layout == "bins" else "rows"
        return (
            f"Training {count.trainable:,} of {count.total:,} parameters "
            f"({100 * count.trainable / count.total:.2f} %): {self.training_set.steps} steps of {self.items_per_step} {unit}"
            + self._expectation()
        )

    def _expectation(self) -> str:
        if self.expected is None:
            return ""
        return f", expected peak {predicted_peak(self.expected, self.hardware) / 2**30:.2f} GiB"

    def run(self, model: Any, tokenizer: Any) -> Outcome:
        """Train, evaluate at the end, and put the best adapter back where that is asked for."""
        training = self.config.training
        metrics = MetricsWriter(
            self.output / METRICS_FILE,
            self.hardware,
            self.on_event,
            self.training_set.items_per_epoch,
            self.items_per_step,
        )
        best = BestAdapter(training.early_stopping_patience, training.keep_best)
        trainer = self._trainer(model, tokenizer, [metrics, LossGuard(), best])
        began = time.monotonic()
        state = trainer.train()
        forget_optimised_modules()
        if self.evaluation_rows is not None and state.global_step not in metrics.evaluation_losses:
            trainer.evaluate()
        restored = training.keep_best and best.restore(model)
        saved_step = best.best_step if restored and best.best_step is not None else state.global_step
        return Outcome(metrics, best, state.global_step, saved_step, time.monotonic() - began)

    def _trainer(self, model: Any, tokenizer: Any, callbacks: list[Any]) -> Any:
        evaluation = build_evaluation_set(self.evaluation_rows) if self.evaluation_rows else None
        with warnings.catch_warnings(), master_weights_kept(model):
            # Renamed to activation_checkpointing in 5.2x; the floor of our range knows the old name only.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
            arguments = SFTConfig(
                **trainer_arguments(
                    self.config,
                    steps=self.training_set.steps,
                    compute_dtype=self.compute_dtype,
                    on_gpu=self.hardware.kind == "cuda",
                    evaluates=evaluation is not None,
                    output_directory=self.output,
                )
            )
            # One process uses one GPU; with several visible, Trainer would wrap the model in DataParallel.
            if arguments.n_gpu > 1:
                arguments._n_gpu = 1
            trainer = SFTTrainer(
                model=model,
                args=arguments,
                train_dataset=self.training_set.dataset,
                eval_dataset=evaluation,
                data_collator=self.training_set.collator,
                processing_class=tokenizer,
                callbacks=callbacks,
            )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def result(self, model: Any, outcome: Outcome, *, smoke_answer: str | None, total_seconds: float) -> TrainResult:
        """The result that the user gets."""
        count, memory = count_parameters(model), peak_memory(self.hardware)
        wanted = self.config.training.engine
        return TrainResult(
            output_directory=str(self.output),
            adapter_directory=str(self.output / "adapter"),
            engine="stock",
            engine_reason="asked for" if wanted == "stock" else "the only engine of this version",
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
            tokens_per_second=outcome.metrics.tokens / outcome.seconds,
            smoke_answer=smoke_answer,
            versions={name: version(name) for name in TRAINING_LIBRARIES},
        )


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
