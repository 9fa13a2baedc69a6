"""The output directory of a run: refused or cleared before, filled whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..errors import DiskSpaceError, MachineError, UsageError
from .adapters import ADAPTER_WEIGHTS
from .record import AdapterRecord, write_record

METRICS_FILE = "metrics.jsonl"
_OURS = ("adapter", "config.yaml", METRICS_FILE, "result.json")
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
    """Make `directory` ready for a new run: checked, created, and rid of the results that are to be replaced."""
    check_output(directory, overwrite=overwrite)
    directory.mkdir(parents=True, exist_ok=True)
    for name in _OURS:
        path = directory / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def publish_adapter(
    model: Any, tokenizer: Any, record: AdapterRecord, directory: Path, *, initial: Path | None = None
) -> None:
    """Write adapter, tokenizer and record beside `directory`, then put them in place by one rename.

    `initial` holds the adapter before training where it changed the base (PiSSA): what is saved is then a plain
    adapter of twice the rank that belongs on the unchanged base.
    """
    partial = Path(tempfile.mkdtemp(prefix=".adapter-", dir=directory.parent))
    try:
        model.save_pretrained(partial, path_initial_model_for_weight_conversion=str(initial) if initial else None)
        tokenizer.save_pretrained(partial)
        write_record(partial, record)
        assert (partial / ADAPTER_WEIGHTS).is_file()
        partial.chmod(0o755)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
