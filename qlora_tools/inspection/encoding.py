"""Traces of text that was decoded, escaped or copied wrongly on its way into the file."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..results import Finding
from .findings import Hits, Severity, rows_said
from .identify import is_code_like
from .rows import CheckedRow

REQUIRED_LIBRARIES = ("ftfy",)
_TOO_MUCH = 0.05
_BESIDE = 60

_DAMAGE = re.compile("\ufffd")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ENTITY = re.compile(
    r"&(?:amp;)?(?:amp|quot|lt|gt|nbsp|apos|hellip|mdash|ndash|[lr][sd]quo|bull|middot|copy|reg|trade|deg|eacute|egrave|agrave|"
    r"ccedil|[aou]uml|szlig|euro|pound|#\d{2,6}|#x[0-9a-fA-F]{2,6});"
)
_ESCAPE = re.compile(
    r"(?<![\\\w:/.])(?:\\r)?\\n(?![a-z\"'/|)\]])|(?<=[a-z.!?:,;)\"'])(?:\\r)?\\n(?=[A-Z0-9\s\\-])|(?<!\\)\\u(?!00[01])[0-9a-f]{4}"
)
_HIDDEN = re.compile("[\u200b\u2060\ufeff\u200e\u200f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
# Scripts that are written with such marks.
_DIRECTED = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u4e00-\u9fff]")
_FLAG = re.compile("\U0001f3f4[\U000e0000-\U000e007f]+")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{1,200}`", re.DOTALL)
_MARKUP = re.compile(r"</?[a-z][a-z0-9]{0,15}(?:\s[^<>]{0,200})?/?>|\bhref=", re.IGNORECASE)
_ABOUT_MARKUP = re.compile(
    r"\b(?:html|xml|entit(?:y|ies)|escap(?:e|ed|es|ing)|unescape|javascript|xss|rss|svg)\b", re.IGNORECASE
)
_ABOUT_STRINGS = re.compile(
    r"\b(?:new ?lines?|line ?breaks?|line ?feeds?|escap(?:e|ed|es|ing)|regex\w*|regular expressions?|"
    r"carriage returns?|unicode)\b|"
    r"\bprint\w*\(|\\(?:frac|nabla|begin|text|math[a-z]+|left|sum|int|neq)\b|\$\$|^\s*[\[{]",
    re.IGNORECASE | re.MULTILINE,
)
_ADJACENT = re.compile("[^\x00-\x7f]{2}|[\xc2\xc3][ \xa0]")

Detector = Callable[[str], re.Match[str] | None]


class _Kind(NamedTuple):
    check: str
    said: str
    find: Detector
    step: str
    may_be_error: bool = True


def _entity(text: str) -> re.Match[str] | None:
    """An HTML entity in prose; pages and talk of HTML may hold them."""
    if "&" not in text or not _ENTITY.search(text) or _MARKUP.search(text) or _ABOUT_MARKUP.search(text):
        return None
    prose = _CODE.sub(" ", text)
    # Their own marks are no sign of code.
    return None if is_code_like(_ENTITY.sub(" ", prose)) else _ENTITY.search(prose)


def _escape(text: str) -> re.Match[str] | None:
    r"""A backslash and an n where a line should end; code and talk of it may hold them."""
    if "\\" not in text or not _ESCAPE.search(text) or _ABOUT_STRINGS.search(text):
        return None
    prose = _CODE.sub(" ", text)
    if _MARKUP.search(prose) or _reads_as_code(prose):
        return None
    return next((match for match in _ESCAPE.finditer(prose) if not _is_quoted(match)), None)


def _is_quoted(match: re.Match[str]) -> bool:
    line = match.string[match.string.rfind("\n", 0, match.start()) + 1 : match.start()]
    return line.count('"') % 2 == 1


def _reads_as_code(text: str) -> bool:
    return is_code_like(text.replace("\\n", " ").replace("\\r", " "))


def _hidden(text: str) -> re.Match[str] | None:
    """Characters without a width that the script of the text has no use for."""
    found = None if text.isascii() else _HIDDEN.search(text)
    if found is None or _DIRECTED.search(text) or (found[0] in "\u200b\u2060" and _UNSPACED.search(text)):
        return None
    return _HIDDEN.search(_FLAG.sub(" ", text))


def _not_ascii(pattern: re.Pattern[str]) -> Detector:
    return lambda text: None if text.isascii() else pattern.search(text)


_KINDS = (
    _Kind(
        "replacement_characters",
        "Characters were lost in decoding (U+FFFD)",
        _not_ascii(_DAMAGE),
        "Read the original again in its true encoding; what was lost is not in this file.",
    ),
    _Kind(
        "control_characters",
        "Control characters stand in the text",
        _CONTROL.search,
        "Remove them; those from U+0080 on come from text read as Latin-1 that was Windows-1252.",
    ),
    _Kind(
        "lone_surrogates",
        "Halves of characters stand alone (surrogates), which no tokenizer can read",
        _not_ascii(_SURROGATE),
        "Write the file again with whole characters; they come from text cut between two \\u escapes.",
    ),
    _Kind(
        "html_entities",
        "HTML entities such as &amp; stand in prose",
        _entity,
        "Unescape the text (Python: html.unescape), twice where it was escaped twice.",
    ),
    _Kind(
        "escaped_newlines",
        "Backslash and n stand where a line should end",
        _escape,
        "Replace them by true line ends: the text was escaped twice.",
    ),
    _Kind(
        "hidden_characters",
        "Characters that cannot be seen stand in the text (zero-width, direction, tags)",
        _hidden,
        "Remove them: they change tokens, and may hide text from the eye.",
        may_be_error=False,
    ),
)


def check_encoding(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Lost, control and hidden characters, and what was escaped twice: a warning at any, an error over 5 % of the rows."""
    hits = [Hits() for _ in _KINDS]
    for row in rows:
        for place, kind in enumerate(_KINDS):
            if match := kind.find(row.every_text):
                hits[place].add(row.number, _around(match))
    return [found for kind, hit in zip(_KINDS, hits, strict=True) for found in _finding(kind, hit, len(rows))]


def check_mojibake(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Text in UTF-8 that was read in another encoding (`cafÃ©`): as `check_encoding`. Needs ftfy."""
    hits = Hits()
    for row in rows:
        if line := _mojibake_line(row.every_text):
            hits.add(row.number, line)
    step = "Mend it with ftfy.fix_text, or read the original again as UTF-8."
    return _finding(
        _Kind("mojibake", "Text in UTF-8 was read in another encoding", _not_ascii(_ADJACENT), step), hits, len(rows)
    )


def _mojibake_line(text: str) -> str | None:
    if text.isascii() or not _ADJACENT.search(text):
        return None
    import ftfy
    import ftfy.badness

    for line in text.split("\n"):
        if (
            not line.isascii()
            and _ADJACENT.search(line)
            and ftfy.badness.is_bad(line)
            and ftfy.fix_encoding(line) != line
        ):
            return line
    return None


def _around(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - _BESIDE) : match.end() + _BESIDE]


def _finding(kind: _Kind, hits: Hits, looked_at: int) -> list[Finding]:
    severity: Severity = "error" if kind.may_be_error and hits.share(looked_at) > _TOO_MUCH else "warning"
    message = f"{kind.said}: {rows_said(len(hits.rows))}"
    return hits.finding(kind.check, severity, message, looked_at, next_step=kind.step)
