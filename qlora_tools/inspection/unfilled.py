"""Places of a template that were never filled in, and what was copied along from the page of a chat."""

import re
from collections.abc import Sequence

from ..results import Finding
from .doubled import CODE
from .findings import Hits, rows_said
from .identify import is_code_like
from .rows import CheckedRow

_BESIDE = 60
_UNFILLED = re.compile(
    r"(?<![\\$\w^_{}])\{\{ ?[A-Za-z][A-Za-z_. ]{2,40} ?\}\}(?!\})|"
    r"(?<![\\$\w^_{}/])\{[a-z]{2,20}(?:_[a-z]{2,20}){1,4}\}(?![}/])|"
    r"\[(?:(?:your|the|an?) )?(?:answer|response|text|output|name|question|content) (?:goes )?here\]|"
    r"<insert [^<>\n]{1,60}>",
    re.IGNORECASE,
)
_HINTS = ("{", " here]", " HERE]", " Here]", "<insert ", "<INSERT ", "<Insert ")
_ABOUT = re.compile(
    r"template|placeholder|jinja|handlebars|mustache|\bf-string|\bformat|latex|\bvue\b|angular|\bhtml\b", re.IGNORECASE
)
_FORMATTED = re.compile(r"\bf[\"']|\.format\(|[\"']\{")

_ARTEFACT = re.compile(
    r"^[ \t]*(?:Regenerate response|Copy code)[ \t]*$|\u3010\d{1,3}(?::\d{1,3})?\u2020[^\u3011\n]{0,60}\u3011|"
    r":contentReference\[oaicite:|<image>",
    re.MULTILINE,
)
_ARTEFACT_HINTS = ("Regenerate response", "Copy code", "\u2020", "[oaicite:", "<image>")
_ABOUT_IMAGES = re.compile(r"<image|\b(?:tag|xml|html|svg|rss)\b", re.IGNORECASE)


def check_unfilled(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Prompts and answers with `{{name}}`, `{first_name}` or `[answer here]` outside code; a warning at any."""
    hits = Hits()
    for row in rows:
        if match := _unfilled(row):
            hits.add(row.number, match.string[max(0, match.start() - _BESIDE) : match.end() + _BESIDE])
    message = f"Places of a template were never filled in: {rows_said(len(hits.rows))}"
    step = "Fill them in or remove the rows, unless the model should write templates."
    return hits.finding("placeholders", "warning", message, len(rows), next_step=step)


def _unfilled(row: CheckedRow) -> re.Match[str] | None:
    for text in (row.asked, row.answers):
        if any(hint in text for hint in _HINTS) and _UNFILLED.search(text) and not _about_templates(row):
            prose = CODE.sub(" ", text)
            if (match := _UNFILLED.search(prose)) and not _is_code(prose):
                return match
    return None


def _is_code(prose: str) -> bool:
    # The braces of the places themselves would make a short text look like code.
    return bool(_FORMATTED.search(prose)) or is_code_like(_UNFILLED.sub(" ", prose))


def _about_templates(row: CheckedRow) -> bool:
    return bool(_ABOUT.search(_UNFILLED.sub(" ", row.prompt)))


def check_artefacts(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Answers with what stood around them on a page: buttons, marks of citations, places of pictures."""
    hits = Hits()
    for row in rows:
        if match := _artefact(row):
            hits.add(row.number, match.string[max(0, match.start() - _BESIDE) : match.end() + _BESIDE])
    message = f"Buttons, marks of citations or of pictures stand in answers: {rows_said(len(hits.rows))}"
    step = "Remove them: they were copied along, and the model would learn to write them."
    return hits.finding("artefacts", "warning", message, len(rows), next_step=step)


def _artefact(row: CheckedRow) -> re.Match[str] | None:
    text = row.answers
    if not any(hint in text for hint in _ARTEFACT_HINTS) or not _ARTEFACT.search(text):
        return None
    images = "<image>" in text and _about_images(row)
    for match in _ARTEFACT.finditer(CODE.sub(" ", text)):
        if match[0].strip() in row.prompt or (match[0] == "<image>" and images):
            continue
        return match
    return None


def _about_images(row: CheckedRow) -> bool:
    return "</image>" in row.answers or bool(_ABOUT_IMAGES.search(row.prompt)) or is_code_like(row.answers)
