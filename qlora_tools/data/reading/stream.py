"""Reading a dataset of any size, row by row, in bounded memory. What cannot be read is a row with a reason."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ...config.files import nearest_file
from ...disk import DISK_FULL
from ...errors import DataError
from ...paths import as_path
from .byte_streams import (
    HEAD_BYTES,
    ROWS_MISSING,
    ByteCount,
    DamagedStreamError,
    UnreadableError,
    open_bytes,
    without_mark,
)
from .content import looks_like
from .files import DataFile, find_files
from .json_rows import json_rows
from .library_rows import hub_rows, is_saved_dataset, saved_rows
from .sources import DataSource, is_on_hub
from .text_rows import Row, table_rows, text_rows
from .typed_rows import typed_rows

__all__ = ["DataSource", "RawRow", "RowStream", "open_rows"]

# A file whose first rows are all unreadable is no such file.
_ROWS_TO_DOUBT = 100
_MOST_REASONS_SHOWN = 5
_MEND = "Mend the file; rows of JSON Lines are one JSON object each, in UTF-8."


class RawRow(NamedTuple):
    """One row as it was written: its `value`, or the `problem` why there is none, worded to follow the place.

    `number` counts all rows of the source from 1, unreadable ones too. `place` is its line or row in its file, with the
    file's name where there are several.
    """

    number: int
    place: str
    value: Mapping[str, Any] | None
    problem: str | None


class RowStream:
    """The rows of a source, once. `notes` grow while it is read; sizes are bytes on disk, None where they are unknown."""

    def __init__(
        self, name: str, rows: Iterator[Row], notes: list[str], total_bytes: int | None, count: ByteCount
    ) -> None:
        self.name = name
        self.notes = notes
        self.total_bytes = total_bytes
        self._rows = rows
        self._count = count

    @property
    def done_bytes(self) -> int:
        """Bytes that were read so far; of compressed files, compressed ones."""
        return self._count.done

    def __iter__(self) -> Iterator[RawRow]:
        """Each row in its order.

        Raises `DataError` where a later file cannot be read, `MachineError` where the network fails.
        """
        for number, (place, value, problem) in enumerate(self._rows, start=1):
            yield RawRow(number, place, value, problem)


def open_rows(source: DataSource) -> RowStream:
    """Begin to read a source; its first rows are looked at here.

    Raises `DataError` for what is wrong as a whole: missing, empty, refused, damaged, or none of the first hundred rows
    readable. `MachineError` where the Hub cannot be reached, `MissingLibraryError` for a library that is not installed.
    """
    notes: list[str] = []
    count = ByteCount()
    if is_on_hub(source):
        rows = _doubted(hub_rows(source, notes), source.path)
        return RowStream(source.path, _begun(rows), notes, None, count)
    path = as_path(source.path)
    try:
        rows, total = _local_rows(path, source.split, count, notes)
        return RowStream(source.path, _begun(rows), notes, total, count)
    except OSError as error:
        raise _not_readable(str(path), error) from None


def _local_rows(path: Path, split: str, count: ByteCount, notes: list[str]) -> tuple[Iterator[Row], int]:
    if not os.path.lexists(path):
        raise DataError(f"There is no dataset {path}.", next_step=nearest_file(path))
    if not path.exists():
        raise DataError(f"There is no dataset {path}: it is a link to nothing.", next_step="Check data.path.")
    if path.is_dir() and is_saved_dataset(path):
        return saved_rows(path, split, count, notes)
    files, found = find_files(path, split)
    notes.extend(found)
    several = len(files) > 1
    opened = (_file_rows(file, split, several, count, notes) for file in files)
    return chain.from_iterable(opened), sum(file.size for file in files)


def _begun(rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows, of which the first was asked for already, so that what fails at once fails now."""
    first = next(rows, None)
    return rows if first is None else chain((first,), rows)


def _file_rows(file: DataFile, split: str, several: bool, count: ByteCount, notes: list[str]) -> Iterator[Row]:
    """The rows of one file, with its name in their places and in the notes where there are several."""
    name = f"{file.path}" if file.member is None else f"{file.path} ({file.member})"
    own_notes: list[str] = [] if several else notes
    head = b""
    count.start(file.size)
    try:
        with open_bytes(file.path, file.member, count) as stream:
            head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
            rows = _until_damage(_rows_of_kind(stream, file.kind, split, own_notes), own_notes)
            rows = _doubted(rows, name, head, file.kind)
            # Each layer costs half a microsecond a row; most datasets are one file.
            yield from _labelled(rows, file.label) if several else rows
    except (UnreadableError, DamagedStreamError) as error:
        raise _unreadable(name, error, looks_like(head, file.kind)) from None
    except OSError as error:
        raise _not_readable(name, error) from None
    count.finish()
    if several:
        notes.extend(f"{file.label}: {note}" for note in own_notes)


def _labelled(rows: Iterator[Row], label: str) -> Iterator[Row]:
    return ((f"{label}, {place}", value, problem) for place, value, problem in rows)


def _rows_of_kind(stream: io.BufferedReader, kind: str, split: str, notes: list[str]) -> Iterator[Row]:
    if kind in (".parquet", ".arrow"):
        return typed_rows(stream, kind, notes)
    text = without_mark(stream, notes)
    if kind in (".csv", ".tsv"):
        return table_rows(text, kind, notes)
    return text_rows(text, notes) if kind == ".txt" else json_rows(text, kind, split, notes)


def _until_damage(rows: Iterator[Row], notes: list[str]) -> Iterator[Row]:
    """The rows before the place where a file breaks off, and one that says so."""
    try:
        yield from rows
    except DamagedStreamError as error:
        notes.append(
            f"{ROWS_MISSING}the file is damaged or cut off ({error}); only the rows before that place are read."
        )
        yield "the end", None, f"is missing: the file is damaged or cut off ({error})"


def _doubted(rows: Iterator[Row], name: str, head: bytes = b"", kind: str = "") -> Iterator[Row]:
    """The same rows; raises `DataError` when the first ones are all unreadable."""
    first: list[Row] = []
    for row in rows:
        first.append(row)
        if row[1] is not None or len(first) == _ROWS_TO_DOUBT:
            break
    if first and first[-1][1] is None:
        reason = UnreadableError(_reasons(first), next_step=_MEND)
        raise _unreadable(name, reason, looks_like(head, kind))
    return chain(first, rows)


def _reasons(rows: Sequence[Row]) -> str:
    shown = [f"{place} {problem}" for place, _, problem in rows[:_MOST_REASONS_SHOWN]]
    if len(rows) == 1:
        return shown[0]
    which = f"none of {'the first' if len(rows) == _ROWS_TO_DOUBT else 'its'} {len(rows)} rows can be read"
    return which + "".join(f"\n  - {reason}" for reason in shown)


def _unreadable(name: str, error: UnreadableError | DamagedStreamError, seems: tuple[str, str] | None) -> DataError:
    step = error.next_step if isinstance(error, UnreadableError) else "Fetch or write the file again."
    what, step = (f". It looks like {seems[0]}", seems[1]) if seems else ("", step)
    return DataError(f"The dataset {name} cannot be read{what}: {error}.", next_step=step)


def _not_readable(name: str, error: OSError) -> Exception:
    if error.errno in DISK_FULL:
        return error
    step = "Check the path and its permissions."
    return DataError(f"The dataset {name} cannot be read: {error.strerror or error}.", next_step=step)
