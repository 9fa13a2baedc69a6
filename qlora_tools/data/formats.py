"""Row formats, and their one normal form: a conversation, or plain text.

Pure Python over one row at a time, so that it serves reading, checking and the light install alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ..errors import DataError


class Message(TypedDict):
    """One turn: role (system, user, assistant or tool) and its text."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns of a chat. `verbatim` marks a bare prompt/completion pair, joined as written where there is no template."""

    messages: tuple[Message, ...]
    verbatim: bool = False


@dataclass(frozen=True)
class PlainText:
    """Text to continue, learnt as a whole."""

    text: str


Example = Conversation | PlainText


class RowError(ValueError):
    """One row does not have the form of its format."""


def detect_format(columns: Sequence[str], first_row: Mapping[str, Any]) -> str:
    """Recognise the format from column names and the first row's content; raises `DataError` when none fits."""
    for name, fits in _SIGNS:
        if fits(set(columns), first_row):
            return name
    raise DataError(
        f"No known format fits the columns {', '.join(sorted(columns)) or '(none)'}.",
        next_step="Known: messages (role/content), conversations (from/value), prompt + completion, instruction (+ input) "
        "+ output, question + answer, or text. Rename the columns to one of these.",
    )


def to_example(row: Mapping[str, Any], row_format: str) -> Example:
    """Bring one row to its normal form; raises `RowError` saying what is wrong with it."""
    return _READERS[row_format](row)


_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_NOT_READ_YET = ("tool_calls", "function_call", "reasoning_content")
_ROLES = ("system", "user", "assistant", "tool")


def _is_turns(value: Any, role_key: str) -> bool:
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Mapping) and role_key in value[0]


_SIGNS: tuple[tuple[str, Callable[[set[str], Mapping[str, Any]], bool]], ...] = (
    ("messages", lambda columns, row: _is_turns(row.get("messages"), "role")),
    ("sharegpt", lambda columns, row: _is_turns(row.get("conversations"), "from")),
    ("prompt_completion", lambda columns, row: {"prompt", "completion"} <= columns),
    ("alpaca", lambda columns, row: {"instruction", "output"} <= columns),
    ("question_answer", lambda columns, row: {"question", "answer"} <= columns),
    ("text", lambda columns, row: "text" in columns),
)


def _text(row: Mapping[str, Any], key: str, *, required: bool = True) -> str:
    value = row.get(key)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise RowError(f"{key} is {_kind(value)}, not text")
    if required and not value.strip():
        raise RowError(f"{key} is empty")
    return value


def _kind(value: Any) -> str:
    kinds = {int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object", str: "text"}
    return "missing" if value is None else kinds.get(type(value), f"of type {type(value).__name__}")


def _pair(user: str, assistant: str, *, verbatim: bool = False) -> Conversation:
    return Conversation((Message(role="user", content=user), Message(role="assistant", content=assistant)), verbatim)


def _turn(value: Any, number: int) -> Message:
    if not isinstance(value, Mapping):
        raise RowError(f"turn {number} is {_kind(value)}, not role and content")
    unread = [key for key in _NOT_READ_YET if value.get(key)]
    if unread:
        raise RowError(f"turn {number} has {', '.join(unread)}, which this version would leave out of the text")
    role = value.get("role")
    if role not in _ROLES:
        raise RowError(f"turn {number} has role {role!r}, not one of {', '.join(_ROLES)}")
    try:
        return Message(role=role, content=_text(value, "content"))
    except RowError as error:
        raise RowError(f"turn {number}: {error}") from None


def _read_messages(row: Mapping[str, Any]) -> Example:
    turns = row.get("messages")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise RowError("messages is not a list of turns")
    return Conversation(tuple(_turn(value, number) for number, value in enumerate(turns, start=1)))


def _read_sharegpt(row: Mapping[str, Any]) -> Example:
    turns = row.get("conversations")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise RowError("conversations is not a list of turns")
    return Conversation(tuple(_sharegpt_turn(value, number) for number, value in enumerate(turns, start=1)))


def _sharegpt_turn(value: Any, number: int) -> Message:
    if not isinstance(value, Mapping):
        raise RowError(f"turn {number} is {_kind(value)}, not from and value")
    role = _SHAREGPT_ROLES.get(str(value.get("from")))
    if role is None:
        raise RowError(f"turn {number} is from {value.get('from')!r}, not one of {', '.join(_SHAREGPT_ROLES)}")
    try:
        return Message(role=role, content=_text(value, "value"))
    except RowError as error:
        raise RowError(f"turn {number}: {error}") from None


def _read_prompt_completion(row: Mapping[str, Any]) -> Example:
    prompt, completion = row.get("prompt"), row.get("completion")
    if _is_turns(prompt, "role") and _is_turns(completion, "role"):
        return _read_messages({"messages": [*(prompt or ()), *(completion or ())]})
    return _pair(_text(row, "prompt"), _text(row, "completion"), verbatim=True)


def _read_alpaca(row: Mapping[str, Any]) -> Example:
    given = _text(row, "input", required=False)
    instruction = _text(row, "instruction")
    return _pair(f"{instruction}\n\n{given}" if given.strip() else instruction, _text(row, "output"))


def _read_question_answer(row: Mapping[str, Any]) -> Example:
    return _pair(_text(row, "question"), _text(row, "answer"))


def _read_text(row: Mapping[str, Any]) -> Example:
    return PlainText(_text(row, "text"))


_READERS: dict[str, Callable[[Mapping[str, Any]], Example]] = {
    "messages": _read_messages,
    "sharegpt": _read_sharegpt,
    "prompt_completion": _read_prompt_completion,
    "alpaca": _read_alpaca,
    "question_answer": _read_question_answer,
    "text": _read_text,
}

FORMATS = tuple(_READERS)
