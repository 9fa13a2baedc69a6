"""The file of answers: one JSON object a line, written as answers come, gone on with after any end.

Each line carries in `asked` a hash of all that was asked for it: adapters, settings, number and prompt. A line with another
hash was asked otherwise, and mixing the two would make a file that is neither.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.examples import Message
from ..disk import disk_errors
from ..durable import sync_file
from ..errors import UsageError

_HASH_CHARACTERS = 16


class AnswerFile:
    """An output that this process alone writes. Used as a context; the answers so far stand in the file at any moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[int, str] = {}
        self._places: dict[int, tuple[int, int]] = {}

    def __enter__(self) -> "AnswerFile":
        """Open the file or make it, lock it, mend its last line, and read which rows it holds.

        Raises `UsageError` where another process writes it or it holds something else, `MachineError` without permission.
        """
        with disk_errors(self.path, left="nothing was answered"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        self._file = os.fdopen(descriptor, "r+b")
        try:
            self._lock()
            self._read()
        except UsageError:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, number: int, document: Mapping[str, Any], asked: str) -> None:
        """Add the answers of one row. Raises `DiskSpaceError` where the disk is full; the rows before it stay."""
        line = json.dumps({"row": number, **document, "asked": asked}, ensure_ascii=False).encode() + b"\n"
        with disk_errors(self.path, left="the answers so far are in it"):
            self._places[number] = (self._file.tell(), len(line))
            self._file.write(line)
            self._file.flush()

    def finish(self) -> None:
        """Put the rows in the order of the prompts; until then they stand as they were answered."""
        in_order = sorted(self._places)
        with disk_errors(self.path, left="the answers are all in it, in another order"):
            os.fsync(self._file.fileno())
            if in_order != sorted(self._places, key=lambda number: self._places[number]):
                self._rewrite(in_order)

    def _rewrite(self, in_order: list[int]) -> None:
        partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.partial")
        try:
            with partial.open("xb") as sorted_file:
                for number in in_order:
                    place, length = self._places[number]
                    self._file.seek(place)
                    sorted_file.write(self._file.read(length))
            sync_file(partial)
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)

    def _lock(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UsageError(
                f"Another process writes answers to {self.path}.", next_step="Wait for it, or choose another output."
            ) from None

    def _read(self) -> None:
        place = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break  # Cut off in the middle: that row is answered again.
            row, asked = _told(line, number, self.path)
            self.kept[row] = asked
            self._places[row] = (place, len(line))
            place += len(line)
        self._file.seek(place)
        self._file.truncate()


def _told(line: bytes, number: int, path: Path) -> tuple[int, str]:
    try:
        told = json.loads(line)
        row, asked = told["row"], told["asked"]
        if not (isinstance(row, int) and isinstance(asked, str)):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            f"Line {number} of {path} is no answer that qlora generate wrote.",
            next_step="Choose another output; nothing of this file was changed.",
        ) from None
    return row, asked


def settings_hash(adapters: Mapping[str, Path], settings: Mapping[str, Any]) -> str:
    """Names what every row is asked with: the adapters by the content of their files, and the settings."""
    files = {}
    for name, directory in adapters.items():
        for path in sorted(directory.glob("*")):
            if path.suffix in (".safetensors", ".json", ".jinja"):
                with path.open("rb") as content:
                    files[f"{name}/{path.name}"] = hashlib.file_digest(content, "sha256").hexdigest()
    return _hash([files, settings])


def asked_hash(settings: str, number: int, turns: tuple[Message, ...]) -> str:
    """Names what one row was asked."""
    return _hash([settings, number, turns])[:_HASH_CHARACTERS]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
