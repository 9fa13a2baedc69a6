"""A conversation that goes on: each answer is a turn of the next prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..data.examples import Message
from ..errors import UsageError
from ..events import Listener, RunEvent, StopAsked, never
from .sampling import Sampling
from .stopping import AnsweringStopped
from .telling import Telling

if TYPE_CHECKING:
    from .session import GenerationSession


@dataclass
class Chat:
    """The turns so far, and who answers the next one: an adapter by its name, or None for the base."""

    sessions: Mapping[str, "GenerationSession"]
    sampling: Sampling
    system: str | None
    who: str | None
    turns: list[Message] = field(default_factory=list)

    def use(self, name: str) -> None:
        """Let the adapter `name`, or `base`, answer from now on; raises `UsageError` where there is none of that name."""
        if name != "base" and name not in self.sessions:
            raise UsageError(
                f"There is no adapter {name!r} here.", next_step=f"Choose among base, {', '.join(self.sessions)}."
            )
        self.who = None if name == "base" else name

    def say(self, text: str, on_event: Listener, stop: StopAsked = never) -> str:
        """The answer to one more message; `on_event` hears it as it grows.

        Where `stop` ends it early, what was said so far is the turn. Raises `UsageError` for turns that the chat template
        refuses; the message is then not among them.
        """
        session = next(iter(self.sessions.values())) if self.who is None else self.sessions[self.who]
        before = [Message(role="system", content=self.system)] if self.system is not None else []
        asked = Message(role="user", content=text)
        prompt = session.prompt_ids([*before, *self.turns, asked])
        heard = [""]

        def hear(event: RunEvent) -> None:
            heard[0] = event.message
            on_event(event)

        told = Telling(session.tokenizer, 1, self.sampling, hear)
        try:
            # The number of the turn: an answer that is drawn again is drawn otherwise.
            numbered = {len(self.turns): prompt}
            (answer,) = session.answer_ids(
                numbered, self.sampling, with_adapter=self.who is not None, told=told, stop=stop
            )
        except AnsweringStopped:
            answer = heard[0]
        self.turns += [asked, Message(role="assistant", content=answer)]
        return answer
