"""Looking at jobs: one, many, their logs. Every look first sets right what nobody watched."""

import difflib
import re
import time
from collections.abc import Collection
from pathlib import Path

from ..errors import UsageError
from ..untrusted import visible_text
from .adoption import adopt
from .layout import TRAINING, Workspace, names_in
from .listing import listed
from .logs import read_log_file
from .records import JobList, JobStatus, LogText
from .states import QUEUED, STATES, TERMINAL, state_of
from .tickets import positions
from .verdicts import settled
from .views import told

# Jobs whose outputs are what others work on.
_SOURCES = (TRAINING, "merge")
_ID = re.compile(r"[a-z0-9-]{1,64}")
_POLL_SECONDS = 0.2
# What is compared with names and ids, which are shorter.
_LONGEST_WORD = 100
# The newest job of a kind is seldom further back.
_LOOKED_AT = 50


def get_job(job_id: str, *, wait_seconds: float = 0.0, workspace: Path | None = None, tend: bool = True) -> JobStatus:
    """The status of a job by its id, the beginning of one, its name, or `last`; waits up to `wait_seconds` for its end.

    A wait that runs out is no error: the status tells how far it is. Without `tend` no runner is started for waiting jobs
    that lost theirs. Raises `UsageError` for an unknown id.
    """
    space = Workspace.at(workspace)
    if tend:
        adopt(space)
    found = find_job(space, job_id)
    deadline = time.monotonic() + wait_seconds
    status = status_of(space, found)
    while status.state not in TERMINAL and time.monotonic() < deadline:
        time.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        status = status_of(space, found)
    return status


def list_jobs(
    *, states: Collection[str] | None = None, limit: int | None = 50, workspace: Path | None = None, tend: bool = True
) -> JobList:
    """The jobs of the workspace, the newest first; `states` chooses, `limit` None shows all. `tend` as for `get_job`.

    Raises `UsageError` for a state that does not exist.
    """
    wrong = sorted(set(states or ()) - set(STATES))
    if wrong:
        raise UsageError(f"{wrong[0]!r} is not a state.", next_step=f"Choose among {', '.join(STATES)}.")
    space = Workspace.at(workspace)
    if tend:
        adopt(space)
    if not space.jobs.is_dir():
        return JobList(jobs=[], total=0)
    return listed(space, tuple(states or ()), limit)


def read_log(job_id: str, *, lines: int | None = None, since_byte: int = 0, workspace: Path | None = None) -> LogText:
    """The log of a job from a byte on, at most its last `lines`. Raises `UsageError` for an unknown id."""
    space = Workspace.at(workspace)
    found = find_job(space, job_id)
    job = space.job(found)
    try:
        if job.path.is_symlink():
            raise OSError(0, "its folder is a link")
        part = read_log_file(job.log_file, lines=lines, since=since_byte)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"The log of {found} cannot be read: {reason}.", next_step=f"Look at {job.path}.") from None
    return LogText(id=found, text=visible_text(part.text), next_byte=part.next_byte)


def find_job(space: Workspace, job_id: str, kinds: Collection[str] = ()) -> str:
    """The full id that `job_id` means: an id, `last`, the beginning of one id, or the newest job of that name.

    `kinds` are those that `last` and a name may mean, any where none is given. Raises `UsageError` naming the nearest where
    none or several do.
    """
    if _ID.fullmatch(job_id) and space.job(job_id).path.is_dir():
        return job_id
    try:
        present = sorted(name for name in names_in(space.jobs) if not name.startswith("."))
    except FileNotFoundError:
        present = []
    if job_id == "last" and (newest := _newest(space, kinds) if present else None):
        return newest
    meant = [name for name in present if name.startswith((job_id, f"job-{job_id}"))] if job_id else []
    if len(meant) == 1:
        return meant[0]
    if not meant and (named := _named(space, job_id, present, kinds)):
        return named[0]
    raise _unknown(space, job_id, meant, present)


def _newest(space: Workspace, kinds: Collection[str]) -> str | None:
    """The newest job, of one of these kinds where some are given."""
    for limit in (_LOOKED_AT, None) if kinds else (1,):
        found = [job.id for job in listed(space, (), limit).jobs if not kinds or job.kind in kinds]
        if found:
            return found[0]
    return None


def _named(space: Workspace, name: str, present: list[str], kinds: Collection[str]) -> list[str]:
    """The ids of the jobs with that name, the newest first."""
    everything = listed(space, (), None).jobs if present and name else []
    return [job.id for job in everything if job.name == name and (not kinds or job.kind in kinds)]


def status_of(space: Workspace, job_id: str) -> JobStatus:
    """The status of an existing job. Raises `UsageError` where it was removed meanwhile."""
    facts = settled(space.job(job_id))
    if facts is None:
        raise UsageError(f"The job {job_id} was removed.", next_step="`qlora jobs` lists all jobs.")
    return told(facts, positions(space).get(job_id) if state_of(facts.last) in QUEUED else None)


def _unknown(space: Workspace, job_id: str, meant: list[str], present: list[str]) -> UsageError:
    if meant:
        shown = ", ".join(meant[:5])
        return UsageError(f"{job_id!r} begins {len(meant)} ids: {shown}.", next_step="Write more of the id.")
    if not present:
        step = "Start one with `qlora train`, or name another folder with --workspace."
        return UsageError(f"There is no job {job_id!r}: {space.root} has none.", next_step=step)
    near = _near(space, job_id[:_LONGEST_WORD], present)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return UsageError(f"There is no job {job_id!r}.{hint}", next_step="`qlora jobs` lists all jobs.")


def _near(space: Workspace, word: str, present: list[str]) -> list[str]:
    """Ids of the jobs whose names are like the word, else ids that are."""
    # Of several with one name, the newest.
    by_name = {job.name: job.id for job in reversed(listed(space, (), None).jobs)}
    names = difflib.get_close_matches(word, by_name, n=3)
    if names:
        return [by_name[name] for name in names]
    return difflib.get_close_matches(f"job-{word.removeprefix('job-')}", present, n=3, cutoff=0.5)


def adapter_of(name: str, *, workspace: Path | None = None) -> Path | None:
    """The output directory of the training that `name` means; None where it means none, as a path does.

    Raises `UsageError` for a job that has no finished adapter, as those of other kinds have none.
    """
    status = _meant(name, (TRAINING,), workspace)
    if status is not None and status.adapter_directory is None:
        raise _without(status, "finished adapter")
    return None if status is None else Path(status.output_directory)


def source_of(name: str, *, workspace: Path | None = None) -> Path | None:
    """The output directory of the training or merge that `name` means; None where it means none, as a path does.

    Raises `UsageError` for a job that has neither adapter nor merged model.
    """
    status = _meant(name, _SOURCES, workspace)
    if status is None:
        return None
    if status.adapter_directory is None and (status.kind != "merge" or status.state != "succeeded"):
        raise _without(status, "finished adapter or model")
    return Path(status.output_directory)


def _meant(name: str, kinds: Collection[str], workspace: Path | None) -> JobStatus | None:
    """The job that `name` means; None for what is a path."""
    space = Workspace.at(workspace)
    if "/" in name or name.startswith((".", "~")):
        return None
    try:
        return status_of(space, find_job(space, name, kinds))
    except UsageError:
        if name.startswith("job-") or name == "last":
            raise
        return None


def _without(status: JobStatus, what: str) -> UsageError:
    step = status.next_step if status.state != "succeeded" else ""
    return UsageError(
        f"The job {status.id} ({status.kind}) is {status.state} and has no {what}.",
        next_step=step or "Wait for its end, or name another one.",
    )
