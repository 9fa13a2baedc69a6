"""Every error that a user of qlora-tools can meet.

    QloraError                  exit code 1 (never raised itself)
    ├── UsageError              2  what was asked for is wrong
    │   ├── ConfigError         2  a RunConfig is invalid; lists every problem at once
    │   ├── DataError           2  a dataset cannot be read or used
    │   └── ModelError          2  a model or adapter cannot be found, read or used
    ├── CheckFailed             3  the work was done, and a check of the result failed
    ├── MachineError            4  this machine cannot do it
    │   ├── MissingLibraryError 4  an optional dependency is not installed
    │   └── DiskSpaceError      4  not enough disk space, or the disk filled up
    └── RunStopped            130  a run ended early because it was asked to
        └── WorkStopped       130  the same of an evaluation, a merge or an export

A message says what failed, with the value and what is allowed; `next_step` says what to do about it.
Anything else that escapes is a bug of qlora-tools and shows its traceback.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

__all__ = [
    "CheckFailed",
    "ConfigError",
    "ConfigProblem",
    "DataError",
    "DiskSpaceError",
    "MachineError",
    "MissingLibraryError",
    "ModelError",
    "QloraError",
    "RunStopped",
    "UsageError",
    "WorkStopped",
]


class QloraError(Exception):
    """Base of all errors that are shown to the user without a traceback."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, next_step: str) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def as_dict(self) -> dict[str, object]:
        """The error as `--json` prints it."""
        return {"error": type(self).__name__, "message": self.message, "next_step": self.next_step}


class UsageError(QloraError):
    """The command, its arguments or a file it was given are wrong."""

    exit_code = 2


@dataclass(frozen=True)
class ConfigProblem:
    """One thing wrong with a config: the dotted field, what is wrong, and what is allowed."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class ConfigError(UsageError):
    """A RunConfig is invalid. `problems` holds all that is wrong with it, not the first thing only."""

    def __init__(self, problems: Sequence[ConfigProblem], *, source: str) -> None:
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(
            f"The config {source} has {count}:{lines}",
            next_step="Mend these fields; `qlora config schema` and `qlora config explain` show what each one takes.",
        )
        self.problems = tuple(problems)

    def as_dict(self) -> dict[str, object]:
        """The error with each problem apart."""
        problems = [{"field": problem.field, "message": problem.message} for problem in self.problems]
        return {**super().as_dict(), "problems": problems}


class DataError(UsageError):
    """A dataset is missing, unreadable, empty or of no usable format."""


class ModelError(UsageError):
    """A model or an adapter is missing, incomplete, unsafe or of a kind that is not supported."""


class CheckFailed(QloraError):  # noqa: N818 - it names an outcome
    """The work was done but the result did not pass its check."""

    exit_code = 3


class MachineError(QloraError):
    """This machine lacks what the work needs: memory, instructions, hardware or permission."""

    exit_code = 4


class MissingLibraryError(MachineError):
    """A library of the `train` extra, or an optional one such as a tracker, is not installed."""


class DiskSpaceError(MachineError):
    """The disk is too full for what has to be written."""


class RunStopped(QloraError):  # noqa: N818 - it names an outcome
    """A run ended early because it was asked to. `checkpoint` is where it can go on, None before the first step."""

    exit_code = 130

    def __init__(self, step: int, checkpoint: Path | None) -> None:
        where = f"its checkpoint is {checkpoint}" if checkpoint else "nothing was trained yet"
        super().__init__(f"The run was stopped after step {step}; {where}.", next_step="Resume it to go on from there.")
        self.step = step
        self.checkpoint = checkpoint


class WorkStopped(RunStopped):
    """An evaluation, a merge or an export ended early because it was asked to. The message says how far it was."""

    def __init__(self, message: str, *, next_step: str = "Run it again: it goes on from what it has written.") -> None:
        QloraError.__init__(self, message, next_step=next_step)
        self.step, self.checkpoint = 0, None
