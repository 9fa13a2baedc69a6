"""From a conversation to text: what is rendered, which characters are learnt, and the prompt that generation must use.

The model's own chat template is used where it has one. A base model without a template gets an Alpaca-style one, which
is saved with its tokenizer, so that a model is always asked in the form in which it was trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from .answer_spans import RenderedConversation, Span
from .chat_template import ChatTemplate, install_instruction_form
from .examples import Conversation, Example, Message, PlainText, RowError

Style = Literal["chat_template", "verbatim"]
LossOn = Literal["completions", "assistant", "all"]


@dataclass(frozen=True)
class RenderedExample:
    """Text of one row and the spans of it that are learnt; a chat template has written special tokens itself."""

    text: str
    learnt: tuple[Span, ...]
    templated: bool


@dataclass(frozen=True)
class Renderer:
    """Renders conversations for one tokenizer in one style."""

    tokenizer: Any
    style: Style

    @classmethod
    def for_examples(cls, tokenizer: Any, examples: Sequence[Example]) -> "Renderer":
        """The chat template where there is one; else pairs as written, else the Alpaca-style form."""
        first = next((example for example in examples if isinstance(example, Conversation)), None)
        if first is None or (first.verbatim and not tokenizer.chat_template):
            return cls(tokenizer, "verbatim")
        if not tokenizer.chat_template:
            install_instruction_form(tokenizer)
        return cls(tokenizer, "chat_template")

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template."""
        return ChatTemplate(self.tokenizer)

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer still has to add its BOS to a prompt; a chat template writes it itself."""
        return self.style != "chat_template"

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The text after which the model is to answer."""
        if self.style == "verbatim":
            return _as_written(messages)
        return self.template.text(self.template.folded(messages), tools=tools, generation_prompt=True)

    def sample_prompt(self, example: Example) -> str:
        """The prompt of a row: what stands before its last answer, or the start of a plain text."""
        if isinstance(example, PlainText):
            return example.text[:200]
        answered = example.messages[-1]["role"] == "assistant" and len(example.messages) > 1
        return self.prompt(example.messages[:-1] if answered else example.messages, example.tools)

    def training_text(self, example: Example, loss_on: LossOn) -> RenderedExample:
        """Text and learnt spans of one row; raises `RowError` where the row does not suit the template."""
        if isinstance(example, PlainText):
            return RenderedExample(example.text, (_whole(example.text),), templated=False)
        if self.style == "verbatim":
            return _verbatim(example, loss_on)
        self._require_abilities(example)
        turns = self.template.folded(example.messages)
        chat = RenderedConversation(self.template, turns, example.tools)
        chat.require_all_turns()
        if loss_on == "all":
            return RenderedExample(chat.text, (_whole(chat.text),), templated=True)
        return RenderedExample(chat.text, tuple(map(chat.answer, _learnt(turns, loss_on))), templated=True)

    def _require_abilities(self, example: Conversation) -> None:
        if any("tool_calls" in turn for turn in example.messages) and not self.template.abilities.calls:
            raise RowError("the model's chat template leaves out tool calls, so they could not be learnt")
        if any(turn["role"] == "tool" for turn in example.messages) and not self.template.abilities.results:
            raise RowError("the model's chat template has no place for the results of tools")


def _verbatim(example: Conversation, loss_on: LossOn) -> RenderedExample:
    text = _as_written(example.messages)
    if loss_on == "all":
        return RenderedExample(text, (_whole(text),), templated=False)
    spans, place = [], 0
    learnt = set(_learnt(example.messages, loss_on))
    for number, turn in enumerate(example.messages):
        end = place + len(turn["content"])
        if number in learnt:
            spans.append(Span(place, end, end))
        place = end
    return RenderedExample(text, tuple(spans), templated=False)


def _learnt(turns: Sequence[Message], loss_on: LossOn) -> list[int]:
    answers = [number for number, message in enumerate(turns) if message["role"] == "assistant"]
    return [number for number in answers if loss_on == "assistant" or number == len(turns) - 1]


def _as_written(messages: Sequence[Message]) -> str:
    return "".join(message["content"] for message in messages)


def _whole(text: str) -> Span:
    return Span(0, len(text), len(text))
