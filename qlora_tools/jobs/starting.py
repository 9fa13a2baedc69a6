"""Starting a job: everything is put together aside, then one rename makes it exist."""

import hashlib
import json
import os
import shutil
import unicodedata
from pathlib import Path

from .. import durable
from ..config import RunConfig
from ..disk import disk_errors
from ..errors import UsageError
from ..hiding import hidden_secrets
from ..paths import as_path
from ..requirements import require_tracker, require_training_libraries
from ..run_output import check_output
from . import keys
from .adoption import active_tickets, adopt, complete, give_name
from .clock import stamp
from .devices import may_have_gpu
from .facts import Document, read_document
from .launch import DEVICES_VARIABLE
from .layout import SCHEMA_VERSION, AttemptFolder, JobFolder, Workspace, new_id
from .locks import exclusive
from .needs import check_local_model, needed_here, with_absolute_paths
from .reading import status_of
from .records import JobStatus
from .tickets import next_sequence, positions
from .verdicts import make_spare

_LONGEST_NAME = 100


def start_training(
    config: RunConfig,
    *,
    workspace: Path | None = None,
    idempotency_key: str | None = None,
    name: str | None = None,
    dry_run: bool = False,
) -> JobStatus:
    """Start a training job in a process of its own and return at once; it waits for its turn by itself.

    With `idempotency_key` the same request starts one job however often it is sent. `dry_run` plans and writes nothing.

    Raises `UsageError` (results or another job in the output directory, a key that was used for another request),
    `ConfigError`, `ModelError` and `MachineError` (libraries, permission or disk space are missing).
    """
    require_training_libraries("training")
    require_tracker(config.training.tracking)
    config = with_absolute_paths(config)
    check_local_model(config)
    plan = _plan(config, name, idempotency_key)
    space = Workspace.at(workspace)
    if dry_run:
        _check(space, config)
        return _planned(space, plan)
    space.prepare()
    adopt(space)
    if idempotency_key is not None and (found := keys.claimed_by(space, plan)) is not None:
        return status_of(space, found)
    with disk_errors(space.root, left="no job was started"):
        return status_of(space, _started(space, config, plan))


def _started(space: Workspace, config: RunConfig, plan: Document) -> str:
    """Make the job and return its id: that of another where the key was claimed meanwhile."""
    building = space.building(str(plan["id"]))
    try:
        active_tickets(space)
        _build(building, config, plan, request_document(space))
        # Nobody else may take the key or the output directory between the look and the deed.
        with exclusive(space.queue_lock):
            job_id = _named(space, config, plan)
    finally:
        shutil.rmtree(building.path, ignore_errors=True)
    complete(space, job_id)
    return job_id


def _named(space: Workspace, config: RunConfig, plan: Document) -> str:
    """Give the job that is put together its key and its name; the id of another that has the key already."""
    if plan["key_sha256"] is not None and (found := keys.claimed_by(space, plan)) is not None:
        return found
    _check(space, config)
    if plan["key_sha256"] is not None:
        keys.claim(space, plan)
    give_name(space, str(plan["id"]))
    return str(plan["id"])


def check_output_is_free(space: Workspace, directory: str, *, except_job: str | None) -> None:
    """Raise `UsageError` where another job that has no verdict writes to `directory`."""
    wanted = os.path.realpath(directory)
    for ticket in active_tickets(space) if space.active.is_dir() else []:
        plan = read_document(space.job(ticket.job_id).plan_file) or {}
        if ticket.job_id != except_job and os.path.realpath(plan.get("output_directory", "/")) == wanted:
            raise UsageError(
                f"The job {ticket.job_id} writes to {directory}.",
                next_step=f"Choose another output.directory, or end it first: qlora stop {ticket.job_id}",
            )


def request_document(space: Workspace, *, resume_from: str | None = None, changes: Document | None = None) -> Document:
    """`request.json` of a new attempt at the end of the queue."""
    return {
        "resume_from": resume_from,
        "changes": changes or {},
        "sequence": next_sequence(space),
        "visible_devices": os.environ.get(DEVICES_VARIABLE),
        "when": stamp(),
    }


def write_attempt(attempt: AttemptFolder, request: Document) -> None:
    """Fill the new folder of an attempt; its number in the file system shows that it was made here. Raises `OSError`."""
    attempt.path.mkdir(mode=0o700)
    made = {**request, "folder": attempt.path.stat().st_ino}
    durable.write_once(attempt.request_file, durable.as_json(made))
    make_spare(attempt)


def _check(space: Workspace, config: RunConfig) -> None:
    check_output_is_free(space, config.output.directory, except_job=None)
    check_output(as_path(config.output.directory), overwrite=config.output.overwrite)


def _plan(config: RunConfig, name: str | None, key: str | None) -> Document:
    kind = "cuda" if may_have_gpu(os.environ.get(DEVICES_VARIABLE)) else "cpu"
    needed, how = needed_here(config, kind)
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return {
        "schema_version": SCHEMA_VERSION,
        "id": new_id(),
        "kind": "train",
        "created": stamp(),
        "name": _checked_name(name) if name is not None else Path(config.output.directory).name,
        "model": config.model.name,
        "output_directory": config.output.directory,
        "needed_bytes": needed,
        "needed_how": how,
        "device_kind": kind,
        "planned_steps": config.training.max_steps,
        "tracking": config.training.tracking,
        "working_directory": str(Path.cwd()),
        "key_sha256": None if key is None else _sha256(key),
        "request_sha256": _sha256(text),
    }


def _checked_name(name: str) -> str:
    control = any(unicodedata.category(letter).startswith("C") for letter in name)
    if not name.strip() or len(name) > _LONGEST_NAME or control:
        raise UsageError(
            f"{hidden_secrets(name)[:40]!a} cannot be the name of a job.",
            next_step=f"Write 1 to {_LONGEST_NAME} letters, without control characters.",
        )
    return name.strip()


def _build(building: JobFolder, config: RunConfig, plan: Document, request: Document) -> None:
    """Write the complete folder of the job, under a name that nobody looks at yet."""
    building.path.mkdir(mode=0o700)
    durable.write_once(building.config_file, durable.as_json(config.model_dump(mode="json")))
    durable.write_once(building.lock_file, b"")
    durable.write_once(building.plan_file, durable.as_json(plan))
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
