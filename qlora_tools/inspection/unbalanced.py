"""Answers that open something and do not close it: fences of code, thoughts, JSON."""

import json
import re
from collections.abc import Sequence

from ..results import Finding
from .findings import Hits, rows_said
from .rows import CheckedRow

_MOSTLY_JSON = 0.8
_LEAST_JSON = 5
_ON_PURPOSE = 0.5  # a template that opens the thoughts itself leaves all answers with their end alone
_SHOWN = 100
_RUN = re.compile("`{3,}")
_FENCE = re.compile(r"^[ \t>]*(?:(?:[-*]|\d+\.)[ \t]+)?(`{3,})([^`\n]*)$", re.MULTILINE)
_INLINE = re.compile(r"```.*?```|`[^`\n]{1,200}`", re.DOTALL)
_STEP = "Look whether these answers were cut; close what is open, or remove the rows."


def check_unbalanced_marks(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Answers with an open fence or thought, or, where most answers are JSON, broken JSON; warnings at any."""
    answered = [row for row in rows if not row.is_plain and row.answer]
    fences, openings, closings = Hits(), Hits(), Hits()
    for row in answered:
        for answer in row.answer_list:
            if "```" in answer and _fence_stays_open(answer):
                fences.add(row.number, answer[-_SHOWN:])
            if (balance := _thoughts(row, answer)) != 0:
                (openings if balance > 0 else closings).add(row.number, answer)
    if closings.share(len(answered)) > _ON_PURPOSE:
        closings = Hits()
    said = (
        (fences, "A fence of code (```) is opened in answers and not closed"),
        (openings, "Answers hold <think> without </think>"),
        (closings, "Answers hold </think> without <think>"),
        (_broken_json(answered), "Answers are no valid JSON, though nearly all others are"),
    )
    return [
        found
        for hits, message in said
        for found in hits.finding(
            "unbalanced_marks", "warning", f"{message}: {rows_said(len(hits.rows))}", len(rows), next_step=_STEP
        )
    ]


def _fence_stays_open(answer: str) -> bool:
    if len(_RUN.findall(answer)) % 2 == 0:
        return False
    open_marks = 0
    for match in _FENCE.finditer(answer):
        if not open_marks:
            open_marks = len(match[1])
        elif len(match[1]) >= open_marks and not match[2].strip():
            open_marks = 0
    return open_marks > 0


def _thoughts(row: CheckedRow, answer: str) -> int:
    """Thoughts opened less those closed, outside code; 0 where the prompt speaks of the marks."""
    if "think>" not in answer or answer.count("<think>") == answer.count("</think>") or "think>" in row.asked:
        return 0
    text = _INLINE.sub(" ", answer)
    return text.count("<think>") - text.count("</think>")


def _broken_json(answered: Sequence[CheckedRow]) -> Hits:
    """Answers that begin as JSON and do not parse, where at least 80 % of all answers do."""
    begun = [row for row in answered if row.answer.lstrip()[:1] in ("{", "[")]
    if len(begun) < max(_LEAST_JSON, _MOSTLY_JSON * len(answered)):
        return Hits()
    broken = [row for row in begun if not _parses(row.answer)]
    if len(begun) - len(broken) < _MOSTLY_JSON * len(answered):
        return Hits()
    return Hits([row.number for row in broken], broken[0].answer[-_SHOWN:] if broken else None)


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
