"""Resuming: the next attempt of a job, built aside and renamed into its place."""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import durable
from ..checkpoints import checkpoints_directory, last_complete, require_complete, unusable_checkpoints
from ..disk import disk_errors
from ..errors import UsageError
from ..going_on import config_of, require_of_output, require_same_config
from ..run_output import check_writable
from .adoption import active_tickets, adopt, ensure_ticket
from .facts import Document, JobFacts, read_document
from .launch import relaunch
from .layout import TRAINING, AttemptFolder, JobFolder, Ticket, Workspace
from .locks import exclusive
from .nouns import command_of
from .reading import find_job, status_of
from .records import JobStatus
from .states import RESUMABLE, TERMINAL, state_of
from .submitting import check_output_is_free, request_document, write_attempt
from .tickets import put
from .training import with_changes
from .verdicts import settled


def resume_job(
    job_id: str,
    *,
    from_checkpoint: Path | None = None,
    from_start: bool = False,
    changes: Mapping[str, Any] | None = None,
    workspace: Path | None = None,
) -> JobStatus:
    """Start the next attempt of a stopped, interrupted or failed job, from its last complete checkpoint or the given one.

    `changes` are dotted config fields. A job that never had a checkpoint begins again; one that had some only with
    `from_start`, which moves them aside. Jobs that are no training take none of these: they go on from what they have
    written. A job that somebody else has resumed in this moment is returned as it is.

    Raises `UsageError` for an unknown id, a job that runs, succeeded or was cancelled, and where no checkpoint is whole,
    `ConfigError` for changes that are no config or would make another run of it.
    """
    space = Workspace.at(workspace)
    adopt(space)
    job = space.job(find_job(space, job_id))
    facts = settled(job)
    if facts is None:
        return status_of(space, job.id)
    _require_readable(facts)
    _require_resumable(facts, state_of(facts.last))
    if from_start and from_checkpoint is not None:
        raise UsageError("A checkpoint and the start are both asked for.", next_step="Name one of them.")
    if facts.plan.get("kind", TRAINING) == TRAINING:
        checkpoint = None if from_start else _checkpoint(facts, from_checkpoint)
        request = _request(job, facts, checkpoint, dict(changes or {}))
    else:
        request = _same_again(facts, bool(changes or from_checkpoint or from_start))
    with disk_errors(job.path, left="the job stays as it was"), exclusive(space.queue_lock):
        check_output_is_free(space, facts.plan.get("output_directory", ""), except_job=job.id)
        _begin(space, job, facts.last.number + 1, {**request_document(space, facts.plan.get("device_kind")), **request})
    return status_of(space, job.id)


def _require_readable(facts: JobFacts) -> None:
    reason = facts.unreadable or ("its plan.json is damaged" if "damaged" in facts.plan else None)
    if reason is not None:
        raise UsageError(
            f"The job {facts.id} cannot be resumed: {reason}.",
            next_step=f"Start a new job with `{_command(facts)}`; its output directory keeps what was made.",
        )


def _require_resumable(facts: JobFacts, state: str) -> None:
    if state in RESUMABLE:
        return
    if state in TERMINAL:
        raise UsageError(
            f"The job {facts.id} {_ENDED[state]}; only {', '.join(RESUMABLE)} ones are resumed.",
            next_step=f"Start a new job with `{_command(facts)}`.",
        )
    raise UsageError(
        f"The job {facts.id} is {state}; it has not ended.", next_step=f"Watch it: qlora status {facts.id} --follow"
    )


def _command(facts: JobFacts) -> str:
    return command_of(facts.plan.get("kind", TRAINING))


_ENDED = {"succeeded": "has succeeded", "cancelled": "was cancelled"}


def _checkpoint(facts: JobFacts, chosen: Path | None) -> Path | None:
    """The checkpoint to go on from: the chosen one, else the last that is whole; None where there never was one."""
    output = Path(facts.plan.get("output_directory", ""))
    if chosen is not None:
        require_of_output(chosen, output)
        require_complete(chosen)
        return chosen
    last = last_complete(output)
    if last is None:
        _require_none_lost(facts, output)
    return last


def _require_none_lost(facts: JobFacts, output: Path) -> None:
    """A job that had checkpoints must not begin again in silence: its disk may be elsewhere, or be mended."""
    broken = [f"{directory.name}: {problem}" for directory, problem in unusable_checkpoints(output)]
    told = [attempt.exit.get("checkpoint") for attempt in facts.attempts if attempt.exit]
    had = next((one for one in [*reversed(told), facts.status.get("last_checkpoint")] if one), None)
    if not broken and had is None:
        return
    what = f"None of them is whole ({'; '.join(broken)})" if broken else f"{had} is gone"
    raise UsageError(
        f"The job {facts.id} had checkpoints in {checkpoints_directory(output)}. {what}.",
        next_step="Bring one back (is the directory moved, or its disk not mounted?), or begin again, with what is there "
        f"moved aside: qlora resume {facts.id} --from-start",
    )


def _request(job: JobFolder, facts: JobFacts, checkpoint: Path | None, changes: Document) -> Document:
    """What the next attempt is to do differently; changes of earlier attempts still hold."""
    fixed = sorted({"output.directory", "output.overwrite"} & changes.keys())
    if fixed:
        raise UsageError(
            f"{fixed[0]} cannot change: a job keeps its output directory.",
            next_step="Start a new job with `qlora train`.",
        )
    check_writable(Path(facts.plan.get("output_directory", "")))
    changes = {**facts.last.request.get("changes", {}), **changes}
    config = with_changes(read_document(job.config_file) or {}, changes)
    if checkpoint is not None:
        require_same_config(config_of(checkpoint), config.model_dump(mode="json"))
    return {
        "resume_from": None if checkpoint is None else str(checkpoint),
        "begin_again": checkpoint is None,
        "changes": changes,
    }


def _same_again(facts: JobFacts, changed: bool) -> Document:
    """The next attempt of a job that is no training: the same call, which goes on from what is written."""
    if changed:
        raise UsageError(
            f"The job {facts.id} is no training: it has no checkpoints and nothing that could be changed.",
            next_step=f"Run `qlora resume {facts.id}` alone, or start it anew with other arguments.",
        )
    check_writable(Path(facts.plan.get("output_directory", "")))
    return {"resume_from": None}


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
