"""Work in child processes: the caller waits as long as it likes, and may come back for the answer with the same call."""

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import anyio

from qlora_tools.errors import MachineError, QloraError
from qlora_tools.subprocesses import runner_environment

Document = dict[str, Any]
# Clients give up on a call after about 60 seconds.
WAIT_SECONDS = 45.0
_MOST_SECONDS = 3600.0
_MOST_AT_ONCE = 3
_KEPT_SECONDS = 600.0
_POLL_SECONDS = 0.1
_TAIL_LINES = 30


class WorkerError(QloraError):
    """A worker said what is wrong, in the words of the error it met."""


class Work:
    """One child process, its latest event, and its answer when that is there."""

    def __init__(self, task: str, arguments: Mapping[str, Any]) -> None:
        self.event: Document = {"kind": "phase", "message": "Starting", "values": {}}
        self.began = time.monotonic()
        self.ended: float | None = None
        self._answer: Document | None = None
        self._said: deque[str] = deque(maxlen=_TAIL_LINES)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "qlora_tools.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=runner_environment("none"),
        )
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"task": task, "arguments": dict(arguments)}) + "\n")
        self._child.stdin.flush()
        for read in (self._read_answer, self._read_words):
            threading.Thread(target=read, name=f"work-{task}", daemon=True).start()

    @property
    def answer(self) -> Document:
        """The result. Raises `WorkerError` in the worker's own words, `MachineError` where it died without any."""
        if self._answer is None:
            last = next((line for line in reversed(self._said) if line.strip()), "it said nothing")
            raise MachineError(
                f"The worker process ended with code {self._child.poll()}: {last.strip()[:300]}",
                next_step="Where memory ran out, ask for less at once; check_environment tells what this machine has. "
                "The server's log has the worker's last lines.",
            )
        if "error" in self._answer:
            told = self._answer["error"]
            raise WorkerError(str(told["message"]), next_step=str(told["next_step"]))
        result: Document = self._answer["result"]
        return result

    def kill(self) -> None:
        """End the process now."""
        self._child.kill()

    def _read_answer(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            told = json.loads(line)
            if "event" in told:
                self.event = told["event"]
            else:
                self._answer = told
        self._child.wait()
        self.ended = time.monotonic()

    def _read_words(self) -> None:
        assert self._child.stderr is not None
        self._said.extend(self._child.stderr)


Progress = Callable[[Document], Any]


class WorkRoom:
    """The work that is under way or waits to be fetched, by what was asked."""

    def __init__(self) -> None:
        self._works: dict[str, Work] = {}

    async def done(
        self, task: str, arguments: Mapping[str, Any], told: Progress, *, wait_seconds: float = WAIT_SECONDS
    ) -> Document | None:
        """The answer, or None where it is not there in `wait_seconds`: the same call then goes on waiting.

        `told` is awaited with each new event. A caller that stops waiting ends nothing. Raises as `Work.answer` does, and
        `MachineError` where too much is under way.
        """
        key = json.dumps([task, arguments], sort_keys=True, default=str)
        self._forget()
        work = self._works.get(key)
        if work is None:
            self._require_room()
            work = self._works[key] = await anyio.to_thread.run_sync(Work, task, arguments)
        deadline, last = time.monotonic() + wait_seconds, None
        while work.ended is None and time.monotonic() < deadline:
            if work.event is not last:
                last = work.event
                await told(last)
            await anyio.sleep(_POLL_SECONDS)
        if work.ended is None:
            return None
        self._works.pop(key, None)
        return work.answer

    def event_of(self, task: str, arguments: Mapping[str, Any]) -> Document:
        """The latest event of work that is under way."""
        return self._works[json.dumps([task, arguments], sort_keys=True, default=str)].event

    def close(self) -> None:
        """End all work."""
        for work in self._works.values():
            work.kill()
        self._works.clear()

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
            if work.ended is not None and now - work.ended > _KEPT_SECONDS:
                del self._works[key]
