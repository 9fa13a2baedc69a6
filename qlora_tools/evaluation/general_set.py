"""The regression set: general questions with rules for their answers, and general texts. Committed in `data/`."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from ..data.examples import Message
from ..events import Listener, RunEvent, StopAsked

if TYPE_CHECKING:
    from ..generation.batch import Row
    from ..generation.session import GenerationSession

_JSON_STARTS = re.compile(r"\{")


@dataclass(frozen=True)
class GeneralPrompt:
    """A question that most models can answer, and what counts as an answer."""

    kind: str
    prompt: str
    rule: Literal["word", "exact word", "starts", "pattern", "json"]
    accepted: tuple[str, ...]

    def accepts(self, answer: str) -> bool:
        """Whether an answer is right by the rule of this question."""
        return any(_RULES[self.rule](answer.strip(), accepted) for accepted in self.accepted)


@dataclass(frozen=True)
class GeneralText:
    """A text that a general model has no reason to find stranger after training on something else."""

    name: str
    kind: str
    text: str


def answers_of_sides(
    session: "GenerationSession",
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    on_event: Listener,
    stop: StopAsked,
) -> list[list[str]]:
    """The greedy answers of the base, and of the adapter. Raises `AnsweringStopped`."""
    from ..generation.sampling import Sampling

    ids = {place: session.prompt_ids([Message(role="user", content=prompt)]) for place, prompt in enumerate(prompts)}
    answers = []
    for with_adapter, side in ((False, "base"), (True, "adapter")):
        on_event(RunEvent("phase", f"Asking the {side} {len(prompts)} questions"))
        done = 0

        def told(row: "Row") -> None:
            nonlocal done
            if row.ended:
                done += 1
                on_event(RunEvent("progress", "answers", {"done": done, "total": len(prompts)}))

        sampling = Sampling(max_new_tokens=max_new_tokens)
        answers.append(session.answer_ids(ids, sampling, with_adapter=with_adapter, told=told, stop=stop))
    return answers


@cache
def general_prompts() -> tuple[GeneralPrompt, ...]:
    """The committed questions, in their order."""
    return tuple(
        GeneralPrompt(row["kind"], row["prompt"], row["rule"], tuple(row["accepted"]))
        for row in committed_rows("general_prompts.json")
    )


@cache
def general_texts() -> tuple[GeneralText, ...]:
    """The committed texts, in their order."""
    return tuple(GeneralText(**row) for row in committed_rows("general_texts.json"))


def committed_rows(name: str) -> list[dict[str, Any]]:
    """The rows of one of the committed sets."""
    text = (files(__package__) / "data" / name).read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads(text)
    return rows


def _holds_word(answer: str, accepted: str) -> bool:
    return _holds_exact_word(answer.casefold(), accepted.casefold())


def _holds_exact_word(answer: str, accepted: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(accepted)}(?!\w)", answer) is not None


def _starts(answer: str, accepted: str) -> bool:
    opening = answer.casefold().lstrip("\"'*`( ")
    return re.match(rf"{re.escape(accepted.casefold())}(?!\w)", opening) is not None


def _matches(answer: str, accepted: str) -> bool:
    return re.search(accepted, answer) is not None


def _is_json(answer: str, accepted: str) -> bool:
    """The first JSON object of the answer; prose and code fences around it do not matter."""
    decoder = json.JSONDecoder()
    for found in _JSON_STARTS.finditer(answer):
        try:
            value, _ = decoder.raw_decode(answer, found.start())
        except (ValueError, RecursionError):
            continue
        return bool(value == json.loads(accepted))
    return False


_RULES = {
    "word": _holds_word,
    "exact word": _holds_exact_word,
    "starts": _starts,
    "pattern": _matches,
    "json": _is_json,
}
