"""What answers say: refusals, disclaimers of an assistant, and the same opening again and again."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from ..results import Finding
from .findings import Hits, Severity, rows_said
from .identify import is_code_like
from .refusal_words import DISCLAIMER_HINTS, DISCLAIMERS, REFUSALS
from .rows import CheckedRow, folded

_OPENING_CHARACTERS = 160
_OPENING_WORDS = 5
_BOILERPLATE_SHARE, _ON_PURPOSE_SHARE = 0.2, 0.95
_LEAST_ROWS = 20
_BESIDE = 20

_DISCLAIMER = re.compile("|".join(pattern for patterns in DISCLAIMERS.values() for pattern in patterns))
_REFUSAL = re.compile(r"\W{0,3}(?:" + "|".join(pattern for patterns in REFUSALS.values() for pattern in patterns) + ")")


def check_refusals(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Answers that refuse, or that speak as an AI model; a warning at any, since refusing is learnt fast."""
    hits = Hits()
    for row in rows:
        if not row.is_plain and (said := _refusal(row)):
            hits.add(row.number, said)
    message = f"Answers refuse, or disclaim as an AI model: {rows_said(len(hits.rows))}"
    step = "Remove them, unless the model should refuse such requests: a few teach it to refuse others too."
    return hits.finding("refusals", "warning", message, len(rows), next_step=step)


def _refusal(row: CheckedRow) -> str | None:
    for answer in row.answer_list:
        text = answer.replace("’", "'").lower()
        opening = " ".join(text[: 2 * _OPENING_CHARACTERS].split())
        if _REFUSAL.match(opening):
            return answer
        if any(hint in text for hint in DISCLAIMER_HINTS) and (match := _DISCLAIMER.search(text)):
            return answer[max(0, match.start() - _BESIDE) :]
    return None


def check_boilerplate(rows: Sequence[CheckedRow]) -> list[Finding]:
    """The same five words at the beginning of more than a fifth of the answers, though the answers differ."""
    numbers, different, looked_at = defaultdict[str, list[int]](list), defaultdict[str, set[int]](set), 0
    for row in rows:
        if opening := _opening(row):
            looked_at += 1
            numbers[opening].append(row.number)
            different[opening].add(hash(folded(row.answer)))
    if looked_at < _LEAST_ROWS:
        return []
    counts = Counter(
        {opening: len(found) for opening, found in numbers.items() if len(different[opening]) > len(found) / 2}
    )
    return [
        found
        for opening, count in counts.most_common(1)
        if count > _BOILERPLATE_SHARE * looked_at
        for found in _boilerplate(opening, numbers[opening], looked_at)
    ]


def _opening(row: CheckedRow) -> str | None:
    """The first words of an answer in prose that goes on after them."""
    if row.is_plain or row.answer[:1] in "{[<`#" or is_code_like(row.answer[:_OPENING_CHARACTERS]):
        return None
    words = row.answer[:_OPENING_CHARACTERS].casefold().split()
    return " ".join(words[:_OPENING_WORDS]) if len(words) > _OPENING_WORDS else None


def _boilerplate(opening: str, numbers: list[int], looked_at: int) -> list[Finding]:
    hits = Hits(numbers, opening)
    on_purpose = hits.share(looked_at) >= _ON_PURPOSE_SHARE
    severity: Severity = "note" if on_purpose else "warning"
    share = f"{hits.share(looked_at):.0%}"
    message = (
        f"Answers begin with the same {_OPENING_WORDS} words: {rows_said(len(numbers))}, {share} of those in prose"
    )
    step = None if on_purpose else "Take the opening off, or vary it: it will stand before every answer of the model."
    return hits.finding("boilerplate", severity, message, looked_at, next_step=step)
