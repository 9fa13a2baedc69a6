"""The directory of an evaluation: settings, losses and answers as they come, so that a stopped one goes on."""

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..durable import as_json, replace_file
from ..errors import UsageError
from ..results.base import Result

SETTINGS_FILE, LOSSES_FILE, ANSWERS_FILE = "settings.json", "losses.jsonl", "answers.jsonl"
RESULT_FILE, PAGE_FILE = "results.json", "report.html"
_LOCK_FILE = ".evaluation.lock"
Side = Literal["base", "adapter"]
SIDES: tuple[Side, Side] = ("base", "adapter")
Found = TypeVar("Found", bound=Result)


@dataclass(frozen=True)
class StoredLoss:
    """Loss of one row's answer tokens, in nats over all of them, for both sides."""

    row: int
    tokens: int
    base: float
    adapter: float


@dataclass(frozen=True)
class StoredAnswer:
    """What one side answered to one row, in how many tokens, and whether it came to a stop token."""

    row: int
    side: Side
    answer: str
    tokens: int
    stopped: bool


@dataclass(frozen=True)
class EvaluationStore:
    """What an evaluation has written. Lines that a crash cut off are passed by, and their rows measured again."""

    directory: Path

    def losses(self) -> dict[int, StoredLoss]:
        """The losses so far, by row."""
        return {found["row"]: StoredLoss(**found) for found in self._lines(LOSSES_FILE, StoredLoss)}

    def answers(self, side: Side) -> dict[int, StoredAnswer]:
        """The answers of one side so far, by row."""
        lines = self._lines(ANSWERS_FILE, StoredAnswer)
        return {found["row"]: StoredAnswer(**found) for found in lines if found["side"] == side}

    def add(self, found: Iterable[StoredLoss] | Iterable[StoredAnswer]) -> None:
        """Append losses or answers to their file."""
        for one in found:
            name = LOSSES_FILE if isinstance(one, StoredLoss) else ANSWERS_FILE
            with (self.directory / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")

    def instrument(self, name: str, kind: type[Found]) -> Found | None:
        """What an instrument measured, where it was done."""
        try:
            return kind.model_validate_json((self.directory / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return None

    def add_instrument(self, name: str, found: Result) -> None:
        """Keep what an instrument measured."""
        replace_file(self.directory / f"{name}.json", (found.model_dump_json(indent=1) + "\n").encode())

    def _lines(self, name: str, kind: type[Any]) -> Iterator[dict[str, Any]]:
        path = self.directory / name
        if not path.is_file():
            return
        for line in path.read_bytes().splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and found.keys() == kind.__dataclass_fields__.keys():
                yield found


def check_store(directory: Path, settings: Mapping[str, Any]) -> None:
    """Raise `UsageError` unless an evaluation with these settings may begin or go on in `directory`; writes nothing."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UsageError(f"The output {directory} is a file.", next_step="Choose another directory with -o.")
    path = directory / SETTINGS_FILE
    if not path.exists():
        if any(name.name != _LOCK_FILE for name in directory.iterdir()):
            raise UsageError(
                f"{directory} holds files and no evaluation; nothing was written.",
                next_step="Choose a new directory with -o.",
            )
        return
    try:
        earlier = json.loads(path.read_bytes())
    except (OSError, ValueError):
        earlier = {}
    other = [name for name, value in settings.items() if not isinstance(earlier, dict) or earlier.get(name) != value]
    if other:
        raise UsageError(
            f"{directory} holds an evaluation that differs in {', '.join(other)}.",
            next_step="Choose another directory with -o, or remove this one.",
        )


@contextmanager
def open_store(directory: Path, settings: Mapping[str, Any]) -> Iterator[EvaluationStore]:
    """Make or take up the evaluation in `directory`, and hold it for one process.

    Raises `UsageError` while another evaluates there, and as `check_store` does.
    """
    check_store(directory, settings)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK_FILE).open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another evaluation writes to {directory}.", next_step="Wait for it, or choose another -o."
            ) from None
        check_store(directory, settings)
        replace_file(directory / SETTINGS_FILE, as_json(settings))
        _end_line(directory)
        yield EvaluationStore(directory)


def _end_line(directory: Path) -> None:
    """A line that was cut off must not swallow the next one."""
    for name in (LOSSES_FILE, ANSWERS_FILE):
        path = directory / name
        if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b"\n")
