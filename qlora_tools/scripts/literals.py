"""Values in generated text: each is written in a form that the reading program can only take as that value.

A value never becomes code: what a template prints is a `Literal`, on which no template can branch, and it is written by the
rules of the language that the template is in.
"""

import json
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError

Value = str | int | float | bool | list["Value"] | dict[str, "Value"] | None
_WIDTH = 88


@dataclass(frozen=True, eq=False)
class Literal:
    """One value for a template to print; asking whether it is true, or what is in it, is an error of the template."""

    value: Value

    def __bool__(self) -> bool:
        raise TypeError("a template branches on a value; give it a choice")

    def __eq__(self, other: object) -> bool:
        raise TypeError("a template compares a value; give it a choice")

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Mark:
    """What a line or a region is there for: a note to the renderer that leaves no trace in the text."""

    text: str


def python_code(value: Value, indent: int = 0) -> str:
    """`value` as Python source on its own: strings in double quotes, long lists an item a line.

    Raises `UsageError` for numbers that are not finite and `TypeError` for any other type.
    """
    short = _python_in_a_line(value)
    if len(short) <= _WIDTH or not isinstance(value, list | dict):
        return short
    inner = " " * (indent + 4)
    if isinstance(value, dict):
        items = [f"{_text(key)}: {python_code(item, indent + 4)}" for key, item in value.items()]
        return "{\n" + "".join(f"{inner}{item},\n" for item in items) + " " * indent + "}"
    items = [python_code(item, indent + 4) for item in value]
    return "[\n" + "".join(f"{inner}{item},\n" for item in items) + " " * indent + "]"


def _python_in_a_line(value: Any) -> str:
    if value is None or isinstance(value, bool | int):
        return repr(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"{value} is no finite number.", next_step="Give a finite number.")
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_python_in_a_line, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)}: {_python_in_a_line(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"a {type(value).__name__} cannot stand in a script")


def _text(value: str) -> str:
    """A string in double quotes where that takes no escapes, as formatters write it."""
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} is no text")
    # A lone surrogate (a file name that is not UTF-8) would make the script unwritable as UTF-8.
    written = repr(value).encode("ascii", "backslashreplace").decode() if _has_surrogates(value) else repr(value)
    return f'"{written[1:-1]}"' if written.startswith("'") and '"' not in value else written


def _has_surrogates(value: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in value)


def yaml_code(value: Value) -> str:
    """`value` as YAML: a JSON scalar or list, an object as a block mapping on lines of its own, an item a line."""
    if isinstance(value, dict):
        return "".join(f"\n  {yaml_code(key)}: {yaml_code(item)}" for key, item in value.items())
    written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # JSON writes rare characters as surrogates, which YAML takes for two characters.
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08X}" for letter in written)


def shell_code(value: Value) -> str:
    """A text or number as one word of a POSIX shell, a list as such words, a line each.

    Raises `UsageError` for control characters.
    """
    if isinstance(value, list):
        return " \\\n    ".join(map(shell_code, value))
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise TypeError(f"a {type(value).__name__} cannot stand in a shell line")
    word = str(value)
    if not word.isprintable():
        raise UsageError(
            f"{word!r} holds characters that cannot stand in a shell script.", next_step="Choose another name."
        )
    return shlex.quote(word)


WRITERS: dict[str, Callable[[Value], str]] = {"python": python_code, "yaml": yaml_code, "shell": shell_code}
