"""Prompts from a file: one text a line, or the rows of any dataset that can be read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..data.examples import Message, PlainText, RowError
from ..data.formats.detect import detect_mapping, to_example
from ..data.formats.turns import read_turns
from ..data.reading.sources import COMPRESSION_SUFFIXES, DATA_SUFFIXES, DataSource
from ..data.reading.stream import RawRow, open_rows
from ..errors import DataError
from ..results import BrokenPrompt

_SAMPLE = 200
_Reader = Callable[[Mapping[str, Any]], list[Message]]


@dataclass(frozen=True)
class FilePrompt:
    """The prompt of row `number`, counted from 1 through all rows, as turns."""

    number: int
    turns: tuple[Message, ...]


def read_prompts(path: Path, system: str | None = None) -> Iterator[FilePrompt | BrokenPrompt]:
    """The prompts of a file in their order, and the rows that hold none, each with its reason.

    Rows of data files hold `prompt` (a text or turns) or `messages`, with `system` beside them; rows of any other format
    that is known are asked up to their last answer. Of other files each line is a prompt. `system` goes before prompts that
    have no system turn.

    Raises `DataError` for a file that is missing, empty, or of no known format.
    """
    if _holds_rows(path):
        rows = iter(open_rows(DataSource(str(path), source="local")))
        sample = list(islice(rows, _SAMPLE))
        read = _reader([row.value for row in sample if row.value is not None])
        return (_prompt(row, read, system) for row in chain(sample, rows))
    return _lines(path, system)


def _holds_rows(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSION_SUFFIXES:
        return True
    return path.is_dir() or (bool(suffixes) and suffixes[-1] in DATA_SUFFIXES and suffixes[-1] != ".txt")


def _lines(path: Path, system: str | None) -> Iterator[FilePrompt | BrokenPrompt]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(
            f"The prompts file {path} cannot be read: {error.strerror}.", next_step="Check the path."
        ) from None
    return (_line(number, line, system) for number, line in enumerate(lines, start=1) if line.strip())


def _line(number: int, line: bytes, system: str | None) -> FilePrompt | BrokenPrompt:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return BrokenPrompt(row=number, place=f"line {number}", problem=f"is not UTF-8 text (byte {error.start + 1})")
    return FilePrompt(number, with_system([Message(role="user", content=text)], system))


def _reader(sample: list[Mapping[str, Any]]) -> _Reader:
    """How rows like these are read: by our own fields where they have them, else as the dataset that they are."""
    if any("prompt" in row or "messages" in row for row in sample):
        return _own_fields
    mapping = detect_mapping(sample)

    def read(row: Mapping[str, Any]) -> list[Message]:
        example = to_example(row, mapping)
        if isinstance(example, PlainText):
            return [Message(role="user", content=example.text)]
        return list(example.messages)

    return read


def _own_fields(row: Mapping[str, Any]) -> list[Message]:
    name = "messages" if row.get("messages") is not None else "prompt"
    value = row.get(name)
    if value is None:
        raise RowError("has neither `prompt` nor `messages`")
    if not isinstance(value, str | list):
        raise RowError(f"{name} is neither a text nor a list of turns")
    turns = [Message(role="user", content=value)] if isinstance(value, str) else read_turns(value, name)
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise RowError("system is not a text")
    return list(with_system(turns, system))


def _prompt(row: RawRow, read: _Reader, system: str | None) -> FilePrompt | BrokenPrompt:
    if row.value is None:
        return BrokenPrompt(row=row.number, place=row.place, problem=row.problem or "cannot be read")
    try:
        turns = read(row.value)
        # What a dataset holds as the answer is what is asked for.
        turns = turns[:-1] if turns[-1]["role"] == "assistant" else turns
        if not any(turn["content"].strip() for turn in turns if turn["role"] != "system"):
            raise RowError("holds nothing to answer")
    except RowError as error:
        return BrokenPrompt(row=row.number, place=row.place, problem=str(error))
    return FilePrompt(row.number, with_system(turns, system))


def with_system(turns: list[Message], system: str | None) -> tuple[Message, ...]:
    """The turns after a system turn; unchanged where they begin with one, or there is none to add."""
    if system is None or turns[0]["role"] == "system":
        return tuple(turns)
    return (Message(role="system", content=system), *turns)
