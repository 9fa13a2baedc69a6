"""How a server process ends: once, at most two seconds after it was told to, whatever still runs in it.

A tool that runs in a thread cannot be cancelled, and Python waits for its threads before it exits. So the process leaves
by `os._exit`: first whoever serves gets a moment to answer and to leave by itself, then what must be closed is closed, then
it is over. Training jobs have sessions of their own and are not touched.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import NoReturn

from .logs import log_to_stderr

# Together below two seconds: noticing that the parent died, leaving, closing, the last lines of the log.
_LOOK_SECONDS = 0.4
_CLOSE_SECONDS = 0.4
_FLUSH_SECONDS = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _nothing() -> None:
    """Where nobody has to be told."""


class Ending:
    """Serve inside `with`: leaving the block ends the process, with code 0 unless a bug left it.

    `grace_seconds` is what the block gets between being told and the end. `on_told` is called then, from another thread;
    `at_end` are called just before the end, each in its own thread and for a moment only. `with_parent` ends the process
    when its parent dies.
    """

    def __init__(
        self,
        *,
        grace_seconds: float,
        with_parent: bool = False,
        on_told: Callable[[], None] = _nothing,
        at_end: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._grace = grace_seconds
        # Asked again and again: PR_SET_PDEATHSIG would fire when the thread that started this process ends, and a descriptor
        # of the parent exists on Linux alone. A new parent is another number, be it init or whoever adopts orphans.
        self._parent = os.getppid() if with_parent else None
        self._on_told = on_told
        self._at_end = at_end
        self._log = log_to_stderr()
        self._told, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        self._finishing = threading.Lock()

    def __enter__(self) -> "Ending":
        # Written by C code, even while the main thread sits in a long call and runs no handler.
        signal.set_wakeup_fd(self._tell, warn_on_full_buffer=False)
        for number in _SIGNALS:
            # `nohup` has the hang-up of a terminal ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        threading.Thread(target=self._watch, name="ending", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> NoReturn:
        bug = kind is not None and error is not None and not _is_hang_up(error)
        if bug:
            sys.excepthook(kind, error, trace)  # type: ignore[arg-type]
        self._finish(1 if bug else 0)

    def fileno(self) -> int:
        """A descriptor that is readable once the process was told to end, and stays so: for `select`."""
        return self._told

    def begin(self) -> None:
        """Tell the process to end. From any thread, also twice."""
        with suppress(BlockingIOError):
            os.write(self._tell, b"!")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.begin()

    def _watch(self) -> None:
        while not select.select([self._told], [], [], _LOOK_SECONDS)[0]:
            if self._parent is not None and os.getppid() != self._parent:
                self.begin()
        self._on_told()
        time.sleep(self._grace)
        self._finish(0)

    def _finish(self, code: int) -> NoReturn:
        # Never given back: whoever comes second waits here for the end.
        self._finishing.acquire()
        _run_for_a_moment(self._at_end, _CLOSE_SECONDS)
        # Writing waits for ever where nobody reads our stderr.
        _run_for_a_moment([self._log.finish], _FLUSH_SECONDS)
        # Not `sys.exit`: it waits for threads of tools, and writes what is left of Python's print buffer on the wire.
        os._exit(code)


def _run_for_a_moment(calls: Sequence[Callable[[], None]], seconds: float) -> None:
    """Each in a thread: one that hangs does not keep the others, and one that fails says so on stderr."""
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _is_hang_up(error: BaseException) -> bool:
    """Whether all that happened is that the client no longer reads."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(ConnectionError)[1] is None
    return isinstance(error, ConnectionError)
