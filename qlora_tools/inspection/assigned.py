"""Secrets that are known by the name beside them: settings in the style of the environment, AWS, and HTTP headers."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from .spans import SECRET, Span

_BETWEEN = r"""["']?[ \t]{0,3}[=:][ \t]{0,3}["']?"""
_NOT_RANDOM = re.compile(
    r"example|placeholder|dummy|fake|sample|redacted|x{4}|\*{3}|\.{3}|your|change.?me|(.)\1{7}|secret|passw|token|key|"
    r"test|insert|here|todo|abc123|123456|environ|config|settings",
    re.IGNORECASE,
)
_LEAST_VARIED = 8  # different characters
_LEAST_CHANGES = 4  # between lower case, upper case and digits: words with a number behind have fewer


class _Named(NamedTuple):
    name: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    is_real: Callable[[str], bool]


def looks_random(value: str) -> bool:
    """Whether letters and digits are mixed as in a generated value; words, names and placeholders are not."""
    if len(set(value)) < _LEAST_VARIED or not any(map(str.isdigit, value)) or _NOT_RANDOM.search(value):
        return False
    kinds = [(mark.isdigit(), mark.isupper()) for mark in value if mark.isalnum()]
    return sum(before != after for before, after in pairwise(kinds)) >= _LEAST_CHANGES


def _mixed(value: str) -> bool:
    """As the 40 characters of AWS, which may hold any word by chance: both cases, and no example."""
    cased = any(map(str.isupper, value)) and any(map(str.islower, value))
    return cased and len(set(value)) > 2 * _LEAST_VARIED and not _EXAMPLE.search(value)


_EXAMPLE = re.compile(r"example|placeholder|your|x{4}|(.)\1{7}", re.IGNORECASE)

_NAMED = (
    _Named(
        "AWS key",
        ("secret", "SECRET"),
        re.compile(
            rf"(?i:(?:aws_?)?secret_?(?:access_?)?key){_BETWEEN}(?P<value>[A-Za-z0-9/+]{{40}})(?![A-Za-z0-9/+=])"
        ),
        _mixed,
    ),
    _Named(
        "value of a secret setting",
        ("KEY", "SECRET", "TOKEN", "PASSWORD"),
        re.compile(
            rf"(?<![A-Za-z0-9_])[A-Z0-9_]{{0,60}}?(?:API_?KEY|ACCESS_KEY|SECRET|SECRET_KEY|TOKEN|PASSWORD){_BETWEEN}"
            r"(?P<value>[A-Za-z0-9+/=_.~!@#%^&*-]{16,200})(?![\w(\[{<>$])"
        ),
        looks_random,
    ),
    _Named(
        "bearer token",
        ("Bearer ", "bearer "),
        re.compile(rf"[Aa]uthorization{_BETWEEN}[Bb]earer {{1,3}}(?P<value>[A-Za-z0-9._~+/=-]{{20,2000}})"),
        looks_random,
    ),
)


def find_assigned(text: str) -> Iterator[Span]:
    """Long random values beside a name that calls them secret."""
    for named in _NAMED:
        if not any(hint in text for hint in named.hints):
            continue
        for match in named.pattern.finditer(text):
            value = match["value"].rstrip(".")
            if named.is_real(value):
                start = match.start("value")
                yield Span(SECRET, start, start + len(value), named.name)
