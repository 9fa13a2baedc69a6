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


def claim(space: Workspace, plan: Document) -> None:
    """Claim the key for the job of `plan`, under the queue's lock and after `claimed_by` found none. Raises `OSError`."""
    document = durable.as_json({"job": plan["id"], "request": plan["request_sha256"]})
    durable.replace_file(space.keys / plan["key_sha256"], document)


def _exists(space: Workspace, job_id: str) -> bool:
    return space.job(job_id).path.is_dir() or space.building(job_id).path.is_dir()
