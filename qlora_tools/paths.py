"""Paths and names that come from a user: one check for all of them."""

import os
import reprlib
import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from .errors import UsageError

MAX_PATH_CHARACTERS = 4096
MAX_NAME_BYTES = 255


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
    if any(len(part.encode()) > MAX_NAME_BYTES for part in text.split("/")):
        raise ValueError(f"has a name of more than {MAX_NAME_BYTES} bytes, which no file system takes")
    return text


PathText = Annotated[str, Field(max_length=MAX_PATH_CHARACTERS), AfterValidator(check_path_text)]


def as_path(text: str) -> Path:
    """The path a person meant: `~` expanded, made absolute against the current directory, links left as they are.

    Raises `UsageError` for text that `check_path_text` refuses.
    """
    try:
        check_path_text(text)
    except ValueError as error:
        raise UsageError(f"The path {reprlib.repr(text)} {error}.", next_step="Check the path.") from None
    return Path(os.path.expanduser(text)).absolute()  # noqa: PTH111 - Path.expanduser raises for unknown users
