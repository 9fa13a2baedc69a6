"""The agent: makes the calls of its goal, mends those that fail, follows answers to the end, and counts what went wrong."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .goal import Follow, Goal, Keep, Step, Taken
from .hands import Hands
from .mending import Mender, wanted
from .session import Call, Reply, Session
from .words import found_at, key_of, problems_of

# A job of half an hour is waited for in calls of 30 s.
_MOST_CALLS, _MOST_TROUBLES = 80, 8
# What takes longer than a client waits says so.
_AGAIN = "Make the same call again"


@dataclass
class Trouble:
    """An error, or an answer that is not what was wanted; `again` counts how often it came back after a mending."""

    kind: str
    text: str
    problems: frozenset[str]
    again: int = 0
    mended: bool = True


@dataclass
class Outcome:
    """How the work ended: `done`, or not, with the last words of the server that the agent would tell the person."""

    done: bool
    said: str
    answers: list[Reply]
    troubles: list[Trouble] = field(default_factory=list)


class Agent:
    """A policy that is the same for all tasks. It knows its goal, the list of tools, and what it is answered."""

    def __init__(self, session: Session, hands: Hands) -> None:
        self._session = session
        self._hands = hands
        self._done: list[tuple[Call, Reply]] = []
        self._troubles: list[Trouble] = []

    def pursue(self, goal: Goal) -> Outcome:
        """Work towards the goal until it is reached, or until an answer does not tell how to go on."""
        mender = Mender(goal, self._hands, self._session.tools, self._session.call)
        reached = True
        for step in goal.steps:
            reached = reached and self._do(step, mender)
        answers = [reply for _, reply in self._done]
        return Outcome(reached, answers[-1].text if answers else "", answers, self._troubles)

    def _do(self, step: Step | Follow | Keep, mender: Mender) -> bool:
        if isinstance(step, Keep):
            self._hands.write(step.file, json.dumps(self._taken(step.taken), indent=1))
            return True
        call = self._first_call(step, mender)
        begun = len(self._troubles)
        if call is None:
            self._note("setback", self._done[-1][1], begun)
            self._give_up(*self._done[-1], begun)
            return False
        for _ in range(_MOST_CALLS):
            if call is None or len(self._troubles) - begun > _MOST_TROUBLES:
                break
            made, reply = call, self._session.call(call)
            if not reply.is_error and _AGAIN in reply.text:
                self._session.counted.waits += 1
                continue
            if not reply.is_error and wanted(reply.structured, step.until):
                self._done.append((made, reply))
                return True
            call = self._led_on(made, reply, step, mender, begun)
        self._give_up(made, reply, begun)
        return False

    def _first_call(self, step: Step | Follow, mender: Mender) -> Call | None:
        if isinstance(step, Follow):
            return mender.next_call(*self._done[-1])
        arguments = {name: self._resolved(value) for name, value in step.arguments.items()}
        properties = self._session.tools.get(step.tool, {}).get("inputSchema", {}).get("properties", {})
        if "idempotency_key" in properties:
            # The same for the same work, as its description asks.
            text = json.dumps(arguments, sort_keys=True, default=str)
            arguments["idempotency_key"] = hashlib.sha256(text.encode()).hexdigest()[:12]
        return Call(step.tool, arguments)

    def _led_on(self, call: Call, reply: Reply, step: Step | Follow, mender: Mender, begun: int) -> Call | None:
        if reply.is_error:
            self._note("lost" if reply.lost else "error", reply, begun)
            if reply.lost:
                self._session.open_again()
            return mender.after_error(call, reply)
        following = mender.after_answer(call, reply)
        if _says_no(reply, step.until) and (following is None or following.tool != "get_job"):
            self._note("setback", reply, begun)
        return following

    def _note(self, kind: str, reply: Reply, begun: int) -> None:
        told = problems_of(reply.text) if reply.is_error else [reply.text.partition("\n")[0]]
        problems = frozenset(key_of(problem) for problem in told)
        for earlier in self._troubles[begun:]:
            earlier.again += bool(earlier.problems & problems)
        self._troubles.append(Trouble(kind, reply.text, problems))

    def _give_up(self, call: Call, reply: Reply, begun: int) -> None:
        self._done.append((call, reply))
        here = self._troubles[begun:]
        for trouble in here:
            trouble.mended = not trouble.problems & here[-1].problems

    def _taken(self, taken: Taken) -> Any:
        call, reply = self._done[taken.step]
        return found_at(call.arguments if taken.of_call else reply.structured, taken.place)

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, Taken):
            return self._taken(value)
        if isinstance(value, Mapping):
            return {name: self._resolved(part) for name, part in value.items()}
        return value


def _says_no(reply: Reply, until: Mapping[str, Any]) -> bool:
    """Whether an answer denies what is wanted, and does not only lack it yet."""
    denied = [place for place, values in until.items() if found_at(reply.structured, place) not in (None, *values)]
    return bool(denied) and reply.structured.get("finished") is not False
