"""Personal data in a text: by form, and where a form has a check sum or a plan of numbers, by that."""

import ipaddress
import re
from collections.abc import Iterator, Sequence

from .spans import CARD, EMAIL, IBAN, IP, SSN, Span

_FEWEST_DIGITS = 9
_CONTEXT = 60  # characters beside a number in which a word must stand that says what it is

# --- e-mail

_EMAIL = re.compile(
    r"(?<![\w.%+@/-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@((?:[A-Za-z0-9-]{1,63}\.){1,5}([A-Za-z]{2,24}))"
    r"(?![A-Za-z0-9@_(-])"
)
# Endings in use beside those of two letters; others are attributes of code (`X@self.weight`) or files (`logo@2x.png`).
_ENDINGS = """
    com org net edu gov mil int info biz name pro aero coop museum jobs mobi travel tel asia cat post app dev cloud online
    site store shop tech blog agency company email live life world today news media studio design digital solutions services
    systems network group global health care law legal finance bank money team work works academy school university community
    foundation ngo space website page wiki xyz club fun games art music photo video africa berlin london paris tokyo nyc gal
    scot wien hamburg koeln
"""
_KNOWN_ENDINGS = frozenset(_ENDINGS.split())
_FILE_ENDINGS = ("js", "ts", "go", "cs", "rb", "mm", "gz", "db", "py", "md")
_NOBODYS_DOMAIN = re.compile(
    r"(?:.*\.)?(?:example\.\w+|[\w.-]+\.(?:example|test|invalid|localhost|local)|"
    r"(?:your|my|some|the|any)[\w-]*\.\w+|(?:domain|email|company|sample|test|website|mail|host|server|foo|bar|abc|xyz|acme)"
    r"\.(?:com|org|net|co))",
    re.IGNORECASE,
)
_NOBODYS_NAME = re.compile(
    r"(?:git|no-?reply|do-?not-?reply|your[\w.-]*|user(?:name)?|example|test|foo|bar|someone|somebody|name|email|me|x+|"
    r"first(?:name)?[._]?last(?:name)?|\d+[.][\d.]+)",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"://[^\s/@]*\Z")


def find_emails(text: str) -> Iterator[Span]:
    """E-mail addresses that may be somebody's; those of documentation are left out."""
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        domain, ending = match[1], match[2].lower()
        known = ending in _KNOWN_ENDINGS or (len(ending) == 2 and ending not in _FILE_ENDINGS)
        invented = _NOBODYS_DOMAIN.fullmatch(domain) or _NOBODYS_NAME.fullmatch(match[0].partition("@")[0])
        if known and not invented and not _IN_ADDRESS.search(text[max(0, match.start() - _CONTEXT) : match.start()]):
            yield Span(EMAIL, *match.span())


# --- payment cards

_CARD = re.compile(
    r"(?<![\w./+-])(?<!\d,)(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([ -])\d{6}\2\d{5}|3\d{3}([ -])\d{6}\3\d{4})"
    r"(?!\w|[.:-]\d|[ -]\d{3})"
)
_CARD_FORMS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|"
    r"3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}|(?:5018|5020|5038|6304)\d{8,15}"
)
_CARD_WORDS = re.compile(
    r"\b(?:cards?|credit|debit|visa|mastercard|amex|american express|discover|payment|pan|cc|cvv|cvc|kreditkarte|carte|"
    r"tarjeta|cart[aã]o)\b",
    re.IGNORECASE,
)


def find_cards(text: str) -> Iterator[Span]:
    """Payment card numbers: a known issuer's form and a right check digit; unspaced ones only beside a word such as card."""
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if not _CARD_FORMS.fullmatch(digits) or not _luhn(digits):
            continue
        if len(digits) != len(match[0]) or _said_near(_CARD_WORDS, text, match):
            yield Span(CARD, *match.span())


def _luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1


def _said_near(words: re.Pattern[str], text: str, match: re.Match[str]) -> bool:
    return bool(words.search(text[max(0, match.start() - _CONTEXT) : match.end() + _CONTEXT]))


# --- bank accounts

