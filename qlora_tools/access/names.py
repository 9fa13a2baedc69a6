"""The text of a path, before anything is looked up: what is refused by its letters alone."""

import os
import unicodedata

from ..paths import MAX_PATH_CHARACTERS, check_path_text
from .refusal import PathRefusedError

# Slashes that compatibility normalisation leaves alone, and that look like the one between folders.
_OTHER_SLASHES = frozenset("\u2044\u2215\u2571\u27cb\u29f8\u29f9")
_RETYPE = "Type the path again, with plain / and . between the names."


def check_letters(text: str) -> None:
    """Raise `PathRefusedError` for text that is no plain path: what `check_path_text` refuses, addresses, look-alikes."""
    if len(text) > MAX_PATH_CHARACTERS:
        raise PathRefusedError(
            f"has {len(text):,} characters; allowed are {MAX_PATH_CHARACTERS:,}", "Give a shorter path."
        )
    try:
        check_path_text(text)
    except ValueError as error:
        raise PathRefusedError(str(error), "Check the path.") from None
    if "://" in text or "::" in text:
        raise PathRefusedError("is an address; allowed are files and folders", "Fetch it first, and give its path.")
    if "\\" in text:
        raise PathRefusedError("holds a backslash; folders are parted by /", _RETYPE)
    _check_look_alikes(text)


def expanded(text: str) -> str:
    """`text` with `~` made a folder; raises `PathRefusedError` where it names nobody."""
    wide = os.path.expanduser(text)  # noqa: PTH111 - Path.expanduser raises RuntimeError
    if wide.startswith("~"):
        raise PathRefusedError("begins with ~ and names no user", "Write the folder itself.")
    return wide


def _check_look_alikes(text: str) -> None:
    """What looks like `/`, `..` or `~` to a person, or becomes it in a program that normalises names."""
    if text.isascii():
        return
    for letter in text:
        plain = unicodedata.normalize("NFKC", letter)
        if letter in _OTHER_SLASHES or (letter != plain and set("/\\~") & set(plain)):
            raise PathRefusedError(f"holds {_named(letter)}, which looks like a part of a path", _RETYPE)
    parts = unicodedata.normalize("NFKC", text).split("/")
    if any(plain in (".", "..") and plain != part for plain, part in zip(parts, text.split("/"), strict=True)):
        raise PathRefusedError("holds letters that look like the dots of a folder above", _RETYPE)
    if parts[0].startswith("-"):
        raise PathRefusedError("starts with a letter that looks like '-'", _RETYPE)


def _named(letter: str) -> str:
    return f"U+{ord(letter):04X} ({unicodedata.name(letter, 'unnamed')})"
