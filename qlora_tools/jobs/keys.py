"""Idempotency keys: a request that is sent twice starts one job."""

from .. import durable
from ..errors import UsageError
from .adoption import complete
from .facts import Document, read_document
from .layout import Workspace


def claimed_by(space: Workspace, plan: Document) -> str | None:
    """The job that the key of `plan` has started, made complete if its submitter died half way; None without one.

    Raises `UsageError` where it was used for another request.
    """
    found = read_document(space.keys / plan["key_sha256"])
    if found is None or not _exists(space, str(found.get("job"))):
        return None
    if found.get("request") != plan["request_sha256"]:
        raise UsageError(
            f"This idempotency key was used for another request: the job {found.get('job')}.",
            next_step="Send the same config again to get that job, or choose a new key.",
        )
    complete(space, str(found["job"]))
    return str(found["job"])


def claim(space: Workspace, plan: Document) -> str:
    """Claim the key for the job of `plan`; returns the id of the job that has it now. Call it under the queue's lock.

    Raises `UsageError` where it was used for another request, and `OSError`.
    """
    path = space.keys / plan["key_sha256"]
    document = durable.as_json({"job": plan["id"], "request": plan["request_sha256"]})
    try:
        durable.write_once(path, document)
    except FileExistsError:
        found = claimed_by(space, plan)
        if found is not None:
            return found
        # Its job was removed: the lock makes sure that nobody else has seen that too.
        durable.replace_file(path, document)
    return str(plan["id"])


def _exists(space: Workspace, job_id: str) -> bool:
    return space.job(job_id).path.is_dir() or space.building(job_id).path.is_dir()
