"""What happens around the trainer's steps: metrics on disk, the best adapter kept, stopping early."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ..errors import CheckFailed
from ..events import Listener, RunEvent
from ..models.hardware import Hardware
from .device import peak_memory

_RENAMED = {"grad_norm": "gradient_norm", "eval_loss": "evaluation_loss", "mean_token_accuracy": "token_accuracy"}
_KEPT = ("loss", "learning_rate", "grad_norm", "eval_loss", "mean_token_accuracy")


class MetricsWriter(TrainerCallback):
    """Appends one JSON line to `metrics.jsonl` for every log of the trainer, and tells the listener."""

    def __init__(
        self, path: Path, hardware: Hardware, listener: Listener, items_per_epoch: int, items_per_step: int
    ) -> None:
        self._path = path
        self._hardware = hardware
        self._listener = listener
        self._epochs_per_step = items_per_step / items_per_epoch
        self._began = time.monotonic()
        self._last = (self._began, 0.0)
        self.losses: list[float] = []
        self.evaluation_losses: dict[int, float] = {}
        self.tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._began = time.monotonic()
        self._last = (self._began, 0.0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Write what was logged."""
        measured = {_RENAMED.get(key, key): float(value) for key, value in (logs or {}).items() if key in _KEPT}
        if not measured:
            return
        record = {"step": state.global_step, **measured, **self._pace(logs or {}, state.global_step)}
        with self._path.open("a", encoding="utf-8") as lines:
            # JSON has no NaN; null says that there was no number.
            known = {key: value if math.isfinite(value) else None for key, value in record.items()}
            lines.write(json.dumps(known) + "\n")
        self._remember(record)
        self._listener(RunEvent("metrics", "", {**record, "planned_steps": state.max_steps}))

    def _pace(self, logs: dict[str, Any], step: int) -> dict[str, float]:
        now, memory = time.monotonic(), peak_memory(self._hardware)
        record = {
            "epoch": step * self._epochs_per_step,
            "seconds": now - self._began,
            "peak_allocated_bytes": memory.allocated_bytes,
            "peak_reserved_bytes": memory.reserved_bytes,
        }
        if "loss" in logs and "num_tokens" in logs:
            then, before = self._last
            self.tokens = int(logs["num_tokens"])
            record["tokens_per_second"] = (self.tokens - before) / max(now - then, 1e-9)
            self._last = (now, self.tokens)
        return record

    def _remember(self, record: dict[str, float]) -> None:
        if "loss" in record:
            self.losses.append(record["loss"])
        if "evaluation_loss" in record:
            self.evaluation_losses[int(record["step"])] = record["evaluation_loss"]


class LossGuard(TrainerCallback):
    """Ends a run whose loss is no longer a number: further steps would only destroy the adapter."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Look at the loss that was logged."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(float(loss)):
            raise CheckFailed(
                f"The loss is {loss} at step {state.global_step}; no adapter was written.",
                next_step="Lower training.learning_rate, raise training.warmup_fraction, lower training.max_gradient_norm, "
                "or use quantization.compute_dtype: bfloat16 or float32.",
            )


class BestAdapter(TrainerCallback):
    """Keeps a copy of the adapter at the best evaluation loss in host memory, and stops when it no longer improves."""

    def __init__(self, patience: int | None, keep: bool) -> None:
        self._patience = patience
        self._keep = keep
        self._without_gain = 0
        self._best_loss = math.inf
        self._weights: dict[str, torch.Tensor] = {}
        self.best_step: int | None = None
        self.stopped_early = False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kept: Any
    ) -> None:
        """Compare the evaluation with the best so far."""
        loss = (metrics or {}).get("eval_loss", math.inf)
        if loss < self._best_loss:
            self._best_loss, self._without_gain, self.best_step = loss, 0, state.global_step
            if self._keep:
                self._weights = _trainable_copy(kept["model"])
            return
        self._without_gain += 1
        if self._patience is not None and self._without_gain >= self._patience:
            self.stopped_early = True
            control.should_training_stop = True

    def restore(self, model: Any) -> bool:
        """Put the best adapter back into `model`; False when none was kept."""
        for name, parameter in model.named_parameters():
            if name in self._weights:
                parameter.data.copy_(self._weights[name])
        return bool(self._weights)


def _trainable_copy(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if p.requires_grad}
