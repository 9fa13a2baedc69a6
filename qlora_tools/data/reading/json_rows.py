"""Rows of JSON files with the standard library: JSON Lines, one array of any size, or one document.

Every row comes as its place, its value, and why it cannot be read where it cannot; such a row stops nothing.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from .byte_streams import ROWS_MISSING, UnreadableError
from .json_arrays import array_rows, escaped_half, half_character, kind_of
from .text_rows import MAX_ROW_BYTES, Row, not_utf8, numbered_lines, too_large

_LARGEST_DOCUMENT_BYTES = 256 * 2**20
_SPACE = re.compile(r"\s*")
# By these a list of turns is told from a list of rows.
_TURN_KEYS = {"role", "from", "speaker"}


def json_rows(stream: io.BufferedReader, kind: str, split: str, notes: list[str]) -> Iterator[Row]:
    """Rows of a `.json`, `.jsonl` or `.ndjson` file. An array and JSON Lines are told apart by content.

    Raises `UnreadableError` for one document, neither array nor lines, over 256 MiB or without one clear list of rows.
    """
    head = stream.peek(4096)[:4096].lstrip()
    if re.match(rb"\[\s*[{\]]", head) or (kind == ".json" and head.startswith(b"[")):
        return array_rows(stream, notes)
    if kind == ".json" and head.startswith(b"{"):
        return _document_or_lines(stream, split, notes)
    return _line_rows(numbered_lines(stream))


def _line_rows(lines: Iterator[tuple[int, bytes | int]]) -> Iterator[Row]:
    loads = json.loads
    for number, line in lines:
        if isinstance(line, int):
            yield f"line {number}", None, too_large(line)
            continue
        try:
            text = line.decode()
            value = loads(text)
        except (ValueError, RecursionError) as error:
            if line.strip():
                yield f"line {number}", None, _why_not_json(line, error)
            continue
        problem = None
        if type(value) is not dict:
            problem = f"is not a JSON object but {kind_of(value)}"
        elif b"\\u" in line:
            problem = half_character(text, value)
        yield f"line {number}", None if problem else value, problem


def _why_not_json(line: bytes, error: ValueError | RecursionError) -> str:
    if b"\0" in line:
        return f"holds NUL bytes (the first is byte {line.index(0) + 1} of the line)"
    if isinstance(error, RecursionError):
        return "is nested too deep to be read"
    if isinstance(error, json.JSONDecodeError):
        column = min(error.pos, len(error.doc.rstrip())) + 1
        return f"is not JSON ({error.msg} at column {column})"
    return not_utf8(line) or f"is not JSON ({error})"


def _document_or_lines(stream: io.BufferedReader, split: str, notes: list[str]) -> Iterator[Row]:
    """Rows of a file that starts with an object: JSON Lines, or a document of one or more objects over many lines."""
    first = stream.readline(_LARGEST_DOCUMENT_BYTES + 1)
    second = stream.readline(_LARGEST_DOCUMENT_BYTES + 1 - len(first))
    while second.isspace():
        first, second = first + second, stream.readline(_LARGEST_DOCUMENT_BYTES + 1 - len(first))
    if second and (_is_object(second) or not _goes_on(first)):
        lines = [(1, first), (first.count(b"\n") + 1, second)]
        sized = ((number, line if len(line) <= MAX_ROW_BYTES else len(line)) for number, line in lines)
        return _line_rows(chain(sized, numbered_lines(stream, first=lines[1][0] + 1)))
    text = first + second
    text += stream.read(_LARGEST_DOCUMENT_BYTES + 1 - len(text))
    if len(text) > _LARGEST_DOCUMENT_BYTES:
        raise UnreadableError(
            f"it is one JSON document of more than {_LARGEST_DOCUMENT_BYTES // 2**20} MiB, too large to be read at once",
            next_step="Convert it to JSON Lines, one JSON object a line; for a list under the key data: jq -c '.data[]'",
        )
    return _document_rows(text, split, notes)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _goes_on(line: bytes) -> bool:
    """Whether a line of JSON is right so far and wants more."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(line.decode(errors="replace").rstrip())
    except (ValueError, RecursionError):
        return False
    return False


def _document_rows(text: bytes, split: str, notes: list[str]) -> Iterator[Row]:
    values, broken = _documents(text)
    if broken is None and len(values) == 1 and isinstance(values[0], dict):
        values = _rows_of_document(values[0], split, notes)
    # Which part of the text a row of columns comes from is not known: every row is looked at where there is a half.
    half = escaped_half(text.decode()) if values else None
    for number, value in enumerate(values, start=1):
        whole = isinstance(value, dict)
        problem = half_character(half or "", value) if whole else f"is not a JSON object but {kind_of(value)}"
        yield f"row {number}", None if problem else value, problem
    if broken:
        notes.append(f"{ROWS_MISSING}nothing after row {len(values)} is read, since the text {broken}.")
        yield f"row {len(values) + 1}", None, f"{broken}; nothing after it is read"


def _documents(text: bytes) -> tuple[list[Any], str | None]:
    """The values of a text one after the other, and why it does not go on to its end."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        return [], f"is not UTF-8 text (a byte of line {line} is 0x{text[error.start]:02x})"
    values: list[Any] = []
    decoder, at = json.JSONDecoder(), _end_of_space(decoded, 0)
    while at < len(decoded):
        try:
            value, at = decoder.raw_decode(decoded, at)
        except json.JSONDecodeError as error:
            return values, f"is not JSON ({error.msg} at line {error.lineno} column {error.colno})"
        except (ValueError, RecursionError) as error:
            return values, "is nested too deep to be read" if isinstance(error, RecursionError) else str(error)
        values.append(value)
        at = _end_of_space(decoded, at)
    return values, None


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _rows_of_document(document: dict[str, Any], split: str, notes: list[str]) -> list[Any]:
    """The rows of one object: its one list of objects, its columns, or itself."""
    lists = [key for key, value in document.items() if _is_list_of_rows(value)]
    if len(lists) > 1 and split in lists:
        notes.append(f"Of the lists {', '.join(lists)}, only {split} is read.")
        return list(document[split])
    if len(lists) > 1:
        raise UnreadableError(
            f"it is one JSON object with several lists of rows: {', '.join(lists)}",
            next_step="Name one of them as the split, or save the list that is meant as a file of its own.",
        )
    if lists:
        notes.append(f"The rows are the list under the key {lists[0]!r}.")
        return list(document[lists[0]])
    columns = _columns(document)
    if columns is None:
        return [document]
    notes.append("The rows are put together from columns of equal length.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _is_list_of_rows(value: Any) -> bool:
    rows = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    return rows and not _TURN_KEYS & value[0].keys()


def _columns(document: Mapping[str, Any]) -> dict[str, Sequence[Any]] | None:
    """Columns as lists, or as pandas writes them: objects whose keys are the numbers of the rows."""
    if not document:
        return None
    first = next(iter(document.values()))
    if isinstance(first, dict):
        numbered = bool(first) and all(key.isdigit() for key in first)
        alike = all(isinstance(column, dict) and column.keys() == first.keys() for column in document.values())
        return (
            {name: [column[key] for key in first] for name, column in document.items()} if numbered and alike else None
        )
    if not isinstance(first, list) or any(_is_turns(value) for value in document.values()):
        return None
    alike = all(isinstance(column, list) and len(column) == len(first) for column in document.values())
    return dict(document) if alike and first else None


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and bool(_TURN_KEYS & value[0].keys())
