"""The columns of sample rows by what they hold. A first row with nulls does not mislead: most of what is filled counts."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .transcripts import is_transcript
from .turns import Dialect, chat_dialect, turn_roles
from .values import Row, decoded, is_blank, kind, value_at

_WORDS = re.compile(r"[\s\-]+")
_DATES = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b|\s*[\d.,:+%-]+\s*$")
_MOST_PATHS = 60
_PROSE_CHARACTERS = 40
_WRITING_CHARACTERS = 20
# Few values over and over that say where a row comes from, and are no label of it.
_ORIGINS = frozenset(
    ("lang", "language", "source", "dataset", "origin", "license", "split", "subset", "domain", "site")
)
_ROWS_TO_JUDGE = 6
_REPEATS = 3
_DEEPEST = 3


@dataclass(frozen=True)
class Column:
    """What the sample rows hold under one path: `values` are those that are filled, `rows` how many rows there are."""

    path: str
    values: tuple[Any, ...]
    rows: int

    @cached_property
    def kind(self) -> str:
        """The kind of most filled values, in words; "empty" where none is filled."""
        kinds = Counter(kind(value) for value in self.values)
        return kinds.most_common(1)[0][0] if kinds else "empty"

    @property
    def is_empty(self) -> bool:
        """Whether no sample row has anything here."""
        return not self.values

    @cached_property
    def is_text(self) -> bool:
        """Whether most of what is filled is text."""
        return 2 * len(self.texts) > len(self.values)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The filled values that are text."""
        return tuple(value for value in self.values if isinstance(value, str))

    @cached_property
    def mean_length(self) -> float:
        """Characters of a text."""
        return sum(map(len, self.texts)) / len(self.texts) if self.texts else 0.0

    @property
    def is_prose(self) -> bool:
        """Whether its texts are sentences rather than names."""
        return self.mean_length >= _PROSE_CHARACTERS and 2 * self._spaced > len(self.texts)

    @property
    def is_writing(self) -> bool:
        """Whether its texts are prose or code, if short, and no ids, dates or objects."""
        if self.mean_length < _WRITING_CHARACTERS or 2 * self._spaced <= len(self.texts) or self.is_metadata:
            return False
        return 2 * sum(decoded(value) is value for value in self.texts) > len(self.texts)

    @property
    def is_metadata(self) -> bool:
        """Whether its texts are ids, addresses, dates, numbers, or few values over and over."""
        if not self.texts:
            return False
        dates = sum(bool(_DATES.match(value)) for value in self.texts)
        return self._repeats or 2 * dates > len(self.texts) or (not self._spaced and self._is_plain_ascii)

    @property
    def has_few_values(self) -> bool:
        """Whether it holds few texts over and over, as labels and categories do."""
        return self._repeats and len(set(self.texts)) > 1 and plain_name(self.path) not in _ORIGINS

    @property
    def _repeats(self) -> bool:
        return len(self.texts) >= _ROWS_TO_JUDGE and len(set(self.texts)) <= len(self.texts) // _REPEATS

    @property
    def is_identifier(self) -> bool:
        """Whether its texts are codes such as T-101: one word of ASCII with digits, another one in each row."""
        digits = sum(any(map(str.isdigit, value)) for value in self.texts)
        different = len(set(self.texts)) > 0.9 * len(self.texts)
        return (
            bool(self.texts)
            and not self._spaced
            and self._is_plain_ascii
            and different
            and 2 * digits > len(self.texts)
        )

    @cached_property
    def _spaced(self) -> int:
        return sum(" " in bare or "\n" in bare for bare in map(str.strip, self.texts))

    @property
    def _is_plain_ascii(self) -> bool:
        """Chinese and Japanese prose has no spaces, and is still no id."""
        return all(value.isascii() for value in self.texts)

    @cached_property
    def is_scalar(self) -> bool:
        """Whether every filled value is a number or true/false: a class, a score, a count."""
        return bool(self.values) and all(isinstance(value, bool | int | float) for value in self.values)

    @cached_property
    def chat(self) -> Dialect | None:
        """How most of the values hold a chat."""
        dialects = Counter(chat_dialect(value) for value in self.values)
        dialect, count = dialects.most_common(1)[0] if dialects else (None, 0)
        return dialect if 2 * count > len(self.values) else None

    @property
    def is_chat(self) -> bool:
        """Whether it holds chats by roles."""
        return self.chat == "roles"

    @cached_property
    def is_answered(self) -> bool:
        """Whether most of its chats have an assistant's turn."""
        return self._most(lambda value: "assistant" in turn_roles(value))

    @cached_property
    def is_whole_chat(self) -> bool:
        """Whether most of its chats begin before the assistant does."""
        return self._most(lambda value: bool(roles := turn_roles(value)) and roles[0] in ("user", "system"))

    @cached_property
    def is_transcript(self) -> bool:
        """Whether most of its texts are marked dialogues."""
        return self._most(lambda value: isinstance(value, str) and is_transcript(value))

    @cached_property
    def has_lists(self) -> bool:
        """Whether most values are lists, as such or as JSON text."""
        return self._most(lambda value: isinstance(decoded(value), list))

    def _most(self, holds: Callable[[Any], bool]) -> bool:
        return 2 * sum(map(holds, self.values)) > len(self.values)


