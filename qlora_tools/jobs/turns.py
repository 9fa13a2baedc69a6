"""Waiting for a turn: what a queued runner does, in a process that holds next to nothing."""

import os
import platform
import random
import time
from dataclasses import dataclass
from pathlib import Path

from .. import durable
from .._version import __version__
from ..errors import MachineError
from .admission import Running, Turn, Wait, choose
from .adoption import active_tickets, ensure_ticket, tend
from .causes import memory_kills
from .clock import boot_id, process_started, stamp
from .devices import devices_here, host_here, jobs_at_once
from .facts import Document, read_document, read_facts
from .layout import AttemptFolder, JobFolder, Ticket, Workspace
from .locks import exclusive
from .states import QUEUED, TERMINAL, state_of
from .verdicts import settled

# With more tickets than this in front, nothing is looked at but their number.
_LOOKED_AT = 32
_TEND_SECONDS = 2.0
_MOST_SECONDS = 5.0


@dataclass
class Queue:
    """One waiting attempt and its place."""

    space: Workspace
    job: JobFolder
    attempt: AttemptFolder

    def wait_for_turn(self) -> Turn | None:
        """Return when it is this attempt's turn and `started.json` is written; None where it was ended meanwhile."""
        plan, request = read_document(self.job.plan_file) or {}, read_document(self.attempt.request_file) or {}
        tended, told = 0.0, ""
        while not self._ended():
            ahead = self._ahead()
            if ahead and time.monotonic() - tended > _TEND_SECONDS:
                tended = time.monotonic()
                # Each looks after the one before it: a dead one would be waited for until somebody looks.
                tend(self.space, ahead[-1])
            if len(ahead) <= _LOOKED_AT:
                outcome = self._try(plan, request)
                if isinstance(outcome, Turn | None):
                    return outcome
                told = self._tell(outcome, told)
            pause = min(0.25 + 0.05 * len(ahead), _MOST_SECONDS)
            time.sleep(pause * random.uniform(0.8, 1.2))
        return None

    def _ended(self) -> bool:
        gone = not self.attempt.path.is_dir()
        return gone or self.attempt.started_file.exists() or self.attempt.exit_file.exists()

    def _ahead(self) -> list[Ticket]:
        found = active_tickets(self.space)
        mine = [ticket for ticket in found if ticket.job_id == self.job.id]
        if not mine:
            ensure_ticket(self.space, self.job)
            return found
        return [ticket for ticket in found if ticket < mine[0]]

    def _try(self, plan: Document, request: Document) -> Turn | Wait | None:
        """Its turn, if it is now; looked at once without the lock, so that those who wait do not crowd around it."""
        outcome = self._decide(plan, request)
        if isinstance(outcome, Wait):
            return outcome
        try:
            with exclusive(self.space.queue_lock):
                outcome = self._decide(plan, request)
                if isinstance(outcome, Turn) and not self._begin(outcome):
                    return None
                return outcome
        except MachineError as error:
            return Wait(error.message)

    def _decide(self, plan: Document, request: Document) -> Turn | Wait:
        """Strictly in order: whoever has a waiting one in front waits too."""
        running: list[Running] = []
        for ticket in self._ahead():
            found = self._running(ticket)
            if found is not None:
                running.append(found)
            elif self._waits(ticket):
                return Wait(f"{ticket.job_id}, which came first")
        devices = devices_here(request.get("visible_devices"))
        return choose(plan.get("needed_bytes"), running, devices, host_here(), jobs_at_once())

    def _running(self, ticket: Ticket) -> Running | None:
        job = self.space.job(ticket.job_id)
        started = read_document(job.attempt(ticket.attempt).started_file)
        if started is None or started.get("began") is False:
            return None
        facts = settled(job)
        if facts is None or state_of(facts.last) in TERMINAL:
            return None
        return Running(job.id, started.get("device"), facts.plan.get("needed_bytes"))

    def _waits(self, ticket: Ticket) -> bool:
        facts = read_facts(self.space.job(ticket.job_id))
        return facts is not None and facts.last.number == ticket.attempt and state_of(facts.last) in QUEUED

    def _begin(self, turn: Turn) -> bool:
        """Write that it begins; False where somebody ended it first."""
        document = {
            "began": True,
            "pid": os.getpid(),
            "process_started": process_started(os.getpid()),
            "boot_id": boot_id(),
            "host": platform.node(),
            "versions": {"python": platform.python_version(), "qlora_tools": __version__},
            "device": turn.device,
            "memory_kills": memory_kills(),
            "when": stamp(),
        }
        try:
            durable.write_once(self.attempt.started_file, durable.as_json(document))
        except FileExistsError:
            return False
        return True

    def _tell(self, outcome: Wait | None, told: str) -> str:
        """Write what it waits for, when that has changed; returns what is told now."""
        reason = outcome.reason if outcome is not None else ""
        if reason != told:
            document = {"attempt": self.attempt.number, "waiting_for": reason, "updated": stamp()}
            write_status(self.job, document)
        return reason


def write_status(job: JobFolder, document: Document) -> None:
    """Replace the advisory `status.json`; where the disk refuses, the old one stays."""
    try:
        durable.replace_file(job.status_file, durable.as_json(document), sync=False)
    except OSError:
        return


def workspace_of(job_directory: Path) -> Workspace:
    """The workspace of a job's folder."""
    return Workspace(job_directory.parent.parent)
