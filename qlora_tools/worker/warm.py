"""A process that keeps a model loaded between requests, seen from the caller: light, and usable from threads.

    worker = WarmWorker(workspace)
    document = worker.ask("generate", {"adapter": "out", "prompts": ["Hello"]}, on_event=print)

The process starts with the first request and ends by itself (see `keeping`); the next request starts it anew. It is a child
that is talked to through pipes, with nothing on disk: it cannot outlive its caller, and no other user can reach it.
"""

import json
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import errors
from ..errors import MachineError, QloraError
from ..events import Listener, RunEvent, StopAsked, ignore, never
from ..generation.stopping import AnsweringStopped
from ..subprocesses import start_talking

Document = dict[str, Any]
_POLL_SECONDS = 0.1
# A process that loads a model hears of a cancel only afterwards.
_CANCEL_SECONDS = 2.0
_TAIL_LINES = 30
_STARTS = 3
_TOLD = (
    "UsageError",
    "DataError",
    "ModelError",
    "CheckFailed",
    "MachineError",
    "DiskSpaceError",
    "MissingLibraryError",
)


@dataclass(frozen=True)
class WarmLimits:
    """How long a process without work is kept, and how much base and adapters may take (None: what is free)."""

    idle_seconds: float = 600.0
    memory_limit_bytes: int | None = None


class WarmWorker:
    """The warm process of one caller, or none while nothing was asked. Requests are answered one after another."""

    def __init__(self, workspace: Path, limits: WarmLimits | None = None) -> None:
        self._workspace = workspace
        self._limits = limits or WarmLimits()
        self._child: _Child | None = None
        self._turn = threading.Lock()
        self._asked = 0
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether a process is there; its model may be loaded."""
        return self._child is not None and self._child.alive

    def ask(
        self,
        task: Literal["generate"],
        arguments: Mapping[str, Any],
        *,
        on_event: Listener = ignore,
        stop: StopAsked = never,
    ) -> Document:
        """The result of `generate` with these arguments, as JSON. Blocks; call it from a thread.

        `on_event` and `stop` are called in the asking thread, `stop` several times a second; when it says so the answer is
        given up and the process stays.

        Raises what `generate` raises, `AnsweringStopped`, and `MachineError` where the process was killed or gave way to
        a job.
        """
        with self._its_turn(stop, on_event):
            for _ in range(_STARTS):
                if self._closed:
                    raise AnsweringStopped(0, len(arguments["prompts"]))
                self._asked += 1
                found = self._current().answered(self._asked, arguments, on_event, stop)
                if found is not None:
                    return found
        raise MachineError(
            "The process that answers ended several times before it began.", next_step="Try again in a minute."
        )

    def close(self) -> None:
        """End the process and free what it holds, now and for good."""
        self._closed = True
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    @contextmanager
    def _its_turn(self, stop: StopAsked, on_event: Listener) -> Iterator[None]:
        if not self._turn.acquire(blocking=False):
            on_event(RunEvent("phase", "Waiting for another request"))
            while not self._turn.acquire(timeout=_POLL_SECONDS):
                if stop():
                    raise AnsweringStopped(0, 0)
        try:
            yield
        finally:
            self._turn.release()

    def _current(self) -> "_Child":
        if self._child is None or not self._child.alive:
            settings = {
                "workspace": str(self._workspace),
                "idle_seconds": self._limits.idle_seconds,
                "memory_limit_bytes": self._limits.memory_limit_bytes,
            }
            self._child = _Child(settings)
        return self._child


class _Child:
    """One process, and the two threads that read what it says."""

    def __init__(self, settings: Document) -> None:
        try:
            self._process = start_talking("qlora_tools.worker.keeping")
        except OSError as error:
            raise MachineError(
                f"No worker process can be started: {error.strerror}.",
                next_step="Free memory or processes, then try again.",
            ) from None
        self._said: deque[str] = deque(maxlen=_TAIL_LINES)
        self._told: queue.Queue[Document | None] = queue.Queue()
        for read in (self._read, self._listen):
            threading.Thread(target=read, name="warm-worker", daemon=True).start()
        self._write(settings)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def answered(
        self, number: int, arguments: Mapping[str, Any], on_event: Listener, stop: StopAsked
    ) -> Document | None:
        """The answer to request `number`; None where the process ended before it began with it."""
        self._write({"id": number, "arguments": dict(arguments)})
        begun = False
        for told in self._heard(number, stop, len(arguments["prompts"])):
            if told is None and begun:
                raise self._killed()
            if told is None:
                return None
            begun = True
            if "event" in told:
                on_event(RunEvent(**told["event"]))
            elif "error" in told:
                raise _as_error(told["error"], len(arguments["prompts"]))
            elif "result" in told:
                return dict(told["result"])
        return None

    def _heard(self, number: int, stop: StopAsked, prompts: int) -> Iterator[Document | None]:
        """What is said about request `number`; None when the process has ended. Tells it when the caller wants to stop."""
        cancelled: float | None = None
        while True:
            if cancelled is None and stop():
                cancelled = time.monotonic()
                self._write({"cancel": number})
            if cancelled is not None and time.monotonic() - cancelled > _CANCEL_SECONDS:
                raise AnsweringStopped(0, prompts)
            try:
                told = self._told.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            # What is said of a request that was given up is passed over.
            if told is None or told.get("id") == number:
                yield told

    def kill(self) -> None:
        """End it and what it started."""
        if self.alive:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _write(self, document: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(document) + "\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):  # It was killed in the middle of a line.
                self._told.put(json.loads(line))
        self._process.wait()
        self._told.put(None)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        self._said.extend(self._process.stderr)

    def _killed(self) -> MachineError:
        last = next((line.strip() for line in reversed(self._said) if line.strip()), "it said nothing")
        return MachineError(
            f"The process that keeps the model ended with code {self._process.poll()}: {last[:300]}",
            next_step="Ask again: a new one is started. Where memory ran out, ask for fewer prompts or tokens at once.",
        )


def _as_error(told: Mapping[str, Any], prompts: int) -> QloraError:
    """The error that the process met, of the same kind and in the same words."""
    if told["error"] == "AnsweringStopped":
        return AnsweringStopped(0, prompts)
    kind = getattr(errors, told["error"]) if told["error"] in _TOLD else MachineError
    found: QloraError = kind(told["message"], next_step=told["next_step"])
    return found
