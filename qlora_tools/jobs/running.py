"""One attempt from its start to its verdict, in the runner."""

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import QloraError, RunStopped, WorkStopped
from ..hiding import HidingStream, hidden_secrets
from .adoption import adopt, leave_queue
from .facts import AttemptFacts, Document, read_document
from .layout import TRAINING, AttemptFolder, JobFolder, Ticket
from .logs import shorten_log
from .nouns import noun_of
from .outcomes import step_after_success
from .reporting import Reporter
from .turns import workspace_of
from .verdicts import newest_checkpoint, resume_step, step_after, verdict, write_verdict

if TYPE_CHECKING:
    from .runner import Work

_WATCH_SECONDS = 0.2
_STOPPED = 130
_BUG = 1
# A full disk may have room again soon, and a verdict is worth waiting for.
_VERDICT_TRIES = 30


def run_attempt(job: JobFolder, attempt: AttemptFolder, work: "Work | None") -> int:
    """Do the work of an attempt that has begun, write its verdict, and see that the queue moves on."""
    streams = [HidingStream(sys.stdout), HidingStream(sys.stderr)]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    faulthandler.enable(2)
    ending = Ending(job, attempt)
    ending.watch()
    with ending:
        chosen = work or _work_of(ending.kind)
        ending.result = chosen(job, attempt, ending.stop_asked, ending.reporter)
    for stream in streams:
        stream.finish()
    shorten_log(job.log_file)
    space = workspace_of(job.path)
    sequence = (read_document(attempt.request_file) or {}).get("sequence", 0)
    leave_queue(space, Ticket(sequence, job.id, attempt.number))
    adopt(space)
    return ending.exit_code


def _work_of(kind: str) -> "Work":
    if kind == TRAINING:
        from .training import train_as_planned

        return train_as_planned
    from .working import work_as_asked

    return work_as_asked


class Ending:
    """Everything that can end an attempt: its work, a wish, a signal, or an error. One verdict comes of it."""

    def __init__(self, job: JobFolder, attempt: AttemptFolder) -> None:
        self._job, self._attempt = job, attempt
        self._signal: str | None = None
        self._wished = False
        self._ended = False
        self._plan = read_document(job.plan_file) or {}
        self.kind = str(self._plan.get("kind", TRAINING))
        self.reporter = Reporter(job, attempt, counts_pieces=self.kind != TRAINING)
        self.result: Mapping[str, Any] | None = None
        self.exit_code = 0

    def watch(self) -> None:
        """Listen to signals and to the files that ask for an end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        threading.Thread(target=self._watch, name="job-watcher", daemon=True).start()

    def stop_asked(self) -> bool:
        """Whether the run should end with a checkpoint."""
        return self._wished or self._signal is not None

    def __enter__(self) -> "Ending":
        self.reporter.tell_begin()
        self.reporter.write_status()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None and not isinstance(error, QloraError):
            traceback.print_exception(kind, error, trace)
        self._end(self._verdict_of(error))
        return True

    def _verdict_of(self, error: BaseException | None) -> Document:
        last = newest_checkpoint(self._plan, read_document(self._attempt.request_file) or {})
        if error is None:
            result = dict(self.result or {})
            step = step_after_success(self.kind, result)
            document = verdict("succeeded", 0, f"The {self._noun} is done.", step, result=result)
        elif isinstance(error, RunStopped):
            document = self._of_a_stop(error, str(error.checkpoint) if error.checkpoint else last)
        else:
            document = _of_an_error(error, last, resume_step(self._job.id, self._plan, last), self._job.id)
        return {"checkpoint": last, **document}

    @property
    def _noun(self) -> str:
        return "run" if self.kind == TRAINING else noun_of(self.kind)

    def _of_a_stop(self, error: RunStopped, checkpoint: str | None) -> Document:
        asked_to = self._wishes().asked_to
        state = {"cancel": "cancelled", "stop": "stopped", None: "interrupted"}[asked_to]
        step = step_after(state, self._job.id, self._plan, checkpoint)
        # Other kinds have no steps and nothing that was trained; how far they were, they say themselves.
        of_run = self.kind == TRAINING or isinstance(error, WorkStopped)
        message = error.message if of_run else f"The {self._noun} was stopped."
        message = message if asked_to else f"{message} It got the signal {self._signal}."
        cause = "asked" if asked_to else self._signal
        return verdict(state, _STOPPED, message, step, checkpoint=checkpoint, cause=cause)

    def _end(self, document: Document) -> None:
        """Write the verdict, trying for a while where the disk refuses it."""
        self._ended = True
        self.reporter.finish()
        document = _without_secrets(document)
        for attempt in range(_VERDICT_TRIES):
            try:
                stands = write_verdict(self._attempt, document)
            except OSError as error:
                print(f"The verdict cannot be written ({error.strerror}), try {attempt + 1}", flush=True)
                time.sleep(1)
            else:
                self.exit_code = stands.get("exit_code", _BUG)
                self.reporter.tell_end(stands)
                return

    def _wishes(self) -> AttemptFacts:
        """What is asked of the attempt by files."""
        folder = self._attempt
        return AttemptFacts(
            number=folder.number,
            request={},
            stop=read_document(folder.stop_file),
            cancel=read_document(folder.cancel_file),
            stop_now=read_document(folder.stop_now_file),
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = signal.Signals(number).name
        elif not self._ended:
            self._end_at_once()

    def _watch(self) -> None:
        looked_at_log = time.monotonic()
        while not self._ended:
            time.sleep(_WATCH_SECONDS)
            self._wished = self._wished or self._attempt.stop_file.exists()
            if self._attempt.stop_now_file.exists() and not self._ended:
                self._end_at_once()
            self.reporter.write_status()
            if time.monotonic() - looked_at_log > 1:
                looked_at_log = time.monotonic()
                shorten_log(self._job.log_file)

    def _end_at_once(self) -> None:
        """End the process here and now, from whatever thread; the verdict comes first."""
        document = self._verdict_of(RunStopped(0, None))
        how = ", without a new checkpoint" if self.kind == TRAINING else ""
        self._end({**document, "message": f"The {self._noun} was ended at once{how}."})
        os._exit(_STOPPED)


def _of_an_error(error: BaseException, checkpoint: str | None, again: str, job_id: str) -> Document:
    if isinstance(error, QloraError):
        told = error.as_dict()
        step = error.next_step
        if checkpoint and "resume" in step.lower():
            step += f" The command is `qlora resume {job_id}`, with NAME=VALUE for changes."
        elif checkpoint:
            step += f" Then `qlora resume {job_id}`, with NAME=VALUE for changes, goes on from {checkpoint}."
        return verdict("failed", error.exit_code, error.message, step, cause="error", error=told)
    last = traceback.format_exception_only(error)[-1].strip()
    step = f"The log has the traceback: `qlora logs {job_id}`. After mending it: {again}"
    return verdict("failed", _BUG, last, step, cause="bug", error={"error": type(error).__name__})


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return hidden_secrets(value)
    if isinstance(value, Mapping):
        return {key: _without_secrets(item) for key, item in value.items()}
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value
