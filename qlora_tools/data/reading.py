"""Reading a dataset file into examples. What is wrong is said with its line.

Text formats are read with the standard library, so that a value stays what was written: guessing readers make dates of
"2024-01-05", numbers of "007" and nothing of "NA". Parquet, whose columns have types, goes through `datasets`.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..disk import DISK_FULL
from ..errors import DataError
from ..requirements import require_training_libraries
from .formats import Example, RowError, detect_format, to_example

Row = Mapping[str, Any]

_MOST_ROW_ERRORS_SHOWN = 5
_MEND = "Mend the file; rows of JSON Lines are one JSON object each, in UTF-8."


@dataclass(frozen=True)
class Examples:
    """The rows of a file in normal form, with the format they were read as."""

    format: str
    examples: tuple[Example, ...]


class _UnreadableError(ValueError):
    """Why a file cannot be read, with its line."""


def read_examples(path: Path, row_format: str = "auto") -> Examples:
    """Read every row of `path`.

    Raises `DataError` when the file is missing, empty, not text in UTF-8, of no known format, or has rows that do not
    fit the format (the first five are named).
    """
    rows = _load_rows(path)
    if not rows:
        raise DataError(f"The dataset {path} has no rows.", next_step="Give a file with at least one row.")
    found = detect_format(list(rows[0]), rows[0]) if row_format == "auto" else row_format
    return Examples(found, tuple(_normal_forms(rows, found, path)))


def _normal_forms(rows: Sequence[Row], row_format: str, path: Path) -> list[Example]:
    examples: list[Example] = []
    problems: list[str] = []
    for number, row in enumerate(rows, start=1):
        try:
            examples.append(to_example(row, row_format))
        except RowError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        shown = "".join(f"\n  - {problem}" for problem in problems[:_MOST_ROW_ERRORS_SHOWN])
        raise DataError(
            f"{len(problems)} of {len(rows)} rows of {path} do not fit the format {row_format}:{shown}",
            next_step="Mend or remove these rows, or name another data.format.",
        )
    return examples


def _load_rows(path: Path) -> list[Row]:
    reader = _reader(path)
    try:
        return list(reader(path))
    except _UnreadableError as error:
        raise DataError(f"The dataset {path} cannot be read: {error}.", next_step=_MEND) from None
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise DataError(f"The dataset {path} cannot be read: {error.strerror or error}.", next_step=_MEND) from None


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    if not path.exists():
        raise DataError(f"There is no dataset {path}.", next_step="Check data.path.")
    if not path.is_file():
        raise DataError(
            f"The dataset {path} is not a file.", next_step="Give one .jsonl, .json, .csv or .parquet file."
        )
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"The dataset {path} ends in {path.suffix or 'nothing'}; known are {', '.join(_READERS)}.",
            next_step="Convert it, for instance to JSON Lines: one JSON object a line.",
        )
    if path.stat().st_size == 0:
        raise DataError(f"The dataset {path} is empty (0 bytes).", next_step="Give a file with at least one row.")
    return reader


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, without a byte-order mark."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                place = f"byte {error.start + 1} of the line is 0x{line[error.start]:02x}"
                raise _UnreadableError(f"line {number} is not UTF-8 text ({place})") from None


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if line.strip():
            yield _json_object(line, f"line {number}")


def _json_object(text: str, place: str) -> Row:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _UnreadableError(f"{place} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise _UnreadableError(f"{place} is not a JSON object but a {type(value).__name__}")
    return value


def _json_array(path: Path) -> Iterator[Row]:
    text = "".join(line for _, line in _lines(path))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        # Many files named .json hold JSON Lines.
        yield from _json_lines(path)
        return
    rows = value if isinstance(value, list) else [value]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise _UnreadableError(f"entry {number} is not a JSON object but a {type(row).__name__}")
        yield row


def _table(path: Path, delimiter: str) -> Iterator[Row]:
    reader = csv.DictReader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise _UnreadableError(
                    f"line {reader.line_num} has not the {len(reader.fieldnames or ())} fields of the first line"
                )
            yield row
    except csv.Error as error:
        raise _UnreadableError(f"line {reader.line_num} is not CSV ({error})") from None


def _texts(path: Path) -> Iterator[Row]:
    return ({"text": line.rstrip("\r\n")} for _, line in _lines(path) if line.strip())


def _parquet(path: Path) -> Iterator[Row]:
    require_training_libraries("reading a Parquet file")
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        # Opened by us: `datasets` would take brackets and stars of a path for a pattern.
        with path.open("rb") as file:
            yield from datasets.Dataset(pyarrow.parquet.read_table(file)).to_list()
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise _UnreadableError(str(error).splitlines()[0]) from None


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_array,
    ".csv": lambda path: _table(path, ","),
    ".tsv": lambda path: _table(path, "\t"),
    ".parquet": _parquet,
    ".txt": _texts,
}
