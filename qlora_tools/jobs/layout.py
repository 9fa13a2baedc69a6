"""Where everything of a workspace lies, and how jobs and tickets are called.

Importing this costs next to nothing: a job that waits for its turn is a process with these modules alone.
"""

import base64
import errno
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from .. import durable
from ..disk import disk_errors

FOLDER = ".qlora"
WORKSPACE_VARIABLE = "QLORA_WORKSPACE"
SCHEMA_VERSION = 1
# The kind of jobs that train; others are in `works.py`.
TRAINING = "train"


def new_id() -> str:
    """A new id: random, without meaning, and in letters that nobody confuses."""
    return "job-" + base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]


def open_own(path: Path) -> int:
    """A descriptor to read the regular file `path`.

    Raises `OSError` for a link, which could lead anywhere, and for a pipe or a device, which could block for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "It is no regular file")
    return descriptor


def names_in(folder: Path) -> list[str]:
    """The names of all that lies in `folder`. Raises `FileNotFoundError` or `NotADirectoryError` where it is none."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


@dataclass(frozen=True)
class AttemptFolder:
    """`attempt-NNN/` of a job: what was asked for, that it began, that it should end, and how it ended."""

    path: Path
    number: int

    @property
    def request_file(self) -> Path:
        """Immutable: the checkpoint to go on from, changes, and the place in the queue."""
        return self.path / "request.json"

    @property
    def started_file(self) -> Path:
        """Written once, by the runner under the lock, or by whoever settles that it will never begin."""
        return self.path / "started.json"

    @property
    def stop_file(self) -> Path:
        """Written once: it should end, as stopped or cancelled."""
        return self.path / "stop.json"

    @property
    def cancel_file(self) -> Path:
        """Written once: what was to be stopped is to be cancelled."""
        return self.path / "cancel.json"

    @property
    def stop_now_file(self) -> Path:
        """Written once: it should end without a checkpoint."""
        return self.path / "stop-now.json"

    @property
    def exit_file(self) -> Path:
        """Written once: the verdict."""
        return self.path / "exit.json"

    @property
    def launches_file(self) -> Path:
        """A line for each runner that was started, and for each that got as far as the queue."""
        return self.path / "launches.jsonl"

    @property
    def events_file(self) -> Path:
        """What the run reported, for those who follow it."""
        return self.path / "events.jsonl"

    @property
    def spare_file(self) -> Path:
        """Disk space kept for the verdict of a run that filled the disk."""
        return self.path / "spare"


@dataclass(frozen=True)
class JobFolder:
    """`jobs/<id>/`: the truth about one job."""

    path: Path

    @property
    def id(self) -> str:
        """The job's id."""
        return self.path.name

    @property
    def plan_file(self) -> Path:
        """Immutable: what was asked for."""
        return self.path / "plan.json"

    @property
    def config_file(self) -> Path:
        """Immutable: the complete run config of a training."""
        return self.path / "config.json"

    @property
    def work_file(self) -> Path:
        """Immutable: the arguments of an evaluation, a merge or an export."""
        return self.path / "work.json"

    def asked_file(self, kind: str) -> Path:
        """Where it stands what a job of that kind is to do."""
        return self.config_file if kind == TRAINING else self.work_file

    @property
    def lock_file(self) -> Path:
        """Locked by the runner as long as it lives."""
        return self.path / "job.lock"

    @property
    def status_file(self) -> Path:
        """The latest progress; advisory."""
        return self.path / "status.json"

    @property
    def log_file(self) -> Path:
        """All that the runners of all attempts wrote."""
        return self.path / "log.txt"

    def attempt(self, number: int) -> AttemptFolder:
        """The folder of attempt `number`, counted from 1."""
        return AttemptFolder(self.path / f"attempt-{number:03d}", number)

    def attempts(self) -> list[AttemptFolder]:
        """All attempts, the first one first. Raises `FileNotFoundError` where the job is gone."""
        words = [name.removeprefix("attempt-") for name in names_in(self.path) if name.startswith("attempt-")]
        return [self.attempt(number) for number in sorted(int(word) for word in words if re.fullmatch("[0-9]+", word))]


@dataclass(frozen=True)
class Workspace:
    """The folder `.qlora` of a workspace directory."""

    root: Path

    @classmethod
    def at(cls, directory: Path | None = None) -> "Workspace":
        """That of `directory`, else of the variable QLORA_WORKSPACE, else of the current directory."""
        chosen = directory or Path(os.environ.get(WORKSPACE_VARIABLE) or ".")
        return cls(chosen.expanduser().resolve() / FOLDER)

    @property
    def jobs(self) -> Path:
        """One folder a job."""
        return self.root / "jobs"

    @property
    def active(self) -> Path:
        """One ticket for each job without a verdict."""
        return self.root / "active"

    @property
    def keys(self) -> Path:
        """Idempotency keys that were used."""
        return self.root / "keys"

    @property
    def queue_lock(self) -> Path:
        """Held for the moment in which it is decided who runs."""
        return self.root / "queue.lock"

    @property
    def index_file(self) -> Path:
        """The index, which can be thrown away at any time."""
        return self.root / "jobs.sqlite"

    def job(self, job_id: str) -> JobFolder:
        """The folder of a job, whether it is there or not."""
        return JobFolder(self.jobs / job_id)

    def building(self, job_id: str) -> JobFolder:
        """Where a job is put together before it has its name."""
        return JobFolder(self.root / f".new-{job_id}")

    def prepare(self) -> None:
        """Make the folders, for the owner alone. Raises `MachineError` without permission or space."""
        with disk_errors(self.root, left="no job was started"):
            for folder in (self.root, self.jobs, self.keys):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (self.root / ".gitignore").exists():
                durable.replace_file(self.root / ".gitignore", b"*\n")


@dataclass(frozen=True, order=True)
class Ticket:
    """The name of a file in `active/`: tickets in the order of their names are the queue."""

    sequence: int
    job_id: str
    attempt: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.sequence:020d}-{self.job_id}.{self.attempt}"

    @classmethod
    def parse(cls, name: str) -> "Ticket | None":
        """The ticket of that file name; None for other files."""
        sequence, _, rest = name.partition("-")
        job_id, _, attempt = rest.rpartition(".")
        if not (sequence.isdecimal() and attempt.isdecimal() and job_id):
            return None
        return cls(int(sequence), job_id, int(attempt))
