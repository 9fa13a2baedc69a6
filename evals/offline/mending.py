"""From an answer that is not what was wanted to the call that should be, by its words alone."""

import difflib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .draft import Draft
from .edits import Known, edit
from .goal import Goal
from .hands import Hands
from .session import Call, Reply
from .words import calls_in, found_at, hinted_tools, is_left_out, message_of, next_of, options_in, problems_of

_JOB = re.compile(r"\bjob-[a-z0-9]{12}\b")
_LONGEST_WAIT = 30
_MOST_WAITS = 20
Tools = Mapping[str, Mapping[str, Any]]


class Mender:
    """One policy for all tasks. `ask` makes a call on the way, such as a look at the list of jobs."""

    def __init__(self, goal: Goal, hands: Hands, tools: Tools, ask: Callable[[Call], Reply]) -> None:
        self._goal = goal
        self._hands = hands
        self._tools = tools
        self._ask = ask

    def after_error(self, call: Call, reply: Reply) -> Call | None:
        """The call that an error asks for instead; None where its words do not tell."""
        if reply.lost:
            return call if self._may_repeat(call) else None
        return self._edited(call, reply.text) or self._by_hint(call, reply.text) or self.next_call(call, reply)

    def after_answer(self, call: Call, reply: Reply) -> Call | None:
        """The call that leads on from an answer that is not yet what the goal wants."""
        steps = (self._with_proposal, self._with_mended_rows, self._with_other_option, self._resumed, self.next_call)
        return next((found for step in steps if (found := step(call, reply)) is not None), None)

    def next_call(self, call: Call, reply: Reply) -> Call | None:
        """The first call that the answer names, its gaps filled with what is known."""
        for tool, named in calls_in(next_of(reply.text), self._tools):
            arguments = self._known(tool, call) if named is None else self._with_gaps_filled(tool, named, call, reply)
            if arguments is not None:
                return Call(tool, arguments)
        return self._with_settings(reply)

    def _edited(self, call: Call, text: str) -> Call | None:
        """The call with every problem of the error mended; None where one of them does not say how."""
        draft = Draft(call, self._hands)
        known = Known(self._goal.words, self._goal.facts, self._properties(call.tool), self._hands)
        problems = problems_of(text)
        mended = [edit(draft, problem, known) for problem in problems]
        # What to do may stand in the next step alone, for all of them.
        if not all(mended) and not (len(problems) == 1 and edit(draft, f"{message_of(text)} {next_of(text)}", known)):
            return None
        return draft.call()

    def _by_hint(self, call: Call, text: str) -> Call | None:
        """What `(as tools: ...)` names, done first."""
        hinted = [tool for tool in hinted_tools(next_of(text)) if tool in self._tools]
        job = _JOB.search(message_of(text))
        if "list_jobs" in hinted:
            return self._with_job_of_list(call)
        if "get_job" in hinted and job is not None:
            return call if self._waited(job[0]) else None
        if "start_training" in hinted and "config" in self._goal.facts:
            return Call("start_training", {"config": self._goal.facts["config"]})
        return None

    def _with_job_of_list(self, call: Call) -> Call | None:
        """The job of the list whose id or name is nearest to the one that was asked for."""
        jobs = self._ask(Call("list_jobs")).structured.get("jobs", [])
        names = {job[key]: job["id"] for key in ("id", "name") for job in reversed(jobs)}
        near = difflib.get_close_matches(str(call.arguments.get("job_id")), names, n=1)
        return call.with_arguments(job_id=names[near[0]]) if near else None

    def _waited(self, job_id: str) -> bool:
        """Wait for the end of a job; returns whether it came."""
        wait = Call("get_job", {"job_id": job_id, "wait_seconds": _LONGEST_WAIT})
        return any(self._ask(wait).structured.get("finished") for _ in range(_MOST_WAITS))

    def _may_repeat(self, call: Call) -> bool:
        reads = self._tools[call.tool]["annotations"]["readOnlyHint"]
        return bool(reads or "idempotency_key" in call.arguments)

    def _with_proposal(self, call: Call, reply: Reply) -> Call | None:
        proposal = reply.structured.get("proposal")
        if not proposal or not proposal.get("columns"):
            return None
        settings = {**call.arguments.get("settings", {}), "format": proposal["format"], "columns": proposal["columns"]}
        return call.with_arguments(settings=settings)

    def _with_mended_rows(self, call: Call, reply: Reply) -> Call | None:
        """The next steps of errors in rows, as far as they name a command or a change of lines."""
        errors = [item for item in reply.structured.get("findings", ()) if item["severity"] == "error"]
        before = data = call.arguments.get("data")
        mended = False
        for item in errors if before else ():
            made = self._rows_mended(str(item.get("next_step", "")), str(data))
            data, mended = made or data, mended or made is not None
        return call.with_arguments(data=data) if mended else None

    def _rows_mended(self, step: str, data: str) -> str | None:
        if "Remove all but one of each" in step:
            self._hands.keep_one_of_each(data)
            return data
        command = re.search(r"`qlora ([^`]+)`", step)
        if command is None:
            return None
        arguments = [data if word == "PATH" else word for word in shlex.split(command[1])]
        self._hands.run(arguments)
        return next((word for word in arguments if word != data and self._hands.path(word).is_file()), None)

    def _with_other_option(self, call: Call, reply: Reply) -> Call | None:
        """Of `plan again with --model M or --gpu G` what the person did not fix."""
        offered = options_in(next_of(reply.text), self._properties(call.tool))
        free = {name: value for name, value in offered.items() if name not in self._goal.facts}
        return call.with_arguments(**dict([next(iter(free.items()))])) if free else None

    def _resumed(self, call: Call, reply: Reply) -> Call | None:
        """A failed job resumed with a path that its message corrects."""
        job = _JOB.search(reply.text)
        meant = re.search(r"(?P<wrong>/\S+?)\.?\s.*Did you mean (?P<right>\S+)\?", reply.text, re.DOTALL)
        config = self._goal.facts.get("config")
        if job is None or meant is None or config is None:
            return None
        field = Draft(Call("start_training", {"config": config}), self._hands).field_of(meant["wrong"])
        changes = {field: meant["right"]}
        return Call("control_job", {"job_id": job[0], "action": "resume", "changes": changes}) if field else None

    def _with_settings(self, reply: Reply) -> Call | None:
        """`start_training with these settings: {...}`, put into the config that the person gave."""
        found = re.search(r"start_training with these settings: (\{.*\})", reply.text)
        if found is None or "config" not in self._goal.facts:
            return None
        draft = Draft(Call("start_training", {"config": self._goal.facts["config"]}), self._hands)
        for field, value in found_at(reply.structured, "causes.0.changes").items():
            draft.put(field, value)
        return draft.call()

    def _with_gaps_filled(
        self, tool: str, named: Mapping[str, Any], call: Call, reply: Reply
    ) -> Mapping[str, Any] | None:
        known = {**self._known(tool, call), "changes": found_at(reply.structured, "causes.0.changes")}
        filled = {name: known.get(name) if is_left_out(value) else value for name, value in named.items()}
        return None if any(value is None for value in filled.values()) else filled

    def _known(self, tool: str, call: Call) -> dict[str, Any]:
        """What is known of a tool's arguments: from the call before, and from the person."""
        properties = self._properties(tool)
        return {name: value for name, value in {**call.arguments, **self._goal.facts}.items() if name in properties}

    def _properties(self, tool: str) -> Mapping[str, Any]:
        properties: Mapping[str, Any] = self._tools.get(tool, {}).get("inputSchema", {}).get("properties", {})
        return properties


def wanted(structured: Mapping[str, Any], until: Mapping[str, Sequence[Any]]) -> bool:
    """Whether an answer has the values that the goal wants."""
    return all(found_at(structured, place) in values for place, values in until.items())
