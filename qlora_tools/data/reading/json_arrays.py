"""One JSON array of objects as rows, of which only the part that is being read is held in memory."""

import codecs
import io
import json
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

from .byte_streams import ROWS_MISSING, DamagedStreamError
from .text_rows import MAX_ROW_BYTES, Row, too_large

_PIECE_BYTES = 2**20
# An escape or a word that is cut short is refused where it starts, not where the text ends.
_NEAR_THE_END = 16
_SPACE = re.compile(r"[ \t\r\n]*")
_OUTSIDE_TEXT = re.compile(r'["\[\]{}]')
_INSIDE_TEXT = re.compile(r'["\\]')
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


class _Window:
    """The part of a JSON text that is being read, from `at` on; it grows by need and forgets what lies behind."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.text = ""
        self.at = 0
        self._stream = stream
        self._raw_decode = json.JSONDecoder().raw_decode
        # What is not UTF-8 becomes half characters, by which its row is refused.
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._ended = False
        self._damage: DamagedStreamError | None = None

    def more(self) -> bool:
        """At least double what is ahead; False at the end. Raises `DamagedStreamError` once all before it was given."""
        wanted = max(_PIECE_BYTES, len(self.text) - self.at)
        pieces = [self.text[self.at :]]
        while wanted > 0 and not self._ended and self._damage is None:
            data = self._read(wanted)
            wanted -= len(data)
            self._ended = not data and self._damage is None
            pieces.append(self._decode(data, final=self._ended))
        self.text, self.at, grown = "".join(pieces), 0, any(pieces[1:])
        if not grown and self._damage is not None:
            raise self._damage
        return grown

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read1(size)
        except DamagedStreamError as error:
            self._damage = error
            return b""

    def next_character(self) -> str:
        """The next character that is no space, which stays ahead; nothing at the end."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> tuple[Any, str | None, bool]:
        """The value ahead, what is wrong with it, and whether it was passed over."""
        while True:
            try:
                found, end = self._raw_decode(self.text, self.at)
                break
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - _NEAR_THE_END
                if cut and len(self.text) - self.at > MAX_ROW_BYTES:
                    return None, None, False
                if cut and self.more():
                    continue
                return None, f"is not JSON ({error.msg} at character {error.pos - self.at + 1} of the row)", False
            except RecursionError:
                return None, "is nested too deep to be read", False
            except ValueError as error:
                return None, f"is not JSON ({error})", False
        written = self.text[self.at : end]
        self.at = end
        if len(written) > MAX_ROW_BYTES:
            return None, too_large(len(written)), True
        if not written.isascii() and _HALF_CHARACTER.search(written):
            return None, "is not UTF-8 text", True
        return found, half_character(written, found), True

    def pass_over(self) -> int:
        """Pass over the value ahead by its brackets; how many characters that were, 0 where it does not end."""
        passed, depth, inside = 0, 0, False
        while True:
            mark = (_INSIDE_TEXT if inside else _OUTSIDE_TEXT).search(self.text, self.at)
            end = mark.end() if mark else len(self.text)
            passed, self.at = passed + end - self.at, end
            cut = mark is None or (mark.group() == "\\" and end == len(self.text))
            if cut and not self.more():
                return 0
            if mark is None:
                continue
            if mark.group() == "\\":
                self.at += 1
            elif mark.group() == '"':
                inside = not inside
            else:
                depth += 1 if mark.group() in "[{" else -1
                if depth <= 0:
                    return passed


def escaped_half(written: str) -> str | None:
    """The first escape in a JSON text that looks like half a character."""
    if "\\ud" not in written and "\\uD" not in written:
        return None
    half = _ESCAPED_HALF.search(written)
    return half.group() if half else None


def half_character(written: str, value: Any) -> str | None:
    """Why a value with an escaped half of a character cannot be written as text; None where it can."""
    half = escaped_half(written)
    try:
        # What looks like an escape may be text about one.
        if half and _HALF_CHARACTER.search(json.dumps(value, ensure_ascii=False)):
            return f"holds half a character ({half}), which is no text"
    except RecursionError:
        return "is nested too deep to be read"
    return None


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = {list: "a list", str: "text", bool: "true or false", type(None): "null", dict: "an object"}
    return kinds.get(type(value), "a number")


def array_rows(stream: io.BufferedReader, notes: list[str]) -> Iterator[Row]:
    """The entries of an array. A damaged one is passed over by its brackets; where that fails, the last row says so."""
    window = _Window(stream)
    window.next_character()
    window.at += 1
    for number in count(1):
        if window.next_character() in ("]", ""):
            break
        value, problem, passed = _entry(window)
        if not passed:
            notes.append(f"{ROWS_MISSING}nothing after row {number} is read, since its end cannot be found.")
            problem = f"{problem}; nothing after it is read"
        yield f"row {number}", None if problem else value, problem
        if not passed:
            return
        if window.next_character() != ",":
            number += 1
            break
        window.at += 1
    problem = _ending(window)
    if problem:
        notes.append(f"{ROWS_MISSING}the JSON array {problem}.")
        yield f"row {number}", None, f"cannot be read: the JSON array {problem}"


def _entry(window: _Window) -> tuple[Any, str | None, bool]:
    """The entry ahead, why it is no row, and whether it was passed over."""
    first = window.next_character()
    value, problem, passed = window.value()
    if passed:
        return value, problem or (None if type(value) is dict else f"is not a JSON object but {kind_of(value)}"), True
    size = window.pass_over() if first in "[{" else 0
    return None, problem or too_large(max(size, MAX_ROW_BYTES)), size > 0


def _ending(window: _Window) -> str | None:
    """What is wrong with the end of an array."""
    following = window.next_character()
    if following == "":
        return "is not closed: the file was cut off"
    if following != "]":
        return f"goes on with {following!r} where a comma belongs, and nothing after it is read"
    window.at += 1
    return "is followed by more text, which is not read" if window.next_character() else None
