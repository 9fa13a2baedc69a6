"""Paths and names that come from a user: one check for all of them."""

import os
import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_PATH_CHARACTERS = 4096


def check_path_text(text: str) -> str:
    """Return `text` if it is safe to hand on as a path or model name, else raise `ValueError`.

    Refused: empty text, control or formatting characters (NUL, newline, bidi overrides), and a leading `-`, which
    a program further on could read as an option.
    """
    if not text.strip():
        raise ValueError("is empty; write a path or a name")
    if text.startswith("-"):
        raise ValueError("starts with '-', which programs read as an option; write ./-name for such a file")
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("holds a control or invisible character; type the path again")
    return text


PathText = Annotated[str, Field(max_length=MAX_PATH_CHARACTERS), AfterValidator(check_path_text)]


def as_path(text: str) -> Path:
    """The path a person meant: `~` expanded, made absolute against the current directory, links left as they are."""
    return Path(os.path.expanduser(text)).absolute()  # noqa: PTH111 - Path.expanduser raises for unknown users
