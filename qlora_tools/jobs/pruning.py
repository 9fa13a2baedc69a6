"""Removing the records of jobs that ended long ago; never by itself, and never what they produced."""

import shutil
from datetime import datetime
from pathlib import Path

from .. import durable
from ..disk import disk_errors
from ..errors import UsageError
from .adoption import adopt
from .clock import now
from .facts import read_document, read_facts
from .layout import Workspace, names_in
from .locks import exclusive

_DAY = 86_400


def prune_jobs(days: float, *, workspace: Path | None = None) -> list[str]:
    """Remove the records of jobs that ended more than `days` ago, and return their ids. Outputs stay.

    Raises `UsageError` for a negative number of days, `MachineError` without permission.
    """
    if days < 0:
        raise UsageError(f"{days:g} days is less than none.", next_step="Give 0 or more.")
    space = Workspace.at(workspace)
    adopt(space)
    if not space.jobs.is_dir():
        return []
    removed = []
    for name in sorted(names_in(space.jobs)):
        # Under the lock, since a job that is resumed in this moment has to stay.
        with disk_errors(space.root, left="the other records stay"), exclusive(space.queue_lock):
            if _ended_before(space, name, now() - days * _DAY):
                _remove(space, name)
                removed.append(name)
    return removed


def _ended_before(space: Workspace, name: str, moment: float) -> bool:
    facts = read_facts(space.job(name))
    ended = (facts.last.exit or {}).get("ended") if facts is not None else None
    try:
        return ended is not None and datetime.fromisoformat(ended).timestamp() < moment
    except ValueError:
        return False


def _remove(space: Workspace, name: str) -> None:
    """One rename takes the job away; what is left is rubbish, which anyone may clear."""
    job = space.job(name)
    key = (read_document(job.plan_file) or {}).get("key_sha256")
    if isinstance(key, str) and (read_document(space.keys / key) or {}).get("job") == name:
        (space.keys / key).unlink(missing_ok=True)
    aside = space.root / f".removed-{name}"
    durable.reached("rename", aside)
    job.path.rename(aside)
    durable.sync_directory(space.jobs)
    shutil.rmtree(aside, ignore_errors=True)
