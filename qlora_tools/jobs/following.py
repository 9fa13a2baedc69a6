"""Following a job from outside: its events as if the run were in this process, and its end as an error or a result."""

import json
import time
from pathlib import Path

from .. import errors
from ..errors import CheckFailed, MachineError, QloraError, UsageError
from ..events import Listener, RunEvent, ignore
from .adoption import adopt
from .layout import Workspace
from .reading import status_of
from .records import JobStatus
from .states import QUEUED, TERMINAL

_POLL_SECONDS = 0.2
_ADOPT_SECONDS = 2.0
_SHOWN_AS_THEY_ARE = ("phase", "note", "progress", "metrics")


class JobStopped(QloraError):  # noqa: N818 - it names an outcome
    """A followed job was stopped or cancelled."""

    exit_code = 130


class JobInterrupted(QloraError):  # noqa: N818 - it names an outcome
    """A followed job died without a word, or has a bug."""

    exit_code = 1


class Follower:
    """Watches one job; after an interruption `follow` may be called again and goes on where it was."""

    def __init__(self, job_id: str, *, workspace: Path | None = None) -> None:
        self._space = Workspace.at(workspace)
        self._job_id = job_id
        self._on_event: Listener = ignore
        self._attempt, self._offset = 0, 0
        self._waits_for: str | None = None

    def status(self) -> JobStatus:
        """The job as it stands now."""
        return status_of(self._space, self._job_id)

    def follow(self, on_event: Listener) -> JobStatus:
        """Pass on what the run reports until it ends, and return its last status."""
        self._on_event = on_event
        adopted = time.monotonic()
        while True:
            status = self.status()
            self._tell_wait(status)
            self._pass_on_events(status.attempt)
            if status.state in TERMINAL:
                return status
            if time.monotonic() - adopted > _ADOPT_SECONDS:
                adopted = time.monotonic()
                adopt(self._space)
            time.sleep(_POLL_SECONDS)

    def _tell_wait(self, status: JobStatus) -> None:
        if status.state in QUEUED and status.waiting_for not in (self._waits_for, "its runner to start"):
            self._waits_for = status.waiting_for
            self._on_event(RunEvent("note", f"Waiting in the queue, place {status.queue_position}: {self._waits_for}"))

    def _pass_on_events(self, attempt: int) -> None:
        if attempt != self._attempt:
            self._attempt, self._offset = attempt, 0
        path = self._space.job(self._job_id).attempt(attempt).events_file
        try:
            with path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            if (event := _event(line)) is not None:
                self._on_event(event)


def _event(line: bytes) -> RunEvent | None:
    """The event of a line; those that a progress bar has no place for become notes. None for a torn line."""
    try:
        value = json.loads(line)
        kind, message, values = value["kind"], str(value["message"]), dict(value["values"])
    except (ValueError, KeyError, TypeError):
        return None
    if kind not in _SHOWN_AS_THEY_ARE:
        return RunEvent("note", f"  {kind}: {message}")
    return RunEvent(kind, message, values)


def raise_unless_succeeded(status: JobStatus) -> None:
    """Raise the error with which the run of an ended job would have ended in this process."""
    if status.state == "succeeded":
        return
    message, step = status.message or f"The job {status.id} is {status.state}.", status.next_step
    home = getattr(errors, str((status.error or {}).get("error")), None)
    if home in (errors.DataError, errors.ModelError, errors.MissingLibraryError, errors.DiskSpaceError):
        raise home(message, next_step=step)
    by_code = {2: UsageError, 3: CheckFailed, 4: MachineError, 130: JobStopped}
    raise by_code.get(status.exit_code or 1, JobInterrupted)(message, next_step=step)
