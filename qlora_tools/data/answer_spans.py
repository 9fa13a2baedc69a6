"""Where in a rendered conversation an answer stands, for any chat template, with or without generation markers.

Renderings tell it: the prompt that generation would use ends where the answer begins; the same conversation with other
words in that answer differs from this one where the answer is; and one that stops after it shows what closes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .chat_template import ChatTemplate
from .disguise import Part, common_length, common_tail_length, disguised
from .examples import Message, RowError


@dataclass(frozen=True)
class Span:
    """Characters of one answer: its content `[start, content_end)`, and up to `end` what the template writes after it.

    `closed_otherwise`: at `end` stands something else than where no turn follows, which may be another end of turn.
    """

    start: int
    content_end: int
    end: int
    closed_otherwise: bool = False


@dataclass(frozen=True)
class RenderedConversation:
    """One conversation as a chat template writes it, and where in that text its answers stand."""

    template: ChatTemplate
    turns: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @cached_property
    def text(self) -> str:
        """All of it; raises `RowError` where the template refuses it."""
        return self.template.text(self.turns, tools=self.tools)

    def require_all_turns(self) -> None:
        """Raise `RowError` where the template leaves out a turn's text or its calls, which it does without a word."""
        for number, turn in enumerate(self.turns):
            content = turn["content"].strip()
            if content and content not in self.text and self._disguised(number, "content") == self.text:
                raise RowError(f"the model's chat template leaves out the text of turn {number + 1}")
            if "tool_calls" in turn and self._disguised(number, "last_call") == self.text:
                raise RowError(f"the model's chat template leaves out a tool call of turn {number + 1}")

    def answer(self, turn: int) -> Span:
        """The span of one answer; raises `RowError` where the template does not write it."""
        asked = self.template.text(self.turns[:turn], tools=self.tools, generation_prompt=True) if turn else ""
        last = turn == len(self.turns) - 1
        answered = self.text if last else self.template.text(self.turns[: turn + 1], tools=self.tools)
        content_end = self._end_of_plain_content(turn, asked)
        if content_end is not None and answered.startswith(self.text[:content_end]):
            return self._closed(len(asked), content_end, answered[content_end:])
        start, content_end = self._differing(turn, asked)
        alone = content_end if last else self._content_end_alone(turn, answered)
        return self._closed(start, content_end, answered[alone:])

    def _closed(self, start: int, content_end: int, closing: str) -> Span:
        length = common_length(closing, self.text[content_end:])
        return Span(start, content_end, content_end + length, closed_otherwise=length < len(closing))

    def _end_of_plain_content(self, turn: int, asked: str) -> int | None:
        """Where the content ends that stands as it is behind the prompt; None where it takes more to tell."""
        message, content = self.turns[turn], self.turns[turn]["content"].strip()
        if not content or not asked or message.keys() & {"tool_calls", "reasoning_content"}:
            return None
        if not self.template.answers_follow_prompt or not self.text.startswith(asked):
            return None
        place = self.text.find(content, len(asked), len(asked) + len(content) + 1)
        return place + len(content) if place >= 0 else None

    def _differing(self, turn: int, asked: str) -> tuple[int, int]:
        other = self._disguised(turn)
        if other == self.text:
            raise RowError(f"the model's chat template leaves out turn {turn + 1}, so it could not be learnt")
        first = common_length(self.text, other)
        start = self._start(turn, asked, first) if asked else first
        return start, max(start, first, len(self.text) - common_tail_length(self.text, other))

    def _start(self, turn: int, asked: str, first: int) -> int:
        """Where generation begins; before `first`, where the template does not write the prompt word for word.

        Templates whose prompt opens a thinking block agree with the text up to that block only, and some rewrite earlier
        turns when others follow: so the header of answers, or as many whole marks of it as there are, is looked for
        behind the turn before.
        """
        if self.text.startswith(asked):
            return len(asked)
        other = self._disguised(turn - 1)
        if other == self.text:
            return first
        behind = len(self.text) - common_tail_length(self.text, other)
        # Where templates write the time, renderings differ before the answer too.
        limit = first if first >= behind else len(self.text)
        for header in self.template.headers:
            place = self.text.find(header, behind, limit)
            if place >= 0:
                return place + len(header)
        return min(limit, behind + common_length(self.text[behind:], self._closing_of_turn_before(turn, asked)))

    def _closing_of_turn_before(self, turn: int, asked: str) -> str:
        """What the prompt writes behind the turn before the answer, where no header of an answer stands."""
        turns = (*self.turns[: turn - 1], disguised(self.turns[turn - 1]))
        other = self.template.text(turns, tools=self.tools, generation_prompt=True)
        return asked[len(asked) - common_tail_length(asked, other) :]

    def _content_end_alone(self, turn: int, answered: str) -> int:
        """Where the content ends in the text that stops after it."""
        turns = (*self.turns[:turn], disguised(self.turns[turn]))
        return len(answered) - common_tail_length(answered, self.template.text(turns, tools=self.tools))

    def _disguised(self, turn: int, part: Part = "all") -> str:
        turns: Sequence[Message] = (*self.turns[:turn], disguised(self.turns[turn], part), *self.turns[turn + 1 :])
        return self.template.text(turns, tools=self.tools)
