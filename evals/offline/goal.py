"""What an agent is asked to do: a sentence, facts that the person gave, and the calls a model would begin with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Taken:
    """A value of an earlier step: a dotted place in the structured content of its answer, or in its call's arguments."""

    step: int
    place: str
    of_call: bool = False


@dataclass(frozen=True)
class Step:
    """A call, and the values that its answer, or one that it leads to, must have before the next step."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    until: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Follow:
    """The call that the last answer names as the next one."""

    until: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Keep:
    """Write a config that was answered to a file of the workspace."""

    taken: Taken
    file: str


@dataclass(frozen=True)
class Goal:
    """`words` are the person's. `facts` are arguments as the person gave them, which the agent does not change."""

    words: str
    steps: Sequence[Step | Follow | Keep]
    facts: Mapping[str, Any] = field(default_factory=dict)
