"""From a conversation to text: what is rendered, which characters are learnt, and the prompt that generation must use.

The model's own chat template is used where it has one (rendered in the sandbox of Transformers). A base model without
a template gets a plain instruction form. The choice is stored with the adapter, so that a model is always
asked in the form in which it was trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from .formats import Conversation, Example, Message, PlainText, RowError

Style = Literal["chat_template", "instruction", "verbatim"]
LossOn = Literal["completions", "assistant", "all"]


@dataclass(frozen=True)
class Span:
    """Characters of one answer: its content `[start, content_end)`, and up to `end` what the template writes after it."""

    start: int
    content_end: int
    end: int


@dataclass(frozen=True)
class RenderedExample:
    """Text of one row and the spans of it that are learnt."""

    text: str
    learnt: tuple[Span, ...]


@dataclass(frozen=True)
class Renderer:
    """Renders conversations for one tokenizer in one style."""

    tokenizer: Any
    style: Style

    @classmethod
    def for_examples(cls, tokenizer: Any, examples: Sequence[Example]) -> "Renderer":
        """The chat template where there is one; else pairs as written, else the instruction form."""
        first = next((example for example in examples if isinstance(example, Conversation)), None)
        if first is None:
            return cls(tokenizer, "verbatim")
        if tokenizer.chat_template:
            return cls(tokenizer, "chat_template")
        return cls(tokenizer, "verbatim" if first.verbatim else "instruction")

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer still has to add its BOS; a chat template writes it itself."""
        return self.style != "chat_template"

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text after which the model is to answer."""
        return self._text(messages, generation_prompt=True)

    def sample_prompt(self, example: Example) -> str:
        """The prompt of a row: what stands before its last answer, or the start of a plain text."""
        if isinstance(example, PlainText):
            return example.text[:200]
        answered = example.messages[-1]["role"] == "assistant" and len(example.messages) > 1
        return self.prompt(example.messages[:-1] if answered else example.messages)

    def training_text(self, example: Example, loss_on: LossOn) -> RenderedExample:
        """Text and learnt spans of one row; raises `RowError` where the row does not suit the template."""
        if isinstance(example, PlainText):
            return RenderedExample(example.text, (Span(0, len(example.text), len(example.text)),))
        text = self._text(example.messages, generation_prompt=False)
        if loss_on == "all":
            return RenderedExample(text, (Span(0, len(text), len(text)),))
        turns = [number for number, message in enumerate(example.messages) if message["role"] == "assistant"]
        if loss_on == "completions":
            turns = [number for number in turns if number == len(example.messages) - 1]
        return RenderedExample(text, tuple(self._span(example.messages, turn, text) for turn in turns))

    def _span(self, messages: Sequence[Message], turn: int, text: str) -> Span:
        asked = self._text(messages[:turn], generation_prompt=True)
        answered = self._text(messages[: turn + 1], generation_prompt=False)
        # Templates whose generation prompt opens a thinking block agree with the text only up to that block, and
        # some write EOS after whatever comes last; a template that rewrites what came before differs earlier.
        start, end = _common_length(asked, text), _common_length(answered, text)
        content = messages[turn]["content"].strip()
        content_end = text.find(content, start) + len(content)
        if start < self._length_before(messages, turn) or not start < content_end <= end:
            raise RowError(
                f"the chat template rewrites earlier turns when turn {turn + 1} follows, so its tokens cannot be told "
                "apart; use loss_on: completions with one answer a row"
            )
        return Span(start, content_end, end)

    def _length_before(self, messages: Sequence[Message], turn: int) -> int:
        """Characters up to the end of the turn before, without what a template writes only at the very end."""
        if turn == 0:
            return 0
        before = self._text(messages[:turn], generation_prompt=False)
        asked = self._text(messages[:turn], generation_prompt=True)
        return _common_length(before, asked)

    def _text(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        if self.style == "chat_template":
            return self._templated(messages, generation_prompt)
        if self.style == "verbatim":
            return "".join(message["content"] for message in messages)
        return _instruction_form(messages, generation_prompt)

    def _templated(self, messages: Sequence[Message], generation_prompt: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages], tokenize=False, add_generation_prompt=generation_prompt
                )
            )
        except TemplateError as error:
            raise RowError(f"the model's chat template refuses it: {error}") from None


def _common_length(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


_HEADINGS = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n", "tool": "### Input:\n"}


def _instruction_form(messages: Sequence[Message], generation_prompt: bool) -> str:
    turns = [_HEADINGS[message["role"]] + message["content"] for message in messages]
    return "\n\n".join([*turns, _HEADINGS["assistant"]] if generation_prompt else turns)
