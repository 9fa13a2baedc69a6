"""What an entry of the table of known failures is made of, and the few words it is written in.

Phrases and patterns are matched against a flat text: lower case, ASCII, every run of whitespace one space. A message that
a terminal wrapped is therefore found like one on a single line.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...config import RunConfig

Confidence = Literal["certain", "likely", "possible"]
Changes = Callable[[RunConfig | None], dict[str, Any]]


@dataclass(frozen=True)
class Sign:
    """A phrase that tells a failure. `pattern` must hold around it, and one of
    `near` must stand within a traceback of it."""

    phrase: str
    confidence: Confidence
    pattern: re.Pattern[str] | None = None
    near: tuple[str, ...] = ()


def certain(*phrases: str, near: tuple[str, ...] = ()) -> tuple[Sign, ...]:
    """Phrases that only this failure writes."""
    return tuple(Sign(phrase, "certain", near=near) for phrase in phrases)


def likely(*phrases: str, near: tuple[str, ...] = ()) -> tuple[Sign, ...]:
    """Phrases that mostly come from this failure."""
    return tuple(Sign(phrase, "likely", near=near) for phrase in phrases)


def possible(*phrases: str) -> tuple[Sign, ...]:
    """Phrases that other failures write as well."""
    return tuple(Sign(phrase, "possible") for phrase in phrases)


def matching(phrase: str, pattern: str, confidence: Confidence = "certain") -> tuple[Sign, ...]:
    """A pattern, tried only where `phrase` stands; it sees 200 characters before the phrase and 400 after it."""
    return (Sign(phrase, confidence, re.compile(pattern)),)


def no_changes(config: RunConfig | None) -> dict[str, Any]:
    """For failures that no field of a config mends."""
    return {}


@dataclass(frozen=True)
class Failure:
    """One known failure. `follows` marks what comes after another failure, and messages that
    say little: others are likelier wherever they are found.
    `in_words` marks what people complain of without an error: it is not looked for in a log with a traceback."""

    id: str
    title: str
    cause: str
    next_step: str
    signs: Sequence[Sign] = ()
    changes: Changes = no_changes
    commands: tuple[str, ...] = ()
    more: str = "troubleshooting"
    follows: bool = False
    in_words: bool = False
