"""Where a merge is made: a directory beside its target, kept when the merge is cut off, so that the same merge goes on."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..disk import disk_errors
from ..durable import as_json, publish_directory, replace_file
from ..errors import DiskSpaceError, UsageError
from ..models.stored_tensors import StoredTensor

_ASKED_FILE = ".asked.json"
# File systems take 255 bytes; what is made aside has a longer name.
_LONGEST_NAME = 200
# Config, index and tokenizer.
_SMALL_FILES_BYTES = 64 * 2**20


def workplace_of(target: Path) -> Path:
    """The directory in which `target` is made. Raises `UsageError` for a name to which nothing can be added."""
    if len(os.fsencode(target.name)) > _LONGEST_NAME:
        raise UsageError(
            f"The name {target.name[:40]}... is too long for a directory.",
            next_step=f"Choose one of at most {_LONGEST_NAME} bytes.",
        )
    return target.with_name(f".{target.name}.merging")


@contextmanager
def workplace(target: Path, asked: Mapping[str, Any]) -> Iterator[Path]:
    """The place for making `target`, with what an earlier try of the very same merge left there.

    Raises `UsageError` while another process merges to the same target.
    """
    place, files = workplace_of(target), target.parent
    with disk_errors(files, left="nothing was written"):
        files.mkdir(parents=True, exist_ok=True)
        with _locked(place.with_suffix(".lock"), target):
            _prepare(place, asked)
            yield place


def publish(place: Path, target: Path) -> None:
    """Give the finished directory its name; it was not there, or the merge would not have begun."""
    for hidden in place.glob(".*"):
        hidden.unlink()
    place.chmod(0o755)
    publish_directory(place, target)


def fingerprint(tensors: Sequence[StoredTensor]) -> str:
    """Which files these tensors lie in, by names, sizes and times of change."""
    files = sorted({tensor.file for tensor in tensors})
    told = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def require_disk(target: Path, place: Path, size: int) -> None:
    """Raise `DiskSpaceError` unless the shards that are missing fit on the disk."""
    there = sum(file.stat().st_size for file in place.glob("*.safetensors")) if place.is_dir() else 0
    needed = size - there + _SMALL_FILES_BYTES
    free = shutil.disk_usage(_existing(target.parent)).free
    if needed > free:
        raise DiskSpaceError(
            f"The merged model takes {size / 1e9:.1f} GB, {needed / 1e9:.1f} GB of it still to be written, and "
            f"{free / 1e9:.1f} GB are free at {target.parent}.",
            next_step="Free space there, choose another directory, or merge to bfloat16.",
        )


def _existing(path: Path) -> Path:
    return path if path.is_dir() else _existing(path.parent)


def _prepare(place: Path, asked: Mapping[str, Any]) -> None:
    told = as_json(asked)
    try:
        same = (place / _ASKED_FILE).read_bytes() == told
    except OSError:
        same = False
    if not same:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
        replace_file(place / _ASKED_FILE, told)


@contextmanager
def _locked(path: Path, target: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another process is making {target}.", next_step="Wait for it, or choose another directory."
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
