"""POSIX record locks: the kernel frees them when their holder dies, however it dies.

Two rules of such locks shape this module. Closing any descriptor of the file in the holder drops the lock, so a process
never opens a file again that it holds. And the threads of one process hold it together, so short locks have a
`threading.Lock` in front.
"""

import fcntl
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import MachineError

_POLL_SECONDS = 0.02
# struct flock of the C library; macOS has its fields in another order.
_LAYOUT = "qqihh" if sys.platform == "darwin" else "hhqqi4x"
_held_here: set[str] = set()
_threads = threading.Lock()


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, by its number here; 0 where it lives outside what this process can see."""

    pid: int


def hold(path: Path, *, wait_seconds: float = 0.0) -> bool:
    """Lock the existing file `path` for as long as this process lives; False when another holds it all that time.

    Raises `FileNotFoundError` where the file is gone.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    if not _locked_within(descriptor, wait_seconds):
        os.close(descriptor)
        return False
    _held_here.add(str(path))
    return True


def holder(path: Path) -> Holder | None:
    """Who holds `path`, asked without locking it; None when nobody does, or the file is gone."""
    if str(path) in _held_here:
        return Holder(os.getpid())
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        kind, pid = _asked(descriptor)
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else Holder(max(pid, 0))


@contextmanager
def exclusive(path: Path, *, wait_seconds: float = 5.0) -> Iterator[None]:
    """Be the only one inside, of all processes and threads; for moments, never for long.

    Raises `MachineError` when it is not free within `wait_seconds`.
    """
    if not _threads.acquire(timeout=wait_seconds):
        raise _busy(path, wait_seconds)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _locked_within(descriptor, wait_seconds):
                raise _busy(path, wait_seconds)
            yield
        finally:
            os.close(descriptor)
    finally:
        _threads.release()


def _locked_within(descriptor: int, wait_seconds: float) -> bool:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


def _asked(descriptor: int) -> tuple[int, int]:
    """Kind and pid of the lock that stands in the way of one of ours."""
    if sys.platform == "darwin":
        _, _, pid, kind, _ = struct.unpack(
            _LAYOUT, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_LAYOUT, 0, 0, 0, fcntl.F_WRLCK, 0))
        )
    else:
        kind, _, _, _, pid = struct.unpack(
            _LAYOUT, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_LAYOUT, fcntl.F_WRLCK, 0, 0, 0, 0))
        )
    return kind, pid


def _busy(path: Path, seconds: float) -> MachineError:
    return MachineError(
        f"{path} was locked by another process for {seconds:g} s.",
        next_step="Try again; if it stays so, look for a process of qlora that hangs (fuser names it).",
    )
