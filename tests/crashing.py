"""Kill an operation before each of its changes to the disk, one after the other, and look at what is left."""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from qlora_tools import durable

# What Python reports to audit hooks before it does it; opening counts only where something is written or made.
_CHANGES = frozenset(
    ["os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "subprocess.Popen", "os.posix_spawn"]
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_FINISHED, _FAILED = 0, 3
# Far above what any operation has: a loop that never ends is a failure too.
_MOST_CHANGES = 500


def crash_points(prepare: Callable[[], Callable[[], object]], stride: int = 1) -> Iterator[int]:
    """Yield after a crash before every `stride`-th change; ends when a change was not reached.

    `prepare` makes a fresh state and returns the operation on it.
    """
    for at in count(step=stride):
        assert at < _MOST_CHANGES
        if not killed_before(prepare(), at):
            return
        yield at


def killed_before(operation: Callable[[], object], at: int) -> bool:
    """Run `operation` in a child that is killed before change number `at`, from 0; whether it got so far."""
    with warnings.catch_warnings():
        # The threads of a test runner do nothing that the child needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _run_to_death(operation, at)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (_FINISHED, -signal.SIGKILL), "the operation itself failed: its traceback is above"
    return code != _FINISHED


def _run_to_death(operation: Callable[[], object], at: int) -> None:
    try:
        counting = count()

        def change() -> None:
            if next(counting) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _CHANGES or (event == "open" and _is_for_writing(arguments)):
                change()

        os.fsync = lambda descriptor: None  # a killed process loses nothing that it has written
        _let_steps_call(change)
        sys.addaudithook(watch)
        operation()
        os._exit(_FINISHED)
    except BaseException:  # noqa: BLE001 - the child must never come back into the test runner
        os.write(2, traceback.format_exc().encode())
        os._exit(_FAILED)


def _is_for_writing(arguments: tuple[Any, ...]) -> bool:
    path, _, flags = arguments
    return bool(flags & _WRITES) and not str(path).startswith("/dev/")


def _let_steps_call(change: Callable[[], None]) -> None:
    """Watch the seam too: writing into an open file is no event of Python's."""
    real = durable.reached
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("qlora_tools") and getattr(module, "reached", None) is real:
            module.reached = lambda step, path: change()  # type: ignore[attr-defined]
