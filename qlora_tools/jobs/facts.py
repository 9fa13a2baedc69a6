"""What lies on the disk about a job, read in an order that never shows a living job as dead."""

import os
from dataclasses import dataclass
from pathlib import Path

from .kinds import KINDS, parsed
from .kinds import Document as Document
from .layout import AttemptFolder, JobFolder, names_in, open_own
from .locks import Holder, holder


@dataclass(frozen=True)
class AttemptFacts:
    """What one attempt left. `alive` is whether a runner holds the job's lock, which only the last attempt's can."""

    number: int
    request: Document
    started: Document | None = None
    stop: Document | None = None
    cancel: Document | None = None
    stop_now: Document | None = None
    exit: Document | None = None
    alive: bool = False
    stepping: bool = False

    @property
    def asked_to(self) -> str | None:
        """`stop` or `cancel` where it was asked to end; the later and harder wish counts."""
        if self.cancel is not None or (self.stop or {}).get("kind") == "cancel":
            return "cancel"
        return "stop" if self.stop is not None else None


@dataclass(frozen=True)
class JobFacts:
    """All about one job; `attempts` has at least one. `status` is advisory.

    `unreadable` is why the job could not be looked at; what else is told of it then means nothing.
    """

    id: str
    plan: Document
    attempts: tuple[AttemptFacts, ...]
    status: Document
    holder: Holder | None
    unreadable: str | None = None

    @property
    def last(self) -> AttemptFacts:
        """The attempt that counts."""
        return self.attempts[-1]


def read_document(path: Path) -> Document | None:
    """The JSON object in `path` without values of wrong kinds; None where there is no such file.

    One that cannot be read has the reason under `damaged`, and nothing else.
    """
    try:
        with os.fdopen(open_own(path), "rb") as file:
            content = file.read()
        return parsed(content, KINDS.get(path.name, {}))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return {"damaged": error.strerror or str(error)}
    except ValueError as error:
        return {"damaged": str(error)}


def read_facts(job: JobFolder) -> JobFacts | None:
    """Everything about `job`; None where there is no such job."""
    try:
        folders = job.attempts()
        if any(os.path.islink(path) for path in (job.path, *(folder.path for folder in folders))):  # noqa: PTH114 - faster
            return _unreadable(job, "it is a link")
        if folders:
            return _read(job, folders)
        return _unreadable(job, "it has no attempt") if job.plan_file.exists() else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return _unreadable(job, error.strerror or str(error))


def _unreadable(job: JobFolder, reason: str) -> JobFacts:
    """With an end that nobody can read: whether the job lives is not known, so it is neither started nor given a verdict."""
    return JobFacts(job.id, {}, (AttemptFacts(1, {}, exit={"damaged": reason}),), {}, None, unreadable=reason)


def _read(job: JobFolder, folders: list[AttemptFolder]) -> JobFacts:
    status = read_document(job.status_file) or {}
    earlier = [_read_attempt(folder) for folder in folders[:-1]]
    last, held = _read_last(job, folders[-1], status)
    plan = read_document(job.plan_file)
    plan = {"damaged": "it is missing"} if plan is None else plan
    return JobFacts(job.id, plan, (*earlier, last), status, held)


def _read_last(job: JobFolder, folder: AttemptFolder, status: Document) -> tuple[AttemptFacts, Holder | None]:
    seen = _read_attempt(folder)
    if seen.exit is not None:
        return seen, None
    held = holder(job.lock_file)
    if held is None:
        # It may have written its verdict and died between the two looks; what is read now is final.
        seen = _read_attempt(folder)
    return _with_life(seen, held is not None, status), held


def _with_life(seen: AttemptFacts, alive: bool, status: Document) -> AttemptFacts:
    stepping = status.get("attempt") == seen.number and bool(status.get("step") or status.get("begun"))
    return AttemptFacts(**{**vars(seen), "alive": alive, "stepping": stepping})


def _read_attempt(folder: AttemptFolder) -> AttemptFacts:
    try:
        present = set(names_in(folder.path))
    except (FileNotFoundError, NotADirectoryError):
        present = set()

    def read(path: Path) -> Document | None:
        return read_document(path) if path.name in present else None

    return AttemptFacts(
        number=folder.number,
        request=read(folder.request_file) or {},
        started=read(folder.started_file),
        stop=read(folder.stop_file),
        cancel=read(folder.cancel_file),
        stop_now=read(folder.stop_now_file),
        exit=read(folder.exit_file),
    )
