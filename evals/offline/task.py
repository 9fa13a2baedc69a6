"""A task: a goal with faults in the way, how the agent is connected, and a script that verifies the end state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .agent import Outcome
from .goal import Goal
from .session import Call
from .stage import Stage

Verify = Callable[[Stage, Outcome], None]
Mishap = Callable[[Stage, Call], bool]


@dataclass(frozen=True)
class Task:
    """`prepare` makes what lies in the workspace and returns the goal; `verify` raises `AssertionError`.

    `mishap` is asked after each call is sent and may take the answer away. `ends` is how the work should end: `cannot` where
    the right thing is to tell the person why not.
    """

    name: str
    faults: Sequence[str]
    prepare: Callable[[Stage], Goal]
    verify: Verify
    connection: Literal["memory", "stdio"] = "memory"
    read_only: bool = False
    mishap: Callable[[], Mishap] | None = None
    simulated: bool = True
    slow: bool = False
    ends: Literal["done", "cannot"] = "done"
