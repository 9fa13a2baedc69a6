"""Looking after jobs that nobody watches: verdicts for the dead, runners for those that wait, and a tidy folder.

Everyone who looks at a workspace does this, several at once if it so happens: each act is either done once or harmless twice.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from .. import durable
from .clock import now
from .facts import read_document
from .launch import relaunch
from .layout import JobFolder, Ticket, Workspace, names_in
from .states import QUEUED, TERMINAL, state_of
from .tickets import age_seconds, make_folder, put, take_away, tickets
from .verdicts import settled

LEFTOVER_SECONDS = 300.0


def adopt(space: Workspace) -> None:
    """Set every active job of the workspace right, and take away what crashes left. Cheap: finished jobs are not read."""
    if not space.jobs.is_dir():
        return
    try:
        for ticket in active_tickets(space):
            tend(space, ticket)
        _clean(space)
    except OSError:
        return  # Whoever may only read, or has a full disk, still sees the truth.


def active_tickets(space: Workspace) -> list[Ticket]:
    """All tickets; those of all jobs are made anew where their folder is missing."""
    try:
        return tickets(space)
    except (FileNotFoundError, NotADirectoryError):
        if space.active.exists():
            space.active.rename(space.root / f"active.damaged-{int(now())}")
        # What was to be forgotten in the index stood in the tickets.
        with suppress(OSError):
            space.index_file.unlink(missing_ok=True)
        make_folder(space, [ticket for job in _jobs(space) if (ticket := _ticket_of(job)) is not None])
        return tickets(space)


def tend(space: Workspace, ticket: Ticket) -> None:
    """Give the job of this ticket what it lacks: its verdict, its runner, or its rest.

    Where its files refuse that, it is left for the next who looks: others must not suffer from one job.
    """
    with suppress(OSError):
        _tend(space, ticket)


def _tend(space: Workspace, ticket: Ticket) -> None:
    job = space.job(ticket.job_id)
    facts = settled(job)
    if facts is not None and facts.unreadable is not None:
        return
    if facts is None or facts.last.number != ticket.attempt:
        superseded = facts is not None and facts.last.number > ticket.attempt
        if superseded or age_seconds(space.active / ticket.name) > LEFTOVER_SECONDS:
            take_away(space, ticket)
        return
    state = state_of(facts.last)
    if state in TERMINAL and facts.last.exit is not None:
        _clean_job(job)
        leave_queue(space, ticket)
    elif state in QUEUED and not facts.last.alive:
        relaunch(job, job.attempt(ticket.attempt))


def leave_queue(space: Workspace, ticket: Ticket) -> None:
    """Take away the ticket of an attempt with a verdict; before it the index forgets the verdict of the attempt before."""
    if ticket.attempt > 1:
        from .index import Index  # its libraries are more than a waiting process may hold

        if not Index(space.index_file).forget(ticket.job_id):
            return
    take_away(space, ticket)


def ensure_ticket(space: Workspace, job: JobFolder) -> None:
    """Make the ticket of a job that has none and no verdict."""
    ticket = _ticket_of(job)
    if ticket is not None and not (space.active / ticket.name).exists():
        put(space, ticket)


def _jobs(space: Workspace) -> list[JobFolder]:
    return [space.job(name) for name in names_in(space.jobs) if not name.startswith(".")]


def _ticket_of(job: JobFolder) -> Ticket | None:
    """The ticket that `job` should have; None for one with a verdict."""
    try:
        last = job.attempts()[-1]
    except (OSError, IndexError):
        return None
    if last.exit_file.exists():
        return None
    sequence = (read_document(last.request_file) or {}).get("sequence")
    job_id = job.id.removeprefix(".new-")
    return Ticket(sequence if isinstance(sequence, int) else int(now() * 1e9), job_id, last.number)


def _clean_job(job: JobFolder) -> None:
    """Remove what killed processes left half written in a job that has its verdict."""
    for path in (*job.path.glob(".*.partial"), *job.path.glob("attempt-*/.*.partial")):
        path.unlink(missing_ok=True)


def _clean(space: Workspace) -> None:
    for name in names_in(space.root):
        path = space.root / name
        if name.startswith(".removed-"):
            shutil.rmtree(path, ignore_errors=True)
        elif name.startswith(".new-job-") and age_seconds(path) > LEFTOVER_SECONDS:
            _clean_new(space, path)
        elif name.startswith(".new-active-") and age_seconds(path) > LEFTOVER_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
        elif name.startswith(".") and name.endswith(".partial") and age_seconds(path) > LEFTOVER_SECONDS:
            path.unlink(missing_ok=True)


def _clean_new(space: Workspace, path: Path) -> None:
    """A job whose submitter died half way: it is started if its key was claimed, so that the key's word holds."""
    key = (read_document(path / "plan.json") or {}).get("key_sha256")
    claimed = read_document(space.keys / key) if isinstance(key, str) else None
    job_id = path.name.removeprefix(".new-")
    if claimed is not None and claimed.get("job") == job_id:
        complete(space, job_id)
    else:
        shutil.rmtree(path, ignore_errors=True)


def complete(space: Workspace, job_id: str) -> None:
    """Give a job that is put together its name, its ticket and its runner; what is done already stays done."""
    give_name(space, job_id)
    job = space.job(job_id)
    ensure_ticket(space, job)
    attempts = job.attempts()
    if attempts and not attempts[-1].launches_file.exists():
        relaunch(job, attempts[-1])


def give_name(space: Workspace, job_id: str) -> None:
    """Let a job that is put together exist. Raises `OSError`."""
    building, job = space.building(job_id), space.job(job_id)
    if not building.path.is_dir() or (ticket := _ticket_of(building)) is None:
        return
    # The ticket comes first: a job without one would be forgotten.
    put(space, ticket)
    try:
        durable.publish_directory(building.path, job.path)
    except OSError:
        if not job.path.is_dir():
            raise
