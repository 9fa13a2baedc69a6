"""Base and adapters, each answering the same prompts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ..data.examples import Message
from ..events import Listener, RunEvent, StopAsked
from ..results import Answer
from .sampling import Sampling

if TYPE_CHECKING:
    from .session import GenerationSession

Side = Literal["base", "adapter", "both"]


def sides_of(names: Sequence[str], side: Side) -> list[str | None]:
    """Who answers, in order: None is the base, a name that adapter."""
    return [*([None] if side != "adapter" else []), *(names if side != "base" else [])]


def side_words(name: str | None, adapters: int) -> str:
    """What a side is called in reports."""
    return "the base" if name is None else "the adapter" if adapters == 1 else f"the adapter {name}"


def answer_sides(
    sessions: Mapping[str, "GenerationSession"],
    conversations: Sequence[Sequence[Message]],
    *,
    side: Side,
    sampling: Sampling,
    on_event: Listener,
    stop: StopAsked,
) -> list[Answer]:
    """The answers to each conversation; the base is asked in the form of the first adapter.

    Raises `UsageError` for turns that the chat template refuses, `AnsweringStopped`.
    """
    first = next(iter(sessions.values()))
    said: dict[str | None, list[str]] = {}
    for name in sides_of(list(sessions), side):
        on_event(RunEvent("phase", f"Answering with {side_words(name, len(sessions))}"))
        session = first if name is None else sessions[name]
        said[name] = session.answer(
            conversations, with_adapter=name is not None, on_event=on_event, stop=stop, **sampling.options()
        )
    by_row = [{name: answers[place] for name, answers in said.items()} for place in range(len(conversations))]
    return [
        answer_of(turns[-1]["content"], answers, list(sessions))
        for turns, answers in zip(conversations, by_row, strict=True)
    ]


def answer_of(prompt: str, said: Mapping[str | None, str], names: Sequence[str]) -> Answer:
    """What base (None) and adapters (by name) said to one prompt."""
    adapters = {name: said[name] for name in names if name in said} if len(names) > 1 else {}
    return Answer(prompt=prompt, base=said.get(None), adapter=said.get(names[0]), adapters=adapters)
