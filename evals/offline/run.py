"""Running tasks, and what is recorded of each."""

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qlora_tools.errors import QloraError

from .agent import Agent, Outcome
from .goal import Goal
from .hands import Hands
from .session import CHARACTERS_PER_TOKEN, Session, in_memory, over_stdio
from .stage import Stage, surroundings
from .task import Task

Record = dict[str, Any]


def run(task: Task) -> Record:
    """Let the agent do the task, verify the end state, and return what is recorded. Jobs that still run are ended."""
    with tempfile.TemporaryDirectory() as folder, surroundings(simulated=task.simulated):
        stage = Stage(Path(folder).resolve())
        goal = task.prepare(stage)
        began = time.monotonic()
        try:
            session, outcome = _worked(task, stage, goal)
            seconds = time.monotonic() - began
            failure = _failure(task, stage, outcome)
        finally:
            stage.end_jobs()
    return _record(task, session, outcome, failure) | {"seconds": round(seconds, 2)}


def _worked(task: Task, stage: Stage, goal: Goal) -> tuple[Session, Outcome]:
    opened = (
        over_stdio(stage.workspace, stage.pid_file)
        if task.connection == "stdio"
        else in_memory(stage.workspace, read_only=task.read_only)
    )
    mishap = partial(task.mishap(), stage) if task.mishap else None
    with opened as connect, Session(connect, stage.workspace, mishap) as session:
        return session, Agent(session, Hands(stage.workspace)).pursue(goal)


def _failure(task: Task, stage: Stage, outcome: Outcome) -> str | None:
    """Why the task is not done, None where it is."""
    if outcome.done is (task.ends == "cannot"):
        return f"it ended with {outcome.said!r}"
    try:
        task.verify(stage, outcome)
    except (AssertionError, QloraError) as error:
        return f"the end state is wrong: {error}"
    return None


def _record(task: Task, session: Session, outcome: Outcome, failure: str | None) -> Record:
    told = task.ends == "cannot" and not outcome.done
    met = outcome.troubles[:-1] if told else outcome.troubles
    counted = session.counted
    return {
        "task": task.name,
        "faults": list(task.faults),
        "verified": failure is None,
        "failure": failure,
        "calls": counted.calls,
        "waits": counted.waits,
        "characters_sent": counted.sent,
        "characters_received": counted.received,
        "tokens": round((counted.sent + counted.received) / CHARACTERS_PER_TOKEN),
        "errors": len(met),
        "mended_in_one_try": sum(one.mended and one.again == 0 for one in met),
        "mended_in_more": sum(one.mended and one.again > 0 for one in met),
        "not_mended": sum(not one.mended for one in met),
        "told_to_the_person": int(told),
        "tokens_of_tool_list": round(session.list_characters / CHARACTERS_PER_TOKEN),
    }


def summary(records: Sequence[Record]) -> Record:
    """Sums and rates over the tasks that ran."""
    names = (
        "calls",
        "waits",
        "tokens",
        "errors",
        "mended_in_one_try",
        "mended_in_more",
        "not_mended",
        "told_to_the_person",
    )
    sums = {name: sum(record[name] for record in records) for name in names}
    tokens = [record["tokens"] for record in records]
    return {
        "tasks": len(records),
        "verified": sum(record["verified"] for record in records),
        **sums,
        "rate_mended_in_one_try": round(sums["mended_in_one_try"] / max(1, sums["errors"]), 3),
        "most_tokens_of_a_task": max(tokens),
        "tokens_of_tool_list": max(record["tokens_of_tool_list"] for record in records),
    }
