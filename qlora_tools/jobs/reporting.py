"""What a run reports, as its latest status, as events for those who follow it, and as lines of the log."""

import json
import math
import threading
import time
from typing import Any

from ..events import RunEvent
from ..hiding import hidden_secrets
from ..progress.line import status_line
from ..progress.pace import Pace
from .causes import memory_kills
from .clock import stamp
from .facts import Document, read_document
from .layout import AttemptFolder, JobFolder
from .turns import write_status

_STATUS_SECONDS = 1.0
_HEARTBEAT_SECONDS = 5.0
_LOG_SECONDS = 10.0
_MOST_WARNINGS = 20
_LEAST_SECONDS = {"progress": 0.5, "metrics": 1.0}
_TAKEN = {
    "loss": "loss",
    "evaluation_loss": "evaluation_loss",
    "tokens_per_second": "tokens_per_second",
    "peak_allocated_bytes": "memory_bytes",
}


class Reporter:
    """The listener of one attempt. Any thread may call it.

    A training tells its steps as metrics. Of other work `counts_pieces` makes steps of the progress within each phase.
    """

    def __init__(self, job: JobFolder, attempt: AttemptFolder, *, counts_pieces: bool = False) -> None:
        self._job, self._attempt = job, attempt
        # A second signal ends the run in the middle of a report, in the same thread.
        self._lock = threading.RLock()
        self._status: Document = {"attempt": attempt.number, "phase": "Loading the libraries", "warnings": []}
        self._changed, self._urgent, self._written = True, True, -math.inf
        self._counts_pieces = counts_pieces
        self._pace: Pace | None = None
        self._phase_began = time.monotonic()
        self._sent: dict[str, float] = {}
        self._logged = -math.inf

    def __call__(self, event: RunEvent) -> None:
        """Take one event of the run."""
        with self._lock:
            self._take(event)
            self._changed = True
            if event.kind in ("phase", "checkpoint", "warning"):
                self._urgent = True
        self._pass_on(event)
        self._log(event)
        self.write_status()

    def finish(self) -> None:
        """Write the last status, whenever the one before was written."""
        with self._lock:
            self._urgent = True
        self.write_status()

    def write_status(self) -> None:
        """Write `status.json` if something changed and it is time: at most once a second, but phases at once."""
        with self._lock:
            passed = time.monotonic() - self._written
            due = (self._changed and passed >= _STATUS_SECONDS) or passed >= _HEARTBEAT_SECONDS
            if not (due or self._urgent):
                return
            kills = memory_kills()
            document = {**self._status, "memory_kills": kills and kills["count"], "updated": stamp()}
            self._changed, self._urgent, self._written = False, False, time.monotonic()
            write_status(self._job, document)

    def tell_begin(self) -> None:
        """Let the log say which attempt begins, and from where."""
        number = self._attempt.number
        _say(
            "; ".join(_beginning(number, read_document(self._attempt.request_file) or {}, self._verdict_before(number)))
        )

    def tell_end(self, document: Document) -> None:
        """Let the log say how the attempt ended."""
        _say(f"Attempt {self._attempt.number} {document.get('state')}: {document.get('message')}")
        _say(f"Next: {document.get('next_step')}")

    def _verdict_before(self, number: int) -> Document:
        return (read_document(self._job.attempt(number - 1).exit_file) or {}) if number > 1 else {}

    def _take(self, event: RunEvent) -> None:
        status = self._status
        if self._counts_pieces:
            self._take_piece(event)
        if event.kind == "phase":
            status["phase"] = hidden_secrets(event.message)
        elif event.kind == "checkpoint":
            status["last_checkpoint"] = event.message
        elif event.kind == "warning":
            status["warnings"] = [*status["warnings"], hidden_secrets(event.message)][-_MOST_WARNINGS:]
        elif event.kind == "metrics":
            self._take_metrics(dict(event.values))

    def _take_piece(self, event: RunEvent) -> None:
        status = self._status
        status["begun"] = True
        if event.kind == "phase":
            status.update(step=None, planned_steps=None, eta_seconds=None)
            self._pace, self._phase_began = None, time.monotonic()
        elif event.kind == "progress":
            done, total = int(event.values.get("done", 0)), int(event.values.get("total", 0))
            status["step"], status["planned_steps"] = done, total or None
            self._keep_pace(done, total, time.monotonic() - self._phase_began)

    def _take_metrics(self, values: dict[str, Any]) -> None:
        status = self._status
        step, planned = int(values.get("step") or 0), int(values.get("planned_steps") or 0)
        status["step"] = max(step, status.get("step", 0))
        status["planned_steps"] = planned or status.get("planned_steps")
        for name, ours in _TAKEN.items():
            if name in values:
                status[ours] = values[name] if _is_number(values[name]) else None
        self._keep_pace(step, planned, values.get("seconds", 0.0), values.get("step_seconds"))

    def _keep_pace(self, step: int, planned: int, seconds: float, step_seconds: float | None = None) -> None:
        """Tell the expected end from `step`, done when the clock stood at `seconds`."""
        if self._pace is None and planned:
            self._pace = Pace(planned)
        if self._pace is not None:
            self._pace.feed(step, seconds, step_seconds=step_seconds)
            left = self._pace.eta_seconds
            self._status["eta_seconds"] = None if left is None else round(left, 1)

    def _pass_on(self, event: RunEvent) -> None:
        """Add the event to `events.jsonl`; of progress and metrics only some, so that it stays small."""
        if not self._wanted(event):
            return
        values = {name: value for name, value in event.values.items() if _is_number(value)}
        line = json.dumps({"kind": event.kind, "message": hidden_secrets(event.message), "values": values})
        try:
            with self._attempt.events_file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            return  # A full disk must not end the run here.

    def _wanted(self, event: RunEvent) -> bool:
        least = _LEAST_SECONDS.get(event.kind)
        values = event.values
        last = values.get("step") == values.get("planned_steps", -1) or values.get("done") == values.get("total", -1)
        last = last or "evaluation_loss" in values
        if least is None or last:
            return True
        if time.monotonic() - self._sent.get(event.kind, -math.inf) < least:
            return False
        self._sent[event.kind] = time.monotonic()
        return True

    def _log(self, event: RunEvent) -> None:
        if event.kind in ("phase", "note", "warning", "checkpoint"):
            word = "" if event.kind in ("phase", "note") else f"{event.kind}: "
            _say(f"{word}{event.message}")
        elif event.kind == "metrics" and time.monotonic() - self._logged >= _LOG_SECONDS:
            self._logged = time.monotonic()
            shown = {name: value for name, value in event.values.items() if _is_number(value)}
            _say(status_line(shown))


def _say(text: str) -> None:
    """Lines of the log with the time, which tells them from what libraries write."""
    for line in text.splitlines():
        print(f"[{stamp()}] {line}", flush=True)


def _beginning(number: int, request: Document, before: Document) -> list[str]:
    words = [f"Attempt {number} begins"]
    if before.get("state"):
        # A run that was killed could not write this itself.
        words.append(f"attempt {number - 1} ended as {before['state']}")
    if number > 1:
        words.append(f"from {request.get('resume_from') or 'the start'}")
    if changes := request.get("changes"):
        words.append("with changes: " + ", ".join(f"{name}={value}" for name, value in changes.items()))
    return words


def _is_number(value: object) -> bool:
    """Whether it can be told: JSON knows no NaN, and a loss that is none comes as NaN or None."""
    return isinstance(value, int | float) and math.isfinite(value)
