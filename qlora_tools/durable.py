"""Writing that survives a crash: after it, a name holds the old content or the new, whole, and never neither.

The order is always the same: write beside, flush to the disk, then one rename or link, then flush the directory. A reader
of a name therefore never meets half a file, whatever killed the writer.
"""

import ctypes
import errno
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Of Linux: linux/fcntl.h and linux/fs.h.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def reached(step: str, path: Path) -> None:
    """Called before every step that changes the disk. It does nothing: tests crash the writer here, step by step."""


def replace_file(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Put `content` in the place of the file `path`, or make it.

    Without `sync` a crash of the machine (not of the process) may bring back the old content, or leave none: for files
    that are told anew every second. Raises `OSError`; the old content then stands.
    """
    partial = _write_beside(path, content, sync=sync)
    try:
        reached("replace", path)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if sync:
        sync_directory(path.parent)


def write_once(path: Path, content: bytes) -> None:
    """Make the file `path`, once for all: of several writers one wins.

    Raises `FileExistsError` for those who come later; what stands there is never changed.
    """
    partial = _write_beside(path, content, sync=True)
    try:
        reached("link", path)
        os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(path.parent)


def publish_directory(partial: Path, directory: Path) -> None:
    """Rename the complete directory `partial`, with all that it holds on the disk, to the new name `directory`.

    Raises `OSError` where `directory` exists and is not empty.
    """
    for path in sorted(partial.rglob("*")):
        sync_directory(path) if path.is_dir() else sync_file(path)
    sync_directory(partial)
    reached("rename", directory)
    partial.rename(directory)
    sync_directory(directory.parent)


def exchange_directories(partial: Path, directory: Path) -> None:
    """Let the complete directory `partial` and the earlier `directory` change names: there is no moment without either."""
    for path in sorted(partial.rglob("*")):
        sync_file(path)
    sync_file(partial)
    reached("exchange", directory)
    if not _exchanged(partial, directory):
        # No such call here: for a moment the earlier one stands beside its name.
        aside = partial.with_name(partial.name + "-earlier")
        directory.rename(aside)
        partial.rename(directory)
        aside.rename(partial)
    sync_directory(directory.parent)


def _exchanged(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    if not sys.platform.startswith("linux") or not hasattr(library, "renameat2"):
        return False
    here = ctypes.c_int(_AT_FDCWD)
    done = library.renameat2(here, os.fsencode(first), here, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE))
    if done != 0 and ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(second))
    return bool(done == 0)


def sync_file(path: Path) -> None:
    """Wait until the disk holds what was written to `path`."""
    reached("sync", path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Wait until the disk holds the names in `directory`."""
    sync_file(directory)


def as_json(value: Mapping[str, Any]) -> bytes:
    """One JSON document as our records are written: readable, ending in a newline, no NaN."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write_beside(path: Path, content: bytes, *, sync: bool) -> Path:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    complete = False
    try:
        reached("create", partial)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - it owns the descriptor
            reached("write", partial)
            file.write(content)
            file.flush()
            if sync:
                reached("sync", partial)
                os.fsync(file.fileno())
        complete = True
    finally:
        if not complete:
            partial.unlink(missing_ok=True)
    return partial
