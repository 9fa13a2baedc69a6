"""Which known failures a log shows, in order of likelihood. Roots come before what follows from them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .failures import FAILURES, Confidence, Failure, Sign
from .log_text import LogText

_MOST_PLACES = 40
_BEFORE, _AFTER = 200, 400
_NEAR_BEFORE, _NEAR_AFTER = 8000, 500
_SCORES: dict[Confidence, int] = {"certain": 100, "likely": 60, "possible": 20}
_RAISED, _IN_LAST_CHAIN, _SPECIFIC, _FOLLOWS, _SOURCE_LINE = 20, 10, 5, -50, -25
_EXCEPTION = re.compile(r"\b\w*(?:error|exception|interrupt|warning)\b ?: |\b(?:error|fatal|runtimeerror|assertion)\b")
_SOURCE = re.compile(r"^(?:\d+ |> \d+ |-+> ?\d+ |raise |file \"|warnings\.warn|logger\.)")


@dataclass(frozen=True)
class Hit:
    """A failure that was recognised: where in the flat text, how sure, and its score among the others."""

    failure: Failure
    offset: int
    confidence: Confidence
    score: int


def recognise(log: LogText) -> list[Hit]:
    """One hit for each failure found, the likeliest first; of equals the one that stands first in the log."""
    best: dict[str, Hit] = {}
    for failure in FAILURES.values():
        if failure.in_words and log.has_traceback:
            continue
        hits = [_hit(log, failure, sign, offset) for sign in failure.signs for offset in _places(log.flat, sign)]
        hits = [hit for hit in hits if _counts(log, hit)]
        if hits:
            best[failure.id] = min(hits, key=_order)
    return sorted(best.values(), key=_order)


def _counts(log: LogText, hit: Hit) -> bool:
    """A vague sign that the run survived is one of the warnings that every run gives."""
    if hit.confidence == "possible" and hit.offset < log.last_survived:
        return False
    return hit.confidence == "certain" or log.is_of_this_field


def ranked(hits: list[Hit]) -> list[Hit]:
    """Hits of several sources in one order, the best of each failure."""
    seen: dict[str, Hit] = {}
    for hit in sorted(hits, key=_order):
        seen.setdefault(hit.failure.id, hit)
    return list(seen.values())


def measured(failure_id: str, offset: int, confidence: Confidence) -> Hit:
    """A hit that metrics gave."""
    return Hit(FAILURES[failure_id], offset, confidence, _SCORES[confidence])


def _order(hit: Hit) -> tuple[int, int]:
    return -hit.score, hit.offset


def _places(flat: str, sign: Sign) -> Iterator[int]:
    """Offsets of a sign: the first ones and the last ones."""
    found = _found(flat, sign.phrase)
    for at in found:
        start = at
        if sign.pattern is not None:
            match = _around(sign.pattern, flat, at, at + len(sign.phrase))
            if match is None:
                continue
            start = match.start()
        if not sign.near or _is_near(flat, at, sign.near):
            yield start


def _around(pattern: re.Pattern[str], flat: str, start: int, end: int) -> re.Match[str] | None:
    """The match that covers a part of `start` to `end`; those that end before it are passed over."""
    match = pattern.search(flat, max(0, start - _BEFORE), end + _AFTER)
    while match is not None and match.end() <= start:
        match = pattern.search(flat, match.end(), end + _AFTER)
    return None if match is None or match.start() > end else match


def _found(flat: str, phrase: str) -> list[int]:
    found: list[int] = []
    at = flat.find(phrase)
    while at >= 0 and len(found) < _MOST_PLACES:
        found.append(at)
        at = flat.find(phrase, at + len(phrase))
    at = flat.rfind(phrase) if at >= 0 else -1
    while at > found[-1] and len(found) < 2 * _MOST_PLACES if found else False:
        found.append(at)
        at = flat.rfind(phrase, 0, at)
    return found


def _is_near(flat: str, offset: int, near: tuple[str, ...]) -> bool:
    """Whether one of the phrases stands in the same traceback."""
    start = max(0, offset - _NEAR_BEFORE, flat.rfind("traceback (most recent", 0, offset))
    return any(flat.find(phrase, start, offset + _NEAR_AFTER) >= 0 for phrase in near)


def _hit(log: LogText, failure: Failure, sign: Sign, offset: int) -> Hit:
    start, end = log.span_at(offset)
    line = log.flat[start:end]
    score = _SCORES[sign.confidence]
    score += _RAISED if _EXCEPTION.search(line) else 0
    score += _SOURCE_LINE if _SOURCE.match(line) else 0
    score += _IN_LAST_CHAIN if offset >= log.last_chain > 0 else 0
    score += _SPECIFIC if sign.near else 0
    score += _FOLLOWS if failure.follows else 0
    return Hit(failure, offset, sign.confidence, score)
