"""One request: who answers what, with which settings; checked before anything is loaded."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.examples import Message
from ..errors import UsageError
from ..events import Listener, StopAsked
from ..results import GenerateResult
from .adapters_asked import Adapters, BasePrecision, named_adapters
from .sampling import Sampling
from .sides import Side, answer_sides

if TYPE_CHECKING:
    from .session import GenerationSession

Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Request:
    """Adapters by name, conversations, who answers, how the base is loaded, and how answers are drawn."""

    adapters: Mapping[str, Path]
    conversations: Sequence[Sequence[Message]]
    side: Side
    base_precision: BasePrecision
    sampling: Sampling

    @classmethod
    def of(
        cls,
        adapter: Adapters,
        prompts: Sequence[Prompt],
        *,
        side: Side = "both",
        base_precision: BasePrecision = "trained",
        **sampling: Any,
    ) -> "Request":
        """From the arguments of `generate`. Raises `UsageError` for what cannot be asked, `ModelError` for no adapter."""
        settings = Sampling(**sampling)
        return cls(named_adapters(adapter), _conversations(prompts), side, base_precision, settings)

    def answered(
        self, sessions: Mapping[str, "GenerationSession"], *, began: float, on_event: Listener, stop: StopAsked
    ) -> GenerateResult:
        """The answers of these sessions; `began` is when the request came, on the monotonic clock.

        Raises `UsageError` for turns that the chat template refuses, `MachineError`, `AnsweringStopped`.
        """
        answers = answer_sides(
            sessions, self.conversations, side=self.side, sampling=self.sampling, on_event=on_event, stop=stop
        )
        first = next(iter(sessions.values()))
        directories = {name: str(directory) for name, directory in self.adapters.items()}
        return GenerateResult(
            model=first.record.base_name,
            adapter=next(iter(directories.values())),
            adapters=directories if len(directories) > 1 else {},
            device=first.hardware.name,
            answers=answers,
            seconds=time.monotonic() - began,
        )


def _conversations(prompts: Sequence[Prompt]) -> list[tuple[Message, ...]]:
    if not prompts or not all(prompts):
        raise UsageError("There is no prompt to answer.", next_step="Give at least one prompt, none of them empty.")
    return [(Message(role="user", content=one),) if isinstance(one, str) else tuple(one) for one in prompts]
