"""The metrics file of a run: one JSON object a line, only ever appended to, readable while the run goes and after a kill.

Keys of a line: step, loss, evaluation_loss, learning_rate, gradient_norm, token_accuracy, epoch, seconds (since this attempt
began to train), time (unix), tokens (so far), tokens_per_second, step_seconds, data_seconds (waiting for rows),
gpu_utilization_percent, and in bytes allocated_bytes, reserved_bytes, peak_allocated_bytes, peak_reserved_bytes,
host_bytes. null says that there was no number. The line `{"event": "resumed", "step": N}` begins a new attempt: earlier
lines of later steps no longer count.
"""

import json
import math
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

Record = dict[str, Any]

# A line has a few hundred bytes; a longer one is damage, and is not taken into memory whole.
_LONGEST_LINE = 64 * 1024
_MOST_BYTES = 8 * 2**20
_BLOCK = 64 * 1024
_MARK_BYTES = 64


@dataclass
class Course:
    """What a run told so far: `records` in the order of steps, without those that a later attempt made again.

    `events` are the lines with an event, such as resumptions; `unreadable_lines` counts torn and foreign ones.
    """

    records: list[Record] = field(default_factory=list)
    events: list[Record] = field(default_factory=list)
    unreadable_lines: int = 0

    @property
    def losses(self) -> dict[int, float]:
        """Training losses by step; steps without a number are left out."""
        return self._numbers("loss")

    @property
    def evaluation_losses(self) -> dict[int, float]:
        """Evaluation losses by step."""
        return self._numbers("evaluation_loss")

    @property
    def last(self) -> Record:
        """The latest value of every key, None where it was no number; empty before the first step."""
        latest: Record = {}
        wanted = set().union(*(record.keys() for record in self.records[-200:]))
        for record in reversed(self.records):
            latest = {**record, **latest}
            if wanted <= latest.keys():
                break
        return latest

    def series(self, key: str) -> dict[int, float | None]:
        """The values of `key` by step, None where it was no number."""
        return {record["step"]: record[key] for record in self.records if key in record}

    def add(self, record: Record) -> None:
        """Take the next line of the file."""
        if "event" in record:
            self.events.append(record)
            if record["event"] == "resumed":
                self._forget_after(record["step"])
            return
        # A step told again began anew, even where its attempt could not say so.
        if "loss" in record and self.records and record["step"] <= self._last_trained():
            self._forget_after(record["step"] - 1)
        self.records.append(record)

    def _numbers(self, key: str) -> dict[int, float]:
        return {step: value for step, value in self.series(key).items() if value is not None}

    def _last_trained(self) -> int:
        for record in reversed(self.records):
            if "loss" in record:
                return int(record["step"])
        return -1

    def _forget_after(self, step: int) -> None:
        while self.records and self.records[-1]["step"] > step:
            self.records.pop()


def read_course(path: Path, *, keys: Collection[str] | None = None) -> Course:
    """The course in the file `path`; a file that is not there yet is an empty course.

    `keys` are the values to hold: a million steps with all of them take about two gigabytes. Raises `OSError` where the file
    cannot be read.
    """
    course = Course()
    try:
        with path.open("rb") as file:
            _take(course, _lines(file), keys)
    except FileNotFoundError:
        pass
    return course


def tail(path: Path, count: int) -> list[Record]:
    """The last records of the file `path`, at most `count`, without reading what stands before them.

    Raises `OSError` where the file cannot be read; one that is not there yet has none.
    """
    course = Course()
    try:
        with path.open("rb") as file:
            file.seek(_start_of_last(file, count))
            _take(course, _lines(file), None)
    except FileNotFoundError:
        pass
    return course.records[-count:] if count > 0 else []


