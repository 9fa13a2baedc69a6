"""The kinds of jobs that are no training, and what each is called. Light: lists and schemas need no more than these."""

from collections.abc import Mapping
from typing import Literal

from .layout import TRAINING

WorkKind = Literal["evaluate", "merge", "export"]
_NOUNS: Mapping[str, str] = {
    TRAINING: "training",
    "evaluate": "evaluation",
    "merge": "merge",
    "export": "export",
}


def noun_of(kind: str) -> str:
    """What a job of that kind is called in sentences."""
    return _NOUNS.get(kind, "job")


def command_of(kind: str) -> str:
    """The command that starts a job of that kind."""
    return f"qlora {kind}" if kind in _NOUNS else "qlora"
