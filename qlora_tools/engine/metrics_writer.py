"""Metrics on disk: one JSON line for every log of the trainer, readable while the run goes and after any kill."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any, TextIO

from transformers import TrainerCallback

from ..events import Listener, RunEvent
from ..models.hardware import Hardware
from ..progress.metrics import read_course
from ..progress.watch import CourseWatch
from .device import Utilization, host_bytes, memory_now, peak_memory

_RENAMED = {"grad_norm": "gradient_norm", "eval_loss": "evaluation_loss", "mean_token_accuracy": "token_accuracy"}
_KEPT = ("loss", "learning_rate", "grad_norm", "eval_loss", "mean_token_accuracy")


class MetricsWriter(TrainerCallback):
    """Appends what the trainer logs to `metrics.jsonl`, tells the listener, and passes on what is noticed in it."""

    def __init__(
        self,
        path: Path,
        hardware: Hardware,
        listener: Listener,
        watch: CourseWatch,
        planned_steps: int,
        epochs_per_step: float,
    ) -> None:
        self._path = path
        self._hardware = hardware
        self._utilization = Utilization(hardware)
        self._listener = listener
        self._planned_steps = planned_steps
        self._epochs_per_step = epochs_per_step
        self._file: TextIO | None = None
        self._watch = watch
        self._began = self._idle_since = self._step_began = time.monotonic()
        self._counted = (self._began, 0)
        self._data_seconds = 0.0
        self._step_seconds = 0.0
        self._losses: dict[int, float] = {}
        self.evaluation_losses: dict[int, float] = {}
        self.warnings: list[str] = []
        self.tokens = 0

    @property
    def losses(self) -> list[float]:
        """The logged losses in the order of steps."""
        return [loss for _, loss in sorted(self._losses.items())]

    def go_on_from(self, step: int, tokens: int) -> None:
        """Take over what was written up to `step`, and mark that what was written after it is superseded."""
        self._losses.clear()
        self.evaluation_losses.clear()
        for record in read_course(self._path).records:
            if record["step"] <= step:
                self._remember({key: math.nan if value is None else value for key, value in record.items()})
                self._watch.feed(record)  # it has to know the best evaluation; what it notices was told
        self._append({"event": "resumed", "step": step, "time": time.time()})
        self.tokens = tokens
        self._counted = (time.monotonic(), tokens)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._idle_since = time.monotonic()
        self._counted = (self._idle_since, self.tokens)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The batch is there: what passed since the last step was waiting for it."""
        self._step_began = time.monotonic()
        self._data_seconds = self._step_began - self._idle_since

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The step is done."""
        self._idle_since = time.monotonic()
        self._step_seconds = self._idle_since - self._step_began + self._data_seconds

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An evaluation is no waiting for data."""
        self._idle_since = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Write what was logged."""
        measured = {_RENAMED.get(key, key): float(value) for key, value in (logs or {}).items() if key in _KEPT}
        if not measured:
            return
        record = {"step": state.global_step, **measured, **self._pace(logs or {}, state.global_step), **self._memory()}
        self._append(record)
        self._remember(record)
        self._listener(RunEvent("metrics", "", {**record, "planned_steps": self._planned_steps}))
        for notice in self._watch.feed(record):
            self.warn(f"{notice.message} {notice.next_step}", state.global_step)
        self._idle_since = time.monotonic()

    def warn(self, message: str, step: int) -> None:
        """Tell the listener and the result of something that was noticed."""
        self.warnings.append(message)
        self._listener(RunEvent("warning", message, {"step": step}))

    def sync(self) -> None:
        """Wait until the disk holds what was written: a checkpoint must not be newer than the metrics before it."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a later record opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, record: dict[str, Any]) -> None:
        if self._file is None:
            self._file = _opened_for_lines(self._path)
        # JSON has no NaN; null says that there was no number.
        known = {key: value if _is_known(value) else None for key, value in record.items()}
        self._file.write(json.dumps(known) + "\n")
        self._file.flush()  # the kernel has it: a kill of this process loses nothing

    def _pace(self, logs: dict[str, Any], step: int) -> dict[str, float]:
        now = time.monotonic()
        record = {"epoch": step * self._epochs_per_step, "seconds": now - self._began, "time": time.time()}
        if "loss" in logs and "num_tokens" in logs:
            then, before = self._counted
            self.tokens = int(logs["num_tokens"])
            record["tokens"] = self.tokens
            record["tokens_per_second"] = (self.tokens - before) / max(now - then, 1e-9)
            record["step_seconds"] = self._step_seconds
            record["data_seconds"] = self._data_seconds
            self._counted = (now, self.tokens)
        return record

    def _memory(self) -> dict[str, float]:
        peak, now = peak_memory(self._hardware), memory_now(self._hardware)
        record: dict[str, float] = {
            "allocated_bytes": now.allocated_bytes,
            "reserved_bytes": now.reserved_bytes,
            "peak_allocated_bytes": peak.allocated_bytes,
            "peak_reserved_bytes": peak.reserved_bytes,
            "host_bytes": host_bytes(),
        }
        used = self._utilization.percent()
        return record if used is None else {**record, "gpu_utilization_percent": used}

    def _remember(self, record: dict[str, Any]) -> None:
        if "loss" in record:
            self._losses[int(record["step"])] = record["loss"]
        if "evaluation_loss" in record:
            self.evaluation_losses[int(record["step"])] = record["evaluation_loss"]


def _opened_for_lines(path: Path) -> TextIO:
    """The file at its end; what a kill left as half a line stays a line of its own."""
    torn = path.exists() and path.stat().st_size > 0 and not _ends_in_newline(path)
    file = path.open("a", encoding="utf-8")
    if torn:
        file.write("\n")
    return file


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _is_known(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