class CourseReader:
    """Follows a metrics file: each call of `new_records` goes on where the last one ended.

    `last` starts with so many lines at the end of the file instead of its first one. Lines are given as they stand,
    events among them. `restarts` counts how often the file was replaced, shortened or removed, and read from its start.
    """

    def __init__(self, path: Path, *, last: int | None = None) -> None:
        self._path = path
        self._last = last
        self._offset = 0
        self._mark = b""
        self._inode: int | None = None
        self.unreadable_lines = 0
        self.restarts = 0

    def new_records(self) -> list[Record]:
        """The complete lines that came since, at most 8 MiB of them: call again until nothing comes.

        Raises `OSError` where the file cannot be read; one that is not there yet gives nothing.
        """
        try:
            with self._path.open("rb") as file:
                self._find_place(file)
                text = file.read(_MOST_BYTES)
        except FileNotFoundError:
            self._start_over(None)
            return []
        complete = text[: text.rfind(b"\n") + 1]
        if not complete and len(text) == _MOST_BYTES:
            complete = text  # One line of 8 MiB is no line of ours: pass it by.
        self._offset += len(complete)
        self._mark = (self._mark + complete[-_MARK_BYTES:])[-_MARK_BYTES:]
        return list(self._readable(complete.splitlines()))

    def _find_place(self, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        if self._inode is None and self._last is not None:
            self._offset = _start_of_last(file, self._last)
            file.seek(max(0, self._offset - _MARK_BYTES))
            self._mark = file.read(self._offset - file.tell())
        elif self._is_another(file, status):
            self._start_over(status.st_ino)
        self._inode = status.st_ino
        file.seek(self._offset)

    def _is_another(self, file: BinaryIO, status: os.stat_result) -> bool:
        if self._inode is None:
            return False
        if status.st_ino != self._inode or status.st_size < self._offset:
            return True
        # A file can be emptied and grow again between two looks: what stands before our place tells.
        file.seek(self._offset - len(self._mark))
        return file.read(len(self._mark)) != self._mark

    def _start_over(self, inode: int | None) -> None:
        self.restarts += self._inode is not None
        self._offset, self._mark, self._inode, self._last = 0, b"", inode, self._last if inode is None else None

    def _readable(self, lines: Iterable[bytes]) -> Iterator[Record]:
        for line in lines:
            record = _record(line)
            if record is not None:
                yield record
            elif line.strip():
                self.unreadable_lines += 1


def _take(course: Course, lines: Iterable[bytes], keys: Collection[str] | None) -> None:
    for line in lines:
        record = _record(line)
        if record is None:
            course.unreadable_lines += bool(line.strip())
        elif keys is None or "event" in record:
            course.add(record)
        elif len(kept := {key: value for key, value in record.items() if key in keys or key in ("step", "loss")}) > 1:
            course.add(kept)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines, of which overlong ones are cut: the rest of them is passed by."""
    while line := file.readline(_LONGEST_LINE):
        yield line
        while len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
            line = file.readline(_LONGEST_LINE)


def _record(line: bytes) -> Record | None:
    """A line as a record with a whole `step` and numbers; None when it is none.

    A line that a kill cut off has the next one glued to it; records are flat, so the last brace begins it.
    """
    for text in (line, line[line.rfind(b"{") :] if line.count(b"{") > 1 else b""):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and type(value.get("step")) is int and value["step"] >= 0:
            return {str(key): known_value(item) for key, item in value.items() if _is_told(key, item)}
    return None


def _is_told(key: str, value: object) -> bool:
    return isinstance(value, str) if key == "event" else value is None or type(value) in (int, float)


def known_value(value: Any) -> Any:
    """`value` as a line of the file holds it: None where it is no finite number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _start_of_last(file: BinaryIO, count: int) -> int:
    """Where the last `count` lines begin."""
    position = file.seek(0, os.SEEK_END)
    if count <= 0:
        return position
    ends = -1  # The newline that closes the last line begins none.
    if position:
        file.seek(position - 1)
        ends = -1 if file.read(1) == b"\n" else 0
    while position > 0:
        start = max(0, position - _BLOCK)
        file.seek(start)
        block = file.read(position - start)
        found = block.count(b"\n")
        if ends + found >= count:
            return start + _nth_last(block, count - ends) + 1
        ends, position = ends + found, start
    return 0


def _nth_last(block: bytes, count: int) -> int:
    place = len(block)
    for _ in range(count):
        place = block.rfind(b"\n", 0, place)
    return place
