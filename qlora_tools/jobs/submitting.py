"""Submitting a job of any kind: everything is put together aside, then one rename makes it exist."""

import hashlib
import os
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import durable
from ..disk import disk_errors
from ..errors import UsageError
from ..hiding import hidden_secrets
from . import keys
from .adoption import active_tickets, adopt, complete, give_name
from .clock import stamp
from .facts import Document, read_document
from .launch import DEVICES_VARIABLE
from .layout import SCHEMA_VERSION, AttemptFolder, JobFolder, Workspace, new_id
from .locks import exclusive
from .reading import status_of
from .records import JobStatus
from .tickets import next_sequence, positions
from .verdicts import make_spare

_LONGEST_NAME = 100
# `device_kind` of work that never uses a GPU; others are "cuda" or "cpu", as the machine is.
HOST_ONLY = "host"


@dataclass(frozen=True)
class Submission:
    """A job that is asked for: its plan, and what `config.json` or `work.json` is to hold.

    `inputs` and `output` raise what is wrong with what it reads and where it writes. The output is looked at in the moment in
    which the job gets its name, while others wait, so that look has to be short.
    """

    plan: Document
    document: Document
    inputs: Callable[[], None]
    output: Callable[[], None]


def submit(space: Workspace, submission: Submission, *, dry_run: bool) -> JobStatus:
    """Start the job in a process of its own and return at once; with `dry_run` only check and tell.

    Raises `UsageError` (another job in the output directory, a key that was used for another request) and `MachineError`.
    """
    plan = submission.plan
    if not dry_run and plan["key_sha256"] is not None and (found := keys.claimed_by(space, plan)) is not None:
        adopt(space)
        return status_of(space, found)
    submission.inputs()
    if dry_run:
        _check_output(space, submission)
        return _planned(space, plan)
    space.prepare()
    adopt(space)
    with disk_errors(space.root, left="no job was started"):
        return status_of(space, _started(space, submission))


def plan_document(kind: str, *, name: str | None, key: str | None, output: str, request: str) -> Document:
    """What every plan holds; `request` is the whole request as text, by which a key tells one from another."""
    return {
        "schema_version": SCHEMA_VERSION,
        "id": new_id(),
        "kind": kind,
        "created": stamp(),
        "name": _checked_name(name) if name is not None else Path(output).name,
        "output_directory": output,
        "working_directory": str(Path.cwd()),
        "key_sha256": None if key is None else _sha256(key),
        "request_sha256": _sha256(request),
    }


def check_output_is_free(space: Workspace, directory: str, *, except_job: str | None) -> None:
    """Raise `UsageError` where another job that has no verdict writes to `directory`."""
    wanted = os.path.realpath(directory)
    for ticket in active_tickets(space) if space.active.is_dir() else []:
        plan = read_document(space.job(ticket.job_id).plan_file) or {}
        if ticket.job_id != except_job and os.path.realpath(plan.get("output_directory", "/")) == wanted:
            raise UsageError(
                f"The job {ticket.job_id} writes to {directory}.",
                next_step=f"Choose another output directory, or end it first: qlora stop {ticket.job_id}",
            )


def request_document(space: Workspace, device_kind: str | None) -> Document:
    """`request.json` of a new attempt at the end of the queue."""
    return {
        "resume_from": None,
        "changes": {},
        "sequence": next_sequence(space),
        "visible_devices": "" if device_kind == HOST_ONLY else os.environ.get(DEVICES_VARIABLE),
        "when": stamp(),
    }


def write_attempt(attempt: AttemptFolder, request: Document) -> None:
    """Fill the new folder of an attempt; its number in the file system shows that it was made here. Raises `OSError`."""
    attempt.path.mkdir(mode=0o700)
    made = {**request, "folder": attempt.path.stat().st_ino}
    durable.write_once(attempt.request_file, durable.as_json(made))
    make_spare(attempt)


def _started(space: Workspace, submission: Submission) -> str:
    """Make the job and return its id: that of another where the key was claimed meanwhile."""
    building = space.building(str(submission.plan["id"]))
    try:
        active_tickets(space)
        _build(building, submission, request_document(space, submission.plan["device_kind"]))
        # Nobody else may take the key or the output directory between the look and the deed.
        with exclusive(space.queue_lock):
            job_id = _named(space, submission)
    finally:
        shutil.rmtree(building.path, ignore_errors=True)
    complete(space, job_id)
    return job_id


def _named(space: Workspace, submission: Submission) -> str:
    """Give the job that is put together its key and its name; the id of another that has the key already."""
    plan = submission.plan
    if plan["key_sha256"] is not None and (found := keys.claimed_by(space, plan)) is not None:
        return found
    _check_output(space, submission)
    if plan["key_sha256"] is not None:
        keys.claim(space, plan)
    give_name(space, str(plan["id"]))
    return str(plan["id"])


def _check_output(space: Workspace, submission: Submission) -> None:
    check_output_is_free(space, submission.plan["output_directory"], except_job=None)
    submission.output()


def _checked_name(name: str) -> str:
    control = any(unicodedata.category(letter).startswith("C") for letter in name)
    if not name.strip() or len(name) > _LONGEST_NAME or control:
        raise UsageError(
            f"{hidden_secrets(name)[:40]!a} cannot be the name of a job.",
            next_step=f"Write 1 to {_LONGEST_NAME} letters, without control characters.",
        )
    return name.strip()


def _build(building: JobFolder, submission: Submission, request: Document) -> None:
    """Write the complete folder of the job, under a name that nobody looks at yet."""
    building.path.mkdir(mode=0o700)
    durable.write_once(building.asked_file(submission.plan["kind"]), durable.as_json(submission.document))
    durable.write_once(building.lock_file, b"")
    durable.write_once(building.plan_file, durable.as_json(submission.plan))
    write_attempt(building.attempt(1), request)


def _planned(space: Workspace, plan: Document) -> JobStatus:
    place = len(positions(space)) + 1 if space.active.is_dir() else 1
    return JobStatus(
        id="",
        state="created",
        queue_position=place,
        waiting_for="nothing was started: this is a dry run",
        next_step="Leave --dry-run out to start it.",
        **{name: plan[name] for name in _TOLD},
    )


_TOLD = ("name", "kind", "model", "output_directory", "needed_bytes", "needed_how", "planned_steps", "created")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
