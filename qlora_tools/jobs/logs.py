"""The log of a job: its end, parts of it, and keeping it within bounds."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..hiding import hidden_secrets, writing
from .layout import open_own

MOST_BYTES = 64 * 2**20
_MOST_READ = 2**20
# As the reporter begins its lines, with the time.
_REPORT = re.compile(r"\[\d{4}-\d\d-\d\dT[\d:.+-]+\] ")


@dataclass(frozen=True)
class LogPart:
    """A piece of a log without secrets; `next_byte` is where the following one begins."""

    text: str
    next_byte: int


def read_log_file(path: Path, *, lines: int | None = None, since: int = 0) -> LogPart:
    """What stands in the log from byte `since` on, at most 1 MiB of it and at most the last `lines`.

    A log that was shortened meanwhile is read from its end.
    """
    try:
        with os.fdopen(open_own(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin = max(min(since, size), size - _MOST_READ)
            file.seek(begin)
            content = file.read(size - begin)
    except FileNotFoundError:
        return LogPart("", 0)
    text = content.decode("utf-8", errors="replace")
    if lines is not None:
        text = "".join(text.splitlines(keepends=True)[-lines:]) if lines else ""
    return LogPart(hidden_secrets(text), begin + len(content))


def log_tail(path: Path, lines: int) -> list[str]:
    """The last lines that the run's own reports do not make, each cut to a readable length: last words."""
    try:
        text = read_log_file(path).text
    except OSError:
        return []
    found = [line.strip() for line in text.splitlines() if line.strip()]
    return [line[:300] for line in found if not _REPORT.match(line)][-lines:]


def shorten_log(path: Path, most_bytes: int = MOST_BYTES) -> bool:
    """Cut the middle out of a log of more than `most_bytes`, in place, since others have it open; whether it was cut.

    Streams of this process wait meanwhile. Others may write: what came until the last moment is moved too.
    """
    try:
        if path.stat().st_size <= most_bytes:
            return False
        with writing(), path.open("r+b", buffering=0) as file:
            _cut_middle(file.fileno(), most_bytes)
    except OSError:
        return False
    return True


def _cut_middle(descriptor: int, most_bytes: int) -> None:
    begin = os.fstat(descriptor).st_size - most_bytes // 2
    place = most_bytes // 64
    place += os.pwrite(descriptor, f"\n[{begin - place:,} bytes of the log were taken out here]\n".encode(), place)
    while content := os.pread(descriptor, _MOST_READ, begin):
        begin += len(content)
        place += os.pwrite(descriptor, content, place)
    os.ftruncate(descriptor, place)
