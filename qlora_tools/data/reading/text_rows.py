"""Rows of text files: the lines themselves, CSV and TSV, with the standard library, so that a value stays what was written.

Guessing readers make dates of "2024-01-05", numbers of "007" and nothing of "NA". Every row comes as its place, its
value, and why it cannot be read where it cannot; such a row stops nothing.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from .byte_streams import UnreadableError

Row = tuple[str, Mapping[str, Any] | None, str | None]

MAX_ROW_BYTES = 32 * 2**20
_PIECE_BYTES = 2**20
_SAMPLE_BYTES = 2**16
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def numbered_lines(stream: io.BufferedReader, first: int = 1) -> Iterator[tuple[int, bytes | int]]:
    """Lines with their numbers; of one that is over the limit only its size in bytes, and it is never held whole."""
    number = first
    while line := stream.readline(MAX_ROW_BYTES + 1):
        if len(line) <= MAX_ROW_BYTES:
            yield number, line
        else:
            yield number, _size_of_rest(stream, line)
        number += 1


def _size_of_rest(stream: io.BufferedReader, piece: bytes) -> int:
    size = len(piece)
    while not piece.endswith(b"\n") and (piece := stream.readline(_PIECE_BYTES)):
        size += len(piece)
    return size


def too_large(size: int) -> str:
    """Why a row over the limit is not read."""
    return f"has {size / 2**20:,.0f} MiB, more than the {MAX_ROW_BYTES // 2**20} MiB that a row may have"


def not_utf8(line: bytes) -> str | None:
    """Which byte of a line is not UTF-8, or None."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8 text (byte {error.start + 1} of the line is 0x{line[error.start]:02x})"
    return None


def text_rows(stream: io.BufferedReader, notes: list[str]) -> Iterator[Row]:
    """Each line is a text; blank ones are counted in a note."""
    blank = 0
    for number, line in numbered_lines(stream):
        if isinstance(line, bytes) and not line.strip():
            blank += 1
            continue
        problem = _text_problem(line)
        if isinstance(line, int) or problem:
            yield f"line {number}", None, problem
        else:
            yield f"line {number}", {"text": line.decode().rstrip("\r\n")}, None
    if blank:
        notes.append(f"{blank:,} blank line{'s were' if blank > 1 else ' was'} skipped.")


def _text_problem(line: bytes | int) -> str | None:
    if isinstance(line, int):
        return too_large(line)
    return "holds NUL bytes" if b"\0" in line else not_utf8(line)


def table_rows(stream: io.BufferedReader, kind: str, notes: list[str]) -> Iterator[Row]:
    """Rows of a CSV or TSV file, by the names in its first line. The delimiter of CSV is told by the content.

    Raises `UnreadableError` for a header without a name for each column, and where a quote is never closed.
    """
    delimiter = "\t" if kind == ".tsv" else _delimiter(stream.peek(_SAMPLE_BYTES)[:_SAMPLE_BYTES])
    if delimiter != "," and kind == ".csv":
        notes.append(f"Its fields are separated by {_DELIMITERS[delimiter]}.")
    table = _Table(stream, delimiter)
    header = table.header(notes)
    while True:
        start = table.line + 1
        try:
            fields = next(table)
        except StopIteration:
            return
        except _RowProblemError as error:
            yield table.place(start), None, str(error)
            continue
        if fields:
            problem = _fields_problem(fields, header)
            value = None if problem else _named(header, fields)
            yield table.place(start), value, problem


def _fields_problem(fields: list[str], header: list[str]) -> str | None:
    if len(fields) != len(header):
        return f"has {len(fields)} field{'s' * (len(fields) != 1)}, and the first line names {len(header)}"
    joined = "".join(fields)
    if joined.isascii():
        return "holds NUL bytes" if "\0" in joined else None
    return not_utf8(joined.encode("utf-8", "surrogateescape")) or ("holds NUL bytes" if "\0" in joined else None)


def _named(header: list[str], fields: list[str]) -> dict[str, str]:
    row = dict(zip(header, fields, strict=True))
    # The index that pandas writes has no name.
    row.pop("", None)
    return row


class _RowProblemError(Exception):
    """Why the next row cannot be read; the one after it can be asked for."""


class _Lines:
    """The lines of a table as text, for the CSV reader. Going on after an error is possible, unlike with a generator."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._lines = numbered_lines(stream)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        _, line = next(self._lines)
        if isinstance(line, int):
            raise _RowProblemError(too_large(line))
        return line.decode("utf-8", "surrogateescape")


class _Table:
    """Records of a table. `line` is the last line that was read."""

    def __init__(self, stream: io.BufferedReader, delimiter: str) -> None:
        # Of the whole process; the default of 128 KiB is less than a long answer has.
        csv.field_size_limit(MAX_ROW_BYTES)
        self._reader = csv.reader(_Lines(stream), delimiter=delimiter, strict=True)

    @property
    def line(self) -> int:
        return self._reader.line_num

    def __next__(self) -> list[str]:
        start = self.line + 1
        try:
            return next(self._reader)
        except csv.Error as error:
            if "unexpected end" in str(error) or "field larger" in str(error):
                raise UnreadableError(
                    f"a quote that is opened in line {start} or after it is not closed by line {self.line}",
                    next_step='Close the quote; a quote inside a quoted field is written twice: "".',
                ) from None
            raise _RowProblemError(f"is not CSV ({error})") from None

    def place(self, start: int) -> str:
        return f"line {start}" if self.line <= start else f"lines {start} to {self.line}"

    def header(self, notes: list[str]) -> list[str]:
        """The names of the columns; the first may be without a name."""
        try:
            names = next((fields for fields in iter(lambda: next(self._reader, None), None) if fields), [])
        except _RowProblemError as error:
            raise UnreadableError(f"its first line {error}", next_step=_HEADER) from None
        names = [name.strip() for name in names]
        twice = sorted({name for name in names if names.count(name) > 1 and name})
        if twice or "" in names[1:] or names == [""]:
            what = f"names {', '.join(twice)} more than once" if twice else "leaves a column without a name"
            raise UnreadableError(f"its first line {what}", next_step=_HEADER)
        if any("\0" in name or not_utf8(name.encode("utf-8", "surrogateescape")) for name in names):
            raise UnreadableError("its first line is not text in UTF-8", next_step="Save the file as CSV in UTF-8.")
        if "" in names:
            notes.append("The first column has no name (an index, as pandas writes it) and is left out.")
        return names


_HEADER = "Give a first line that names each column once, such as: question,answer"


def _delimiter(sample: bytes) -> str:
    """The delimiter that cuts most lines of the sample into as many fields as the first; a comma where none does."""
    lines = sample.decode("utf-8", "replace").splitlines(keepends=True)[:50]
    return max(_DELIMITERS, key=lambda delimiter: _agreement(lines, delimiter))


def _agreement(lines: list[str], delimiter: str) -> tuple[int, int]:
    try:
        records = [fields for fields in csv.reader(lines, delimiter=delimiter) if fields]
    except csv.Error:
        return 0, 0
    if not records or len(records[0]) < 2:
        return 0, 0
    return sum(len(fields) == len(records[0]) for fields in records), len(records[0])
