"""The output directory of a run: refused before anything is lost, filled whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..disk import DISK_FULL
from ..errors import CheckFailed, DiskSpaceError, MachineError, UsageError
from .adapters import ADAPTER_WEIGHTS
from .record import RECORD_FILE, AdapterRecord, write_record

METRICS_FILE = "metrics.jsonl"
DATA_REPORT_FILE = "data_report.json"
_OURS = ("adapter", "config.yaml", DATA_REPORT_FILE, METRICS_FILE, "result.json")
# Adapter, metrics and tokenizer of a small run; larger adapters are checked against their own size when saved.
_LEAST_FREE_BYTES = 64 * 2**20


def check_output(directory: Path, *, overwrite: bool) -> None:
    """Raise unless the results of a run may be written to `directory`; writes nothing.

    Raises `UsageError` when it holds results and `overwrite` is off, `MachineError` without permission or space.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"The output {directory} is a file.", next_step="Choose another output.directory.")
    earlier = [name for name in _OURS if (directory / name).exists()]
    if earlier and not overwrite:
        raise UsageError(
            f"{directory} holds the results of an earlier run ({', '.join(earlier)}).",
            next_step="Choose another output.directory, or set output.overwrite: true to replace them.",
        )
    if (directory / "adapter").exists() and not (directory / "adapter" / RECORD_FILE).is_file():
        raise UsageError(
            f"{directory / 'adapter'} was not made by qlora-tools and is not replaced.",
            next_step="Choose another output.directory.",
        )
    existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise MachineError(f"No permission to write to {existing}.", next_step="Choose another output.directory.")
    free = shutil.disk_usage(existing).free
    if free < _LEAST_FREE_BYTES:
        raise DiskSpaceError(
            f"Only {free / 2**20:.0f} MiB are free at {existing}; a run needs at least {_LEAST_FREE_BYTES / 2**20:.0f}.",
            next_step="Free space there, or choose another output.directory.",
        )


def prepare_output(directory: Path, *, overwrite: bool) -> None:
    """Make `directory` ready for a new run. An earlier adapter stays until the new one takes its place."""
    check_output(directory, overwrite=overwrite)
    directory.mkdir(parents=True, exist_ok=True)
    for name in (METRICS_FILE, DATA_REPORT_FILE, "result.json"):
        (directory / name).unlink(missing_ok=True)


def publish_adapter(
    model: Any, tokenizer: Any, record: AdapterRecord, directory: Path, *, initial: Path | None = None
) -> None:
    """Write adapter, tokenizer and record beside `directory`, then put them in place by one rename.

    `initial` holds the adapter before training where it changed the base (PiSSA): what is saved is then a plain
    adapter of twice the rank that belongs on the unchanged base.
    """
    partial = Path(tempfile.mkdtemp(prefix=".adapter-", dir=directory.parent))
    try:
        with full_disk_as_oserror():
            model.save_pretrained(partial, path_initial_model_for_weight_conversion=str(initial) if initial else None)
        tokenizer.save_pretrained(partial)
        write_record(partial, record)
        assert (partial / ADAPTER_WEIGHTS).is_file()
        partial.chmod(0o755)
        _replace(directory, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(directory: Path, partial: Path) -> None:
    """Put `partial` in the place of `directory`; the earlier one goes only when the new one stands."""
    if not directory.exists():
        partial.rename(directory)
        return
    earlier = partial.with_name(partial.name + "-earlier")
    directory.rename(earlier)
    partial.rename(directory)
    shutil.rmtree(earlier, ignore_errors=True)


@contextmanager
def full_disk_as_oserror() -> Iterator[None]:
    """safetensors reports a full disk in words of its own, without an errno."""
    try:
        yield
    except SafetensorError as error:
        for code in DISK_FULL:
            if f"os error {code}" in str(error):
                raise OSError(code, os.strerror(code)) from None
        raise


def require_finite(model: Any) -> None:
    """Raise `CheckFailed` when a trained weight is no number; such an adapter is never published."""
    broken = [name for name, p in model.named_parameters() if p.requires_grad and not torch.isfinite(p).all()]
    if broken:
        raise CheckFailed(
            f"{len(broken)} trained tensors hold NaN or infinity ({broken[0]}, ...); no adapter was written.",
            next_step="Lower training.learning_rate or training.max_gradient_norm, or raise training.warmup_fraction.",
        )
