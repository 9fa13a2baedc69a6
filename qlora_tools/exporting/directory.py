"""A directory that is made whole or not at all, and the list of what lies in it."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..disk import disk_errors
from ..durable import publish_directory
from ..errors import DiskSpaceError, MachineError, UsageError, WorkStopped
from ..events import Listener, RunEvent, StopAsked
from ..merging.workplace import workplace, workplace_of
from ..results import ExportedFile

CHECKSUM_FILE = "checksums.sha256"
_BLOCK = 2**24
# Cards, tokenizers and records, beside the weights.
_SMALL_FILES = 64 * 2**20
# In the place of an export: what becomes the result, and the merge on the way to it.
_RESULT, _MERGED = "result", "merged"


def check_target(target: Path, weights_bytes: int) -> None:
    """Raise unless a directory with so many bytes of weights can be made at `target`; writes nothing.

    What a stopped export has merged already is not counted again.

    Raises `UsageError` where something stands there, `MachineError` without permission, `DiskSpaceError` without room.
    """
    if os.path.lexists(target):
        raise UsageError(f"The output {target} exists.", next_step="Choose a directory that does not exist yet.")
    existing = next(parent for parent in target.parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise MachineError(f"No directory can be made in {existing}.", next_step="Choose another output.")
    merged = sum(path.stat().st_size for place in _merges(workplace_of(target)) for path in place.glob("*.safetensors"))
    needed, free = weights_bytes + _SMALL_FILES - merged, shutil.disk_usage(existing).free
    if free < needed:
        raise DiskSpaceError(
            f"The export needs {needed / 2**30:.2f} GiB, and {free / 2**30:.2f} are free at {existing}.",
            next_step="Free space there, or choose another output.",
        )


@contextmanager
def made_whole(target: Path, request: Mapping[str, Any]) -> Iterator[Path]:
    """An empty directory that takes the name `target` when all went well, and is gone when not.

    What a stopped or killed export of the same `request` had merged (`merge_beside`) is found again; nothing else is kept.
    Raises `UsageError` while another process makes `target`.
    """
    with workplace(target, request) as place, disk_errors(target.parent, left="nothing was exported"):
        _clear(place)
        partial, goes_on = place / _RESULT, False
        partial.mkdir()
        try:
            yield partial
            partial.chmod(0o755)
            if os.path.lexists(target):
                raise UsageError(f"Meanwhile {target} was made by someone else.", next_step="Choose another output.")
            publish_directory(partial, target)
        except (WorkStopped, MachineError, KeyboardInterrupt):
            goes_on = any(path.exists() for path in _merges(place))
            raise
        finally:
            _clear(place) if goes_on else shutil.rmtree(place, ignore_errors=True)


def merge_beside(partial: Path) -> Path:
    """Where the merge on the way lies while `made_whole` makes `partial`."""
    return partial.with_name(_MERGED)


def _merges(place: Path) -> tuple[Path, Path]:
    """A finished merge, and one that was cut off."""
    return place / _MERGED, workplace_of(place / _MERGED)


def _clear(place: Path) -> None:
    """Remove what an export had begun, but for its merge."""
    for path in place.iterdir():
        if path.is_dir() and path not in _merges(place):
            shutil.rmtree(path, ignore_errors=True)


def copy_file(source: Path, target: Path, on_event: Listener, stop: StopAsked) -> None:
    """Copy in blocks, with progress in bytes. Raises `WorkStopped` between two blocks where that is asked."""
    total, done = source.stat().st_size, 0
    with source.open("rb") as reading, target.open("xb") as writing:
        while block := reading.read(_BLOCK):
            leave_if_asked(stop)
            writing.write(block)
            done += len(block)
            on_event(RunEvent("progress", target.name, {"done": done, "total": total, "bytes": True}))


def leave_if_asked(stop: StopAsked) -> None:
    """Raise `WorkStopped` where the end was asked for."""
    if stop():
        raise WorkStopped("The export was stopped; nothing was written.", next_step="Run it again: it begins anew.")


def files_of(directory: Path) -> list[ExportedFile]:
    """All files below `directory` by name, with their sizes and SHA-256."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return [
        ExportedFile(
            name=path.relative_to(directory).as_posix(), size_bytes=path.stat().st_size, sha256=sha256_of(path)
        )
        for path in paths
    ]


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(directory: Path) -> list[ExportedFile]:
    """Write what `sha256sum --check` reads, and return the list of all files, that one included."""
    found = files_of(directory)
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in found)
    (directory / CHECKSUM_FILE).write_text(lines, encoding="utf-8")
    return files_of(directory)
