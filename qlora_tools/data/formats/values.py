"""One value of a row: what kind it is, where it lies, and its text. The same for every format."""

import ast
import json
import reprlib
from collections.abc import Mapping
from typing import Any

from ..examples import RowError

Row = Mapping[str, Any]

_KINDS = {int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object", str: "text"}
# What pandas writes into a CSV where a cell holds a list: Python's way of writing, which is not JSON.
_PYTHON_LITERALS = ("[{'", "{'", "['", "[['", '[{"', '["')
# Reading such a literal takes some hundred times its size in memory.
_LONGEST_LITERAL = 1_000_000
_LONGEST_INDEX = 6


def kind(value: Any) -> str:
    """The kind of a value in words."""
    return "missing" if value is None else _KINDS.get(type(value), f"of type {type(value).__name__}")


def is_blank(value: Any) -> bool:
    """Whether a value says nothing: null, an empty list or object, or text of nothing but spaces."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, list | dict) and not value)


def value_at(row: Row, path: str) -> Any:
    """The value of a column, or of a dotted path such as `answers.text.0`; None where there is none.

    A column whose very name is the path comes first. Text that holds JSON is entered like the value itself.
    """
    if path in row:
        return row[path]
    value: Any = row
    for step in path.split("."):
        value = _step(decoded(value), step)
        if value is None:
            return None
    return value


def _step(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list) and step.isdecimal() and len(step) <= _LONGEST_INDEX:
        return value[int(step)] if int(step) < len(value) else None
    return None


def text(value: Any, name: str) -> str:
    """The text of a value that must have one; raises `RowError` naming `name`."""
    if not isinstance(value, str):
        raise RowError(f"{name} is {kind(value)}" if value is None else f"{name} is {kind(value)}, not text")
    if not value or value.isspace():
        raise RowError(f"{name} is empty")
    return value


def text_or_nothing(value: Any, name: str) -> str:
    """The text of a value that may be absent or blank; raises `RowError` where it is something else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(f"{name} is {kind(value)}, not text")
    return "" if value.isspace() else value


def decoded(value: Any) -> Any:
    """The list or object that a text holds as JSON (or as Python writes it, from CSV files); any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = _python_literal(value)
    return found if isinstance(found, list | dict) else value


def _python_literal(value: str) -> Any:
    if len(value) > _LONGEST_LITERAL or not value.lstrip().startswith(_PYTHON_LITERALS):
        return None
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def shown(value: Any, longest: int = 40) -> str:
    """A value for a message: short, on one line, nothing in it that a terminal would obey."""
    whole = value if isinstance(value, str) else reprlib.repr(value)
    short = whole if len(whole) <= longest else whole[: longest - 1] + "…"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in short)
