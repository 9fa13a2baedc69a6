"""What a long operation reports while it runs, and how it is asked to end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

EventKind = Literal["phase", "progress", "metrics", "note", "warning", "checkpoint", "sample"]


@dataclass(frozen=True)
class RunEvent:
    """One report. `values` holds metrics, or `done` and `total` of a progress, or the `step` of the others.

    The message of a `checkpoint` is its directory, that of a `warning` says what was noticed and what to do, that of a
    `sample` is an answer of the model in training.
    """

    kind: EventKind
    message: str
    values: Mapping[str, float] = field(default_factory=dict)


Listener = Callable[[RunEvent], None]
# Asked between micro-batches; True ends the run with a checkpoint.
StopAsked = Callable[[], bool]


def ignore(event: RunEvent) -> None:
    """A listener for callers who do not watch."""


def never() -> bool:
    """For callers who do not stop."""
    return False