class Table:
    """Sample rows as columns, found by name without regard to case, spaces and hyphens."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in rows if isinstance(row, Mapping)]
        names: dict[str, None] = dict.fromkeys(str(name) for row in self.rows for name in row)
        self.columns = {name: self.column(name) for name in names}
        self._by_name: dict[str, str] = {}
        for name in sorted(names, key=lambda name: name != plain_name(name)):
            self._by_name.setdefault(plain_name(name), name)

    def column(self, path: str) -> Column:
        """The column at a path, dotted where it is nested."""
        values = (value_at(row, path) for row in self.rows)
        return Column(path, tuple(value for value in values if not is_blank(value)), len(self.rows))

    def named(self, names: Iterable[str], accepts: Callable[[Column], bool]) -> Column | None:
        """The first of `names` that is a column (or, with a dot, a path) whose content is accepted."""
        for name in names:
            column = self._column_named(name)
            if column is not None and accepts(column):
                return column
        return None

    def _column_named(self, name: str) -> Column | None:
        if name in self._by_name:
            return self.columns[self._by_name[name]]
        nested = self.column(name) if "." in name else None
        return None if nested is None or nested.is_empty else nested

    def holds(self, path: str) -> bool:
        """Whether a path leads anywhere: to a column, even an empty one, or to something inside one."""
        inside = (column.path for column in self.nested)
        return path in self.columns or path in inside or any(value_at(row, path) is not None for row in self.rows)

    @cached_property
    def nested(self) -> list[Column]:
        """Columns inside objects, and the first of lists, three deep and 60 at most."""
        paths: list[str] = []
        for name, column in self.columns.items():
            if "." not in name and not column.is_text:
                self._collect(name, column.values, paths)
        return [self.column(path) for path in paths[:_MOST_PATHS]]

    def _collect(self, path: str, values: Sequence[Any], paths: list[str]) -> None:
        if path.count(".") >= _DEEPEST or len(paths) >= _MOST_PATHS:
            return
        for step in _steps(values):
            below = f"{path}.{step}"
            paths.append(below)
            self._collect(below, self.column(below).values[:5], paths)


def _steps(values: Sequence[Any]) -> list[str]:
    steps: dict[str, None] = {}
    for value in values[:5]:
        if isinstance(value, Mapping):
            steps.update(dict.fromkeys(str(key) for key in value if "." not in str(key)))
        elif isinstance(value, list):
            steps["0"] = None
    return list(steps)[:_MOST_PATHS]


def filled(column: Column) -> bool:
    """Whether some sample row has a value."""
    return bool(column.values)


def has_text(column: Column) -> bool:
    """Whether some sample row has a value, and most that have one have text."""
    return bool(column.values) and column.is_text


def text_or_chat(column: Column) -> bool:
    """Whether it holds texts or chats by roles."""
    return column.is_chat or has_text(column)


def plain_name(name: str) -> str:
    """A column's name as the lists of names have it: lower case, words joined by underscores."""
    return _WORDS.sub("_", name.strip().lower())