_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?![A-Za-z0-9])"
)
# Length of an IBAN by country (ISO 13616 registry).
_IBAN_LENGTHS = {
    length: frozenset(countries.split())
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
}  # fmt: skip


def find_ibans(text: str) -> Iterator[Span]:
    """International bank account numbers with a right check sum."""
    for match in _IBAN.finditer(text):
        value = match[0].replace(" ", "")
        if value[:2] in _IBAN_LENGTHS.get(len(value), ()) and _mod97(value):
            yield Span(IBAN, *match.span())


def _mod97(value: str) -> bool:
    return int("".join(str(int(character, 36)) for character in value[4:] + value[:4])) % 97 == 1


# --- addresses of machines

_DOTTED = re.compile(r"\.\d{1,3}\.\d")
_IPV4 = re.compile(r"(?<![\w.,/-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\w|/\d)")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-fA-F]{3}(?::[0-9a-fA-F]{0,4}){3,7}(?![\w:]|\.\d)")
_VERSION_BEFORE = re.compile(
    r"(?:\bv(?:er(?:sion)?s?)?|\bversions?|\brelease|\bbuild|\bupdate|\brev(?:ision)?|\bsection|\bchapter|\bclause|\bfirmware|"
    r"\bchrome|\bsafari|\bapplewebkit|\boid|\bparagraph|§)[\s:=/.\"'(]*\Z|[/=]{1,2}\Z",
    re.IGNORECASE,
)
# Name servers that everybody writes in examples.
_NAME_SERVERS = """
    8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 208.67.222.222 208.67.220.220 4.2.2.1 4.2.2.2 114.114.114.114
    2001:4860:4860::8888 2001:4860:4860::8844 2606:4700:4700::1111 2606:4700:4700::1001
"""
_EVERYBODYS = frozenset(_NAME_SERVERS.split())
_RISING = "1234567890"  # as in 12.34.56.78
_NETWORK_ENDS = ("0", "255")
_HIGH = 20  # an address of four numbers below it is more likely a number of a section or a version


def find_ip_addresses(text: str) -> Iterator[Span]:
    """Addresses of machines on the public internet; no versions, private, reserved or documentation ranges."""
    if _DOTTED.search(text):
        for match in _IPV4.finditer(text):
            if _is_public(match[0]) and not _VERSION_BEFORE.search(text[max(0, match.start() - 20) : match.start()]):
                yield Span(IP, *match.span())
    if text.count(":") >= 3:
        yield from (Span(IP, *match.span()) for match in _IPV6.finditer(text) if _is_public(match[0]))


def _is_public(value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    if not address.is_global or address.is_multicast or value.lower() in _EVERYBODYS:
        return False
    return ":" in value or not _is_a_number(value.split("."))


def _is_a_number(parts: Sequence[str]) -> bool:
    """Of a section or a version, of a whole network, or made up."""
    small = all(int(part) < _HIGH for part in parts)
    return small or parts[3] in _NETWORK_ENDS or "".join(parts) in _RISING or len(set(parts)) == 1


# --- social security numbers of the USA

_SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}([ -])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-]|\.\d)")
_SSN_WORDS = re.compile(r"\bssn\b|social[ -]security|\bsocial\b[^.\n]{0,20}\bnumber", re.IGNORECASE)


def find_ssns(text: str) -> Iterator[Span]:
    """Social security numbers, only beside words that say so."""
    for match in _SSN.finditer(text):
        if _said_near(_SSN_WORDS, text, match):
            yield Span(SSN, *match.span())


def find_personal_data(text: str) -> Iterator[Span]:
    """Everything personal but telephone numbers, which need a library."""
    yield from find_emails(text)
    digits = has_digits(text, _FEWEST_DIGITS)
    if digits:
        yield from find_cards(text)
        yield from find_ibans(text)
        yield from find_ssns(text)
    yield from find_ip_addresses(text)


_NUMBER_LIKE = re.compile(r"\d(?:[ .()/A-Z-]{0,3}\d){6}")


def has_digits(text: str, fewest: int) -> bool:
    """Whether a number of several digits may stand in the text at all, found cheaply."""
    return sum(map(text.count, "0123456789")) >= fewest and bool(_NUMBER_LIKE.search(text))
