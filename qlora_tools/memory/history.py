"""What runs on this machine really took, beside what was predicted: one line a run, kept with the cache."""

import json
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from ..models.gpus import gpu_from_hardware_name
from ..models.packaged import cache_directory
from ..results import PastRuns

_KEPT_LINES = 1000


@dataclass(frozen=True)
class RunRecord:
    """One run: predicted and measured peak in bytes. On a CPU both are of the whole process."""

    date: str
    device: str
    model: str
    quantization: str
    predicted_bytes: int
    high_bytes: int
    measured_bytes: int


def history_file() -> Path:
    """Where the runs of this machine are recorded: `QLORA_MEMORY_HISTORY`, else beside the cache of models."""
    chosen = os.environ.get("QLORA_MEMORY_HISTORY")
    return Path(chosen) if chosen else cache_directory() / "memory_history.jsonl"


def record_run(run: RunRecord) -> None:
    """Add a run. A history that cannot be written is no reason to fail: the run itself is done."""
    path = history_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(run)) + "\n")
    except OSError:
        return


def past_runs(device: str | None) -> PastRuns | None:
    """How far the predictions for `device` (its name as torch reports it) were off; None where nothing has run yet."""
    errors = [
        run.measured_bytes / run.predicted_bytes - 1
        for run in _records()
        if device is not None and _same(run.device, device)
    ]
    if not errors:
        return None
    return PastRuns(
        runs=len(errors),
        median_error=statistics.median(errors),
        largest_error=max(errors, key=abs),
    )


def _same(recorded: str, asked: str) -> bool:
    """Whether two names mean one kind of device: `RTX 4090` is `NVIDIA GeForce RTX 4090`."""
    card = gpu_from_hardware_name(asked)
    return recorded == asked or (card is not None and gpu_from_hardware_name(recorded) is card)


def _records() -> list[RunRecord]:
    try:
        lines = history_file().read_text(encoding="utf-8").splitlines()[-_KEPT_LINES:]
    except (OSError, UnicodeDecodeError):
        return []
    return [record for line in lines if (record := _parsed(line)) is not None]


def _parsed(line: str) -> RunRecord | None:
    """A line as a record; one that another version or a crash left is passed over."""
    try:
        record = RunRecord(**json.loads(line))
    except (ValueError, TypeError):
        return None
    sizes = (record.predicted_bytes, record.measured_bytes)
    return record if all(isinstance(size, int) and size > 0 for size in sizes) else None
