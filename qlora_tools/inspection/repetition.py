"""Answers that go round in circles: the same words or lines again and again."""

import re
from collections import Counter
from collections.abc import Sequence
from operator import eq

from ..results import Finding
from .doubled import CODE
from .findings import Hits, rows_said
from .identify import is_code_like
from .rows import CheckedRow

_TIMES, _LINES = 20, 10
_LONGEST_PHRASE = 6
_LINE_CHARACTERS = 20  # of a line that repeats among others; shorter ones must follow each other
_READ_CHARACTERS = 200_000
_SHOWN = 100
_LETTERS = re.compile(r"[^\W\d_]{2}")
_UNSPACED = re.compile("([\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]{1,8}?)\\1{19}")
_WANTED = re.compile(r"\brepeat|\btimes\b|over and over|\d+ ?x\b", re.IGNORECASE)


def check_repetition(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Answers with a word or short phrase 20 times in a row, or a line 10 times; a warning at any."""
    hits = Hits()
    for row in rows:
        if (said := _repeated(row)) and not _WANTED.search(row.prompt):
            hits.add(row.number, said)
    message = f"Answers say the same again and again: {rows_said(len(hits.rows))}"
    step = "Remove them: the model would learn to go round in circles."
    return hits.finding("repetition", "warning", message, len(rows), next_step=step)


def _repeated(row: CheckedRow) -> str | None:
    """What is repeated; code, tables and numbers repeat by nature."""
    text = row.answers[:_READ_CHARACTERS]
    if "```" in text:
        text = CODE.sub(" ", text)
    said = _repeated_words(text.split()) or _repeated_line(text)
    if said is None and not text.isascii() and (match := _UNSPACED.search(text)):
        said = match[0]
    return said[:_SHOWN] if said and not is_code_like(text) else None


def _repeated_words(words: Sequence[str]) -> str | None:
    if len(words) - len(set(words)) < _TIMES - 1 or Counter(words).most_common(1)[0][1] < _TIMES:
        return None
    for length in range(1, _LONGEST_PHRASE + 1):
        # One byte a word: whether it is the word of one phrase before.
        same = bytes(map(eq, words[length:], words))
        place = same.find(b"\x01" * ((_TIMES - 1) * length))
        phrase = " ".join(words[place : place + length])
        if place >= 0 and _LETTERS.search(phrase) and not any(map(str.isdigit, phrase)):
            return " ".join(words[place : place + _TIMES * length])
    return None


def _repeated_line(text: str) -> str | None:
    if text.count("\n") < _LINES - 1:
        return None
    lines = [line for raw in text.split("\n") if (line := raw.strip())]
    for line, count in Counter(lines).most_common(3):
        if count >= _LINES and _LETTERS.search(line) and (_is_long(line) or _in_a_row(lines, line)):
            return line
    return None


def _is_long(line: str) -> bool:
    return len(line) >= _LINE_CHARACTERS and line.count(" ") > 1


def _in_a_row(lines: Sequence[str], line: str) -> bool:
    return b"\x01" * _LINES in bytes(line == other for other in lines)
