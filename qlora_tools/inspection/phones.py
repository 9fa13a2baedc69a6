"""Telephone numbers in a text, by the numbering plans of all countries."""

import re
from collections.abc import Iterator
from typing import Any

from .personal import has_digits
from .spans import PHONE, Span

REQUIRED_LIBRARIES = ("phonenumbers",)
_FEWEST_DIGITS = 7

_INTERNATIONAL = re.compile(r"(?<![\w+*/=^.-])(?:\+|00(?=[1-9]))[1-9][\d ().\u00a0-]{6,20}\d(?![\w%]|\.\d)")
_AMERICAN = re.compile(
    r"(?<![\w+*/=$.-])(?<!\d[ ,])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}([.-]))[2-9]\d{2}[.-]\d{4}(?![\w-]|\.\d|\s*[=*/])"
)
_NATIONAL = re.compile(r"(?<![\w+*/=$.-])(?<!\d,)\(?0[1-9]\d{0,4}\)?[ /.-]{1,2}\d[\d .-]{4,13}\d(?![\w-]|\.\d)")
_CALL_WORDS = re.compile(
    r"\b(?:phones?|tele(?:ph|f)\w*|tel|call(?:ing)?|ring|mobile|mobil|cell|handy|fax|whatsapp|hotline|sms|text me|appel\w*|"
    r"t[ée]l[ée]phone|portable|m[óo]vil|celular|cellulare|anruf\w*|rufnummer|numero|номер|тел\w*|电话|手机|電話|전화)\b",
    re.IGNORECASE,
)
# What else is written as groups of digits.
_OTHER_WORDS = re.compile(
    r"\b(?:order|invoice|ref(?:erence)?|isbn|issn|sku|serial|ticket|case|part|model|tracking|patent|doi|id)\b[\s#:.no-]*\Z",
    re.IGNORECASE,
)
_BEFORE, _AFTER = 40, 20
# Countries whose national numbers are recognised where a word says that it is a telephone number.
_REGIONS = ("GB", "DE", "FR", "IT", "ES", "NL", "BE", "AT", "CH", "AU", "IN", "JP", "CN", "BR", "ZA", "SE", "PL")
# Ranges kept for films and books, by country code and national digits.
_FICTION = re.compile(
    r"1\d{3}55501\d\d|44(?:1632960|7700900|20794[6]0|808157|909879|306999)\d+|61(?:[2378]5550|[2378]7010|491570)\d+"
)


def find_phones(text: str) -> Iterator[Span]:
    """Telephone numbers that can be called. Needs phonenumbers.

    National forms only where they are grouped as Americans group them, or where a word nearby speaks of a telephone.
    """
    if not has_digits(text, _FEWEST_DIGITS):
        return
    if "+" in text or "00" in text:
        yield from _found(text, _INTERNATIONAL, (None,))
    yield from _found(text, _AMERICAN, ("US",))
    if _NATIONAL.search(text) and _CALL_WORDS.search(text):
        yield from _found(text, _NATIONAL, _REGIONS)


def _found(text: str, pattern: re.Pattern[str], regions: tuple[str | None, ...]) -> Iterator[Span]:
    for match in pattern.finditer(text):
        before = text[max(0, match.start() - _BEFORE) : match.start()]
        near = before + " " + text[match.end() : match.end() + _AFTER]
        said = pattern is _AMERICAN or match[0].startswith("+") or _CALL_WORDS.search(near)
        if said and not _OTHER_WORDS.search(before) and _can_be_called(match[0], regions):
            yield Span(PHONE, *match.span())


def _can_be_called(value: str, regions: tuple[str | None, ...]) -> bool:
    import phonenumbers

    written = "+" + value[2:] if regions == (None,) and value.startswith("00") else value
    for region in regions:
        try:
            number: Any = phonenumbers.parse(written, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            return not _is_invented(f"{number.country_code}{number.national_number}")
    return False


def _is_invented(digits: str) -> bool:
    rising = "01234567890123456789"
    return bool(_FICTION.fullmatch(digits)) or digits[-8:] in rising or len(set(digits[-8:])) <= 2
