"""What a long operation reports while it runs: phases for people, metrics for files and curves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class RunEvent:
    """One report. `values` holds metrics, or `done` and `total` of a progress."""

    kind: Literal["phase", "progress", "metrics", "note"]
    message: str
    values: Mapping[str, float] = field(default_factory=dict)


Listener = Callable[[RunEvent], None]


def ignore(event: RunEvent) -> None:
    """A listener for callers who do not watch."""
