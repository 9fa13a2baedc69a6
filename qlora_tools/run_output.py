"""The output directory of a run: which files are ours, refused before anything is lost, written by one run at a time."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .checkpoints import checkpoints, checkpoints_directory, remove_leftovers
from .errors import DiskSpaceError, MachineError, UsageError

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
DATA_REPORT_FILE = "data_report.json"
CONFIG_FILE = "config.yaml"
RESULT_FILE = "result.json"
# Written when a step could not be applied: what it was computed on.
BAD_STEP_FILE = "bad_step.json"
ADAPTER_RECORD_FILE = "qlora_tools.json"
_LOCK_FILE = ".run.lock"
_OURS = (
    "adapter", CONFIG_FILE, DATA_REPORT_FILE, METRICS_FILE, SAMPLES_FILE, RESULT_FILE, BAD_STEP_FILE, "checkpoints"
)  # fmt: skip
# Adapter, metrics and tokenizer of a small run; larger adapters are checked against their own size when saved.
_LEAST_FREE_BYTES = 64 * 2**20


def check_output(directory: Path, *, overwrite: bool) -> None:
    """Raise unless the results of a new run may be written to `directory`; writes nothing.

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
    if (directory / "adapter").exists() and not (directory / "adapter" / ADAPTER_RECORD_FILE).is_file():
        raise UsageError(
            f"{directory / 'adapter'} was not made by qlora-tools and is not replaced.",
            next_step="Choose another output.directory.",
        )


def check_writable(directory: Path) -> None:
    """Raise `MachineError` without permission or space for the results of a run in `directory`; writes nothing."""
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
    for name in (METRICS_FILE, SAMPLES_FILE, DATA_REPORT_FILE, RESULT_FILE, BAD_STEP_FILE):
        (directory / name).unlink(missing_ok=True)
    if checkpoints(directory):
        shutil.rmtree(checkpoints_directory(directory))


@contextmanager
def locked_output(directory: Path) -> Iterator[None]:
    """Make `directory` and hold it for one run; the system frees it when this process ends, however that happens.

    Raises `UsageError` while another run writes there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK_FILE).open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another run writes to {directory}.",
                next_step="Wait for it (`qlora jobs` lists runs), or choose another output.directory.",
            ) from None
        remove_leftovers(directory)
        yield
