"""Asking a job to end, and ending one that does not listen."""

import errno
import getpass
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from .. import durable
from ..disk import DISK_FULL, disk_errors
from ..errors import UsageError
from .adoption import adopt, tend
from .clock import stamp
from .facts import JobFacts
from .layout import JobFolder, Workspace
from .locks import Holder, holder
from .reading import find_job, status_of
from .records import JobStatus
from .states import QUEUED, TERMINAL, state_of
from .tickets import tickets
from .verdicts import end_unstarted, newest_checkpoint, settled, step_after, verdict

_PATIENCE_SECONDS = 3.0
_POLL_SECONDS = 0.05
_STOPPED = 130
# Of these the wish cannot be written, and whoever asks may still signal.
_NO_ROOM = (*DISK_FULL, errno.EROFS)


def stop_job(job_id: str, *, cancel: bool = False, now: bool = False, workspace: Path | None = None) -> JobStatus:
    """Ask a job to end: with a checkpoint from which it can be resumed, or, with `cancel`, for good.

    `now` waits for no checkpoint, and kills a runner that does not react within 3 s. A waiting job ends at once, and one
    that has ended is left as it is. Where the disk has no room for the wish, or is read-only, the runner of a job that has
    begun gets a signal instead, of which a warning tells. Raises `UsageError` for an unknown id, `MachineError` where it
    can be asked neither way.
    """
    space = Workspace.at(workspace)
    adopt(space)
    job = space.job(find_job(space, job_id))
    facts = settled(job)
    warnings: list[str] = []
    if facts is not None and state_of(facts.last) not in TERMINAL:
        with disk_errors(job.path, left="the job goes on"):
            warnings = _ask_somehow(job, facts, cancel=cancel, now=now)
        if now:
            _end(job)
        _tend(space, job)
    status = status_of(space, job.id)
    return status.model_copy(update={"warnings": [*status.warnings, *warnings]})


def _ask_somehow(job: JobFolder, facts: JobFacts, *, cancel: bool, now: bool) -> list[str]:
    """Ask by a file, or by a signal where there is no room for one; returns what to warn of. Raises `OSError`."""
    waits = state_of(facts.last) in QUEUED
    try:
        _ask(job, facts, cancel=cancel, now=now)
        if waits:
            end_unstarted(job.attempt(facts.last.number), _never_ran(job, facts, cancel=cancel))
    except OSError as error:
        # A waiting runner that is killed is started again.
        number = signal.SIGKILL if now else signal.SIGTERM
        if waits or error.errno not in _NO_ROOM or not _send(job, number):
            raise
        return [_sent_instead(job, error, now=now)]
    return []


def _sent_instead(job: JobFolder, error: OSError, *, now: bool) -> str:
    reason = "is read-only" if error.errno == errno.EROFS else "is full"
    signalled = "got the signal SIGTERM, to stop with a checkpoint; another `qlora stop` ends it at once"
    what = "was killed" if now else signalled
    return (
        f"The disk of {job.path} {reason}, so that the wish could not be written there: the run {what}. "
        "It will be told as interrupted, and can be resumed."
    )


def _ask(job: JobFolder, facts: JobFacts, *, cancel: bool, now: bool) -> None:
    """Write the wish. What was wished before stays, and the harder wish counts."""
    attempt = job.attempt(facts.last.number)
    wish = {"kind": "cancel" if cancel else "stop", "who": _user(), "pid": os.getpid(), "when": stamp()}
    wished = [*([attempt.cancel_file] if cancel else []), attempt.stop_file, *([attempt.stop_now_file] if now else [])]
    for path in wished:
        if path.exists():
            continue
        with suppress(FileExistsError):
            durable.write_once(path, durable.as_json(wish))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _never_ran(job: JobFolder, facts: JobFacts, *, cancel: bool) -> dict[str, object]:
    state = "cancelled" if cancel else "stopped"
    step = step_after(state, job.id, facts.plan, newest_checkpoint(facts.plan, facts.last.request))
    return verdict(state, _STOPPED, "It was ended while it waited; nothing was done.", step, cause="asked")


def _end(job: JobFolder) -> None:
    """Wait for the runner to end at once, and kill it where it does not."""
    if _has_ended(job, _PATIENCE_SECONDS):
        return
    _send(job, signal.SIGKILL)
    if not _has_ended(job, _PATIENCE_SECONDS):
        raise UsageError(
            f"The runner of {job.id} does not end, though it was killed.",
            next_step="It waits for the kernel (a disk or a GPU that hangs); look again later with `qlora status`.",
        )


def _has_ended(job: JobFolder, seconds: float) -> bool:
    """Whether it gets its verdict within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        facts = settled(job)
        if facts is None or state_of(facts.last) in TERMINAL:
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _send(job: JobFolder, number: signal.Signals) -> bool:
    """Signal the process that holds the job's lock, and no other that has got its number since; whether it was sent."""
    found = holder(job.lock_file)
    if found is None or found.pid <= 0 or found.pid == os.getpid():
        return False
    try:
        if hasattr(os, "pidfd_open"):
            return _send_to(job, found, number)
        os.kill(found.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _send_to(job: JobFolder, found: Holder, number: signal.Signals) -> bool:
    descriptor = os.pidfd_open(found.pid)
    try:
        # The descriptor names this very process; it is the one we mean if it still holds the lock.
        if holder(job.lock_file) != found:
            return False
        signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)
    return True


def _tend(space: Workspace, job: JobFolder) -> None:
    for ticket in tickets(space):
        if ticket.job_id == job.id:
            tend(space, ticket)
