"""Work in child processes: the caller waits as long as it likes, and may come back for the answer with the same call."""

import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from qlora_tools.errors import MachineError, QloraError
from qlora_tools.subprocesses import start_talking

from .warm_work import WarmWork

if TYPE_CHECKING:
    from qlora_tools.worker.warm import WarmWorker

Document = dict[str, Any]
# Clients give up on a call after about 60 seconds.
WAIT_SECONDS = 45.0
_MOST_SECONDS = 3600.0
_MOST_AT_ONCE = 3
_KEPT_SECONDS = 120.0
_POLL_SECONDS = 0.1
_TAIL_LINES = 30


class WorkerError(QloraError):
    """A worker said what is wrong, in the words of the error it met."""


class Work:
    """One piece of work: its child process once that is started, its latest event, and its answer when that is there."""

    def __init__(self, task: str, arguments: Mapping[str, Any]) -> None:
        self.event: Document = {"kind": "phase", "message": "Starting", "values": {}}
        self.began = time.monotonic()
        self.ended: float | None = None
        self._asked = json.dumps({"task": task, "arguments": dict(arguments)}) + "\n"
        self._name = f"work-{task}"
        self._answer: Document | None = None
        self._said: deque[str] = deque(maxlen=_TAIL_LINES)
        self._child: subprocess.Popen[str] | None = None
        self._killed = False

    def start(self) -> None:
        """Start the process; blocks for some milliseconds. Once."""
        self._child = start_talking("qlora_tools.worker")
        threading.Thread(target=self._talk, args=(self._child,), name=self._name, daemon=True).start()
        threading.Thread(target=self._listen, args=(self._child,), name=self._name, daemon=True).start()
        if self._killed:
            self.kill()

    @property
    def answer(self) -> Document:
        """The result. Raises `WorkerError` in the worker's own words, `MachineError` where it died without any."""
        if self._answer is None:
            last = next((line for line in reversed(self._said) if line.strip()), "it said nothing")
            code = None if self._child is None else self._child.poll()
            raise MachineError(
                f"The worker process ended with code {code}: {last.strip()[:300]}",
                next_step="Where memory ran out, ask for less at once; check_environment tells what this machine has.",
            )
        if "error" in self._answer:
            told = self._answer["error"]
            raise WorkerError(str(told["message"]), next_step=str(told["next_step"]))
        result: Document = self._answer["result"]
        return result

    def kill(self) -> None:
        """End the process and what it started, now."""
        self._killed = True
        if self._child is not None and self._child.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _talk(self, child: "subprocess.Popen[str]") -> None:
        """Ask, and read what comes until the child has ended, whatever it says."""
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with suppress(BrokenPipeError):
                child.stdin.write(self._asked)
                child.stdin.flush()
            for line in child.stdout:
                self._take(line)
        finally:
            child.wait()
            self.ended = time.monotonic()

    def _take(self, line: str) -> None:
        try:
            told = json.loads(line)
        except ValueError:
            return  # It was killed in the middle of a line.
        if "event" in told:
            self.event = told["event"]
        else:
            self._answer = told

    def _listen(self, child: "subprocess.Popen[str]") -> None:
        assert child.stderr is not None
        self._said.extend(child.stderr)


Progress = Callable[[Document], Any]


class WorkRoom:
    """The work that is under way or waits to be fetched, by what was asked, for one workspace."""

    def __init__(self, workspace: Path = Path()) -> None:
        self._works: dict[str, Work | WarmWork] = {}
        self._workspace = workspace
        self._warm: WarmWorker | None = None

    async def done(
        self, task: str, arguments: Mapping[str, Any], told: Progress, *, wait_seconds: float = WAIT_SECONDS
    ) -> Document | None:
        """The answer, or None where it is not there in `wait_seconds`: the same call then goes on waiting.

        `told` is awaited with each new event. A caller that stops waiting ends nothing. Raises as `Work.answer` does, and
        `MachineError` where too much is under way.
        """
        key = _key(task, arguments)
        self._forget()
        work = self._works.get(key)
        if work is None:
            self._require_room()
            # In its place before anything is waited for: the same call a moment later finds it.
            work = self._works[key] = self._made(task, arguments)
            await self._started(key, work)
        deadline, last = time.monotonic() + wait_seconds, None
        while work.ended is None and time.monotonic() < deadline:
            if work.event is not last:
                last = work.event
                await told(last)
            await anyio.sleep(_POLL_SECONDS)
        if work.ended is None:
            return None
        if self._works.get(key) is work:
            del self._works[key]
        return work.answer

    def latest(self, task: str, arguments: Mapping[str, Any]) -> Document:
        """The latest event of work that is under way; an empty one where it is not."""
        work = self._works.get(_key(task, arguments))
        return {"message": "", "values": {}} if work is None else work.event

    def _made(self, task: str, arguments: Mapping[str, Any]) -> "Work | WarmWork":
        """Work in a process of its own; answers come from one that keeps the model, or every call would load it again."""
        if task != "generate":
            return Work(task, arguments)
        from qlora_tools.worker.warm import WarmWorker

        self._warm = self._warm or WarmWorker(self._workspace)
        return WarmWork(self._warm, arguments)

    async def _started(self, key: str, work: "Work | WarmWork") -> None:
        try:
            await anyio.to_thread.run_sync(work.start)
        except OSError as error:
            del self._works[key]
            raise MachineError(
                f"No worker process can be started: {error.strerror}.",
                next_step="Free memory or processes, then try again.",
            ) from None

    def close(self) -> None:
        """End all work."""
        for work in self._works.values():
            work.kill()
        self._works.clear()
        if self._warm is not None:
            self._warm.close()

    def _require_room(self) -> None:
        running = sum(work.ended is None for work in self._works.values())
        if running >= _MOST_AT_ONCE:
            raise MachineError(
                f"{running} other calls are computing already, and no more than {_MOST_AT_ONCE} may.",
                next_step="Wait for them: make one of those calls again, then this one.",
            )

    def _forget(self) -> None:
        """Drop answers that nobody fetched, and end what takes far too long."""
        now = time.monotonic()
        for key, work in list(self._works.items()):
            if work.ended is None and now - work.began > _MOST_SECONDS:
                work.kill()
                del self._works[key]
            elif work.ended is not None and now - work.ended > _KEPT_SECONDS:
                del self._works[key]


def _key(task: str, arguments: Mapping[str, Any]) -> str:
    """What was asked, with the state of every file that it names: rows that were mended since are other rows."""
    stamps = [_stamp(value) for value in arguments.values() if isinstance(value, str) and value.startswith("/")]
    return json.dumps([task, arguments, stamps], sort_keys=True, default=str)


def _stamp(path: str) -> list[int]:
    try:
        found = Path(path).stat()
    except OSError:
        return []
    return [found.st_ino, found.st_size, found.st_mtime_ns]
