"""The one normal form of a row: a conversation, or plain text. What every format is brought to and everything else reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict


class Message(TypedDict):
    """One turn: role (system, user, assistant or tool) and its text, with what a chat template may need besides.

    `tool_calls` are those of an assistant, each `{"type": "function", "function": {"name", "arguments"}}` with the
    arguments as an object; `reasoning_content` is what the assistant thought before it answered; `name` and
    `tool_call_id` are those of a tool's result. A turn that only calls tools has an empty `content`.
    """

    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    reasoning_content: NotRequired[str]


@dataclass(frozen=True)
class Conversation:
    """Turns of a chat, and the tools that its system offers (JSON Schema of each).

    `verbatim` marks a bare prompt/completion pair, joined as written where there is no template.
    """

    messages: tuple[Message, ...]
    verbatim: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class PlainText:
    """Text to continue, learnt as a whole."""

    text: str


Example = Conversation | PlainText


class RowError(ValueError):
    """One row does not have the form of its format."""


def prompt_text(example: Example) -> str:
    """What is asked: all turns before the last answer, a line each; nothing for plain text."""
    if isinstance(example, PlainText):
        return ""
    last = example.messages[-1]["role"] == "assistant"
    return "\n".join(turn["content"] for turn in (example.messages[:-1] if last else example.messages))


def answer_texts(example: Example) -> list[str]:
    """The texts of the assistant's turns; of plain text, the whole."""
    if isinstance(example, PlainText):
        return [example.text]
    return [turn["content"] for turn in example.messages if turn["role"] == "assistant"]


def all_text(example: Example) -> str:
    """Every text of the row, a line each."""
    if isinstance(example, PlainText):
        return example.text
    return "\n".join(turn["content"] for turn in example.messages)
