"""Where in a text something private stands, and how it is shown or replaced."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

EMAIL, PHONE, CARD, IBAN, IP, SSN, SECRET = "EMAIL", "PHONE", "CARD", "IBAN", "IP", "SSN", "SECRET"
_DIGITS_SHOWN = {PHONE: 2, CARD: 4, IBAN: 2, SSN: 2}


class Span(NamedTuple):
    """A part of a text: what it holds, and from where to where. `name` is the kind of secret."""

    kind: str
    start: int
    end: int
    name: str = ""


SpanFinder = Callable[[str], Iterable[Span]]


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """The spans in order; of those that overlap, the longest."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, span.start - span.end)):
        if kept and span.start < kept[-1].end:
            if span.end - span.start > kept[-1].end - kept[-1].start:
                kept[-1] = span
        else:
            kept.append(span)
    return kept


def replaced(text: str, spans: Iterable[Span], replacement: Callable[[Span], str]) -> str:
    """The text with each span replaced; spans do not overlap."""
    return "".join(_pieces(text, spans, replacement))


def _pieces(text: str, spans: Iterable[Span], replacement: Callable[[Span], str]) -> Iterator[str]:
    place = 0
    for span in spans:
        yield text[place : span.start]
        yield replacement(span)
        place = span.end
    yield text[place:]


def masked(kind: str, value: str) -> str:
    """A value of which only so much is shown that its owner would know it again."""
    if kind == EMAIL:
        local, _, domain = value.rpartition("@")
        return f"{local[:1]}***@{domain[:1]}***.{domain.rpartition('.')[2]}"
    if kind == SECRET:
        return f"{value[:4]}***"
    if kind == IP:
        return f"{value[:2]}***"
    return _digits_masked(value, _DIGITS_SHOWN[kind])


def _digits_masked(value: str, shown: int) -> str:
    last = [place for place, character in enumerate(value) if character.isalnum()][-shown:]
    return "".join(
        "*" if character.isalnum() and place not in last else character for place, character in enumerate(value)
    )
