"""Resuming: the next attempt of a job, built aside and renamed into its place."""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import durable
from ..checkpoints import last_complete, require_complete
from ..disk import disk_errors
from ..errors import UsageError
from ..run_output import RESULT_FILE, check_writable
from .adoption import active_tickets, adopt, ensure_ticket
from .facts import Document, JobFacts, read_document
from .launch import relaunch
from .layout import AttemptFolder, JobFolder, Ticket, Workspace
from .locks import exclusive
from .reading import find_job, status_of
from .records import JobStatus
from .starting import check_output_is_free, request_document, write_attempt
from .states import RESUMABLE, TERMINAL, state_of
from .tickets import put
from .training import with_changes
from .verdicts import settled


def resume_job(
    job_id: str,
    *,
    from_checkpoint: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    workspace: Path | None = None,
) -> JobStatus:
    """Start the next attempt of a stopped, interrupted or failed job, from its last complete checkpoint or the given one.

    `changes` are dotted config fields. A job that has no checkpoint begins again. One that somebody else has resumed in
    this moment is returned as it is. Raises `UsageError` for an unknown id, a job that runs, succeeded or was cancelled,
    and a checkpoint that is not whole, `ConfigError` for changes that are no config.
    """
    space = Workspace.at(workspace)
    adopt(space)
    job = space.job(find_job(space, job_id))
    facts = settled(job)
    if facts is None:
        return status_of(space, job.id)
    _require_resumable(job.id, state_of(facts.last))
    request = _request(job, facts, from_checkpoint, dict(changes or {}))
    with disk_errors(job.path, left="the job stays as it was"), exclusive(space.queue_lock):
        check_output_is_free(space, facts.plan.get("output_directory", ""), except_job=job.id)
        _begin(space, job, facts.last.number + 1, {**request_document(space), **request})
    return status_of(space, job.id)


def _require_resumable(job_id: str, state: str) -> None:
    if state in RESUMABLE:
        return
    if state in TERMINAL:
        step = "Start a new job with `qlora train`."
        raise UsageError(
            f"The job {job_id} {_ENDED[state]}; only {', '.join(RESUMABLE)} ones are resumed.", next_step=step
        )
    raise UsageError(
        f"The job {job_id} is {state}; it has not ended.", next_step=f"Watch it: qlora status {job_id} --follow"
    )


_ENDED = {"succeeded": "has succeeded", "cancelled": "was cancelled"}


def _request(job: JobFolder, facts: JobFacts, chosen: Path | None, changes: Document) -> Document:
    """What the next attempt is to do differently; changes of earlier attempts still hold."""
    output = Path(facts.plan.get("output_directory", ""))
    checkpoint = chosen if chosen is not None else last_complete(output)
    if chosen is not None:
        require_complete(chosen)
    changes = {**facts.last.request.get("changes", {}), **changes}
    if checkpoint is None and _is_unfinished(output):
        # What a run without a checkpoint left is this job's own, and worth nothing.
        changes["output.overwrite"] = True
    check_writable(output)
    with_changes(read_document(job.config_file) or {}, changes)
    return {"resume_from": None if checkpoint is None else str(checkpoint), "changes": changes}


def _is_unfinished(output: Path) -> bool:
    finished = (output / RESULT_FILE).exists() or (output / "adapter").exists()
    return output.is_dir() and not finished


def _begin(space: Workspace, job: JobFolder, number: int, request: Document) -> None:
    """Put attempt `number` into its place; where another was faster, that one counts."""
    building = AttemptFolder(job.path / f".attempt-{number:03d}-{secrets.token_hex(4)}", number)
    attempt = job.attempt(number)
    if attempt.path.exists():
        return
    ticket = _ticket(space, job, number, int(request["sequence"]))
    try:
        write_attempt(building, {**request, "sequence": ticket.sequence})
        # The ticket comes first: an attempt without one would be forgotten.
        put(space, ticket)
        durable.publish_directory(building.path, attempt.path)
    except OSError:
        if not attempt.path.is_dir():
            raise
        return
    finally:
        shutil.rmtree(building.path, ignore_errors=True)
    ensure_ticket(space, job)
    relaunch(job, attempt)


def _ticket(space: Workspace, job: JobFolder, number: int, sequence: int) -> Ticket:
    """The ticket of the new attempt: that of somebody who was killed on the way here, if there is one."""
    found = [one for one in active_tickets(space) if (one.job_id, one.attempt) == (job.id, number)]
    return found[0] if found else Ticket(sequence, job.id, number)
