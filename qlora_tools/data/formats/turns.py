"""Chats as files hold them: turns with a role, pairs of question and answer, or plain texts that take turns.

Who speaks is read from a role by any of its usual names; what a turn has besides its text is kept where a chat template
can use it, and refused where leaving it out would change what is learnt.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from ..examples import Message, RowError
from .tool_calls import read_calls
from .values import decoded, is_blank, kind, shown, text

Dialect = Literal["roles", "pairs", "strings", "speakers"]

ROLES = ("system", "user", "assistant", "tool")
ROLE_KEYS = ("role", "from", "speaker", "author", "sender", "user")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance", "body")
_PAIR_KEYS = (
    (("input", "question", "user", "human", "prompt", "instruction", "query"), "user"),
    (("output", "answer", "assistant", "bot", "gpt", "response", "completion"), "assistant"),
)
_CALLS = "function_call"
_ALIASES: dict[str, tuple[str, ...]] = {
    "user": ("user", "human", "prompter", "instruction", "customer", "client", "question", "usr"),
    "assistant": (
        *("assistant", "gpt", "model", "bot", "chatbot", "chatgpt", "bing", "bard", "claude", "gemini", "ai", "agent"),
        *("gpt4", "gpt_4", "gpt_3.5_turbo", "llm", "answer", "response", "output"),
    ),
    "system": ("system", "developer", "system_prompt"),
    "tool": (
        *("tool", "function", "observation", "function_response", "function_result", "ipython"),
        *("tool_response", "tool_result", "tool_results", "tool_output"),
    ),
    _CALLS: ("function_call", "functioncall", "tool_call", "tool_calls", "function_calls"),
}
_ROLE_OF = {alias: role for role, aliases in _ALIASES.items() for alias in aliases}
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_WEIGHT_KEYS = ("weight", "train", "training", "loss")
_TEXT_PARTS = ("text", "input_text", "output_text", None)


def role_of(name: Any) -> str | None:
    """The role that a name stands for, in any letter case; None where it stands for none."""
    if not isinstance(name, str):
        return None
    return _ROLE_OF.get(name) or _ROLE_OF.get(name.strip().lower().replace("-", "_").replace(" ", "_"))


def chat_dialect(value: Any) -> Dialect | None:
    """How a value holds a chat: by roles, in pairs, as texts in turn, by speakers of unknown role; None where it does not."""
    turns = _as_list(value)
    if not turns:
        return None
    if all(isinstance(turn, str) for turn in turns):
        return "strings" if len(turns) > 1 else None
    told = [turn for turn in turns if _is_turn(turn)]
    if 2 * len(told) > len(turns):
        known = sum(role_of(turn.get(_role_key(turn))) is not None for turn in told)
        return "roles" if 2 * known >= len(told) else "speakers"
    return "pairs" if all(_pair_values(turn) for turn in turns) else None


def _is_turn(turn: Any) -> bool:
    if not isinstance(turn, dict) or not isinstance(turn.get(_role_key(turn)), str):
        return False
    # {"user": question, "assistant": answer} is a pair; {"user": who, "text": what} a turn.
    return any(key in turn for key in (*CONTENT_KEYS, "tool_calls", "function_call"))


def read_turns(value: Any, column: str, *, first: int = 1) -> list[Message]:
    """The turns of a chat in any dialect, numbered from `first` in errors; raises `RowError`."""
    turns = value if isinstance(value, list) else _as_list(value)
    if not turns:
        raise RowError(
            f"{column} is not a list of turns" if turns is None else f"{column} is empty, not a list of turns"
        )
    if isinstance(turns[0], str):
        return _alternating(turns, first)
    if isinstance(turns[0], list) or (
        isinstance(turns[0], dict) and not _has_role(turns[0]) and _pair_values(turns[0])
    ):
        return _pairs(turns, first)
    found = [turn for number, given in enumerate(turns, start=first) if (turn := _turn(given, number))]
    if not found:
        raise RowError(f"{column} has no turns but an empty system turn")
    return found


def _as_list(value: Any) -> list[Any] | None:
    found = decoded(value)
    if isinstance(found, dict):
        return _rows_of_columns(found)
    return list(found) if isinstance(found, list | tuple) else None


def _rows_of_columns(value: Mapping[str, Any]) -> list[Any] | None:
    """A single turn; or turns as `datasets` stores a sequence of objects: one list a key."""
    if _has_role(value) and not isinstance(value.get(_role_key(value)), list):
        return [value]
    lists = {key: column for key, column in value.items() if isinstance(column, list)}
    sizes = {len(column) for column in lists.values()}
    if len(lists) < 2 or len(sizes) != 1 or not _has_role(lists):
        return None
    return [dict(zip(lists, turn, strict=True)) for turn in zip(*lists.values(), strict=True)]


def _has_role(turn: Mapping[str, Any]) -> bool:
    if "role" in turn or "from" in turn:
        return True
    return any(key in turn for key in ROLE_KEYS) and any(key in turn for key in CONTENT_KEYS)


def _role_key(turn: Mapping[str, Any]) -> str:
    # The two usual ones without a loop: this runs for every turn of every row.
    if "role" in turn:
        return "role"
    return "from" if "from" in turn else next((key for key in ROLE_KEYS if key in turn), "role")


def _content_key(turn: Mapping[str, Any]) -> str:
    """Where the text lies: under the first key that holds something, as some files have empty ones beside it."""
    if turn.get("content") is not None:
        return "content"
    if turn.get("value") is not None:
        return "value"
    present = [key for key in CONTENT_KEYS if key in turn]
    return next((key for key in present if turn[key] is not None), present[0] if present else _expected_content(turn))


def _expected_content(turn: Mapping[str, Any]) -> str:
    return "value" if "from" in turn else "content"


def _alternating(turns: list[Any], first: int) -> list[Message]:
    roles = ("user", "assistant")
    return [
        Message(role=roles[place % 2], content=text(given, f"turn {place + first}: its text"))
        for place, given in enumerate(turns)
    ]


def _pair_values(pair: Any) -> tuple[tuple[str, str, Any], ...]:
    """The (key, role, value) of a question and its answer; nothing where `pair` is none."""
    if isinstance(pair, list | tuple):
        return (("text 1", "user", pair[0]), ("text 2", "assistant", pair[1])) if len(pair) == 2 else ()
    if not isinstance(pair, dict):
        return ()
    keys = [(next((key for key in names if key in pair), None), role) for names, role in _PAIR_KEYS]
    found = tuple((key, role, pair[key]) for key, role in keys if key is not None)
    return found if len(found) == len(_PAIR_KEYS) else ()


def _pairs(pairs: list[Any], first: int) -> list[Message]:
    messages: list[Message] = []
    for number, pair in enumerate(pairs, start=first):
        values = _pair_values(pair)
        if not values:
            raise RowError(f"turn {number} is {kind(pair)}, not a question and its answer")
        messages += [Message(role=role, content=text(value, f"turn {number}: {key}")) for key, role, value in values]
    return messages


def _turn(turn: Any, number: int) -> Message | None:
    """One turn in normal form; None for a system turn that says nothing."""
    if not isinstance(turn, dict):
        raise RowError(f"turn {number} is {kind(turn)}, not role and content")
    try:
        return _plain_message(turn) or _message(turn)
    except RowError as error:
        raise RowError(f"turn {number}{error}" if str(error).startswith(" ") else f"turn {number}: {error}") from None


def _plain_message(turn: Mapping[str, Any]) -> Message | None:
    """A turn of nothing but a usual role and its text, which most are: read without looking for other keys."""
    if len(turn) != 2:
        return None
    given, content = turn.get("role") or turn.get("from"), turn.get("content") or turn.get("value")
    role = _ROLE_OF.get(given) if isinstance(given, str) else None
    if role is None or role in ("tool", _CALLS) or not isinstance(content, str) or not content or content.isspace():
        return None
    return {"role": role, "content": content}


def _message(turn: Mapping[str, Any]) -> Message | None:
    role_key = _role_key(turn)
    role = _role(turn.get(role_key), role_key)
    content_key = _content_key(turn)
    content = turn.get(content_key)
    if role == _CALLS:
        return _calling_turn(content, content_key)
    if isinstance(content, list):
        content = _joined_parts(content, content_key)
    if role == "system" and is_blank(content):
        return None
    return _message_with_extras(turn, role, content, content_key)


def _role(given: Any, role_key: str) -> str:
    role = role_of(given)
    if role is None:
        raise RowError(
            f" has {role_key} {shown(repr(given))}, not one of {', '.join(ROLES)} or their usual other names"
        )
    return role


def _calling_turn(content: Any, content_key: str) -> Message:
    if is_blank(content):
        raise RowError(f"{content_key} is {'missing' if content is None else 'empty'}, not a call")
    return Message(role="assistant", content="", tool_calls=read_calls(content))


def _message_with_extras(turn: Mapping[str, Any], role: str, content: Any, content_key: str) -> Message:
    if role == "tool":
        return _tool_result(turn, content, content_key)
    message = Message(role=role, content="")
    if role == "assistant":
        _refuse_weights(turn)
        _add_calls(message, turn)
        _add_reasoning(message, turn)
    message["content"] = "" if "tool_calls" in message and is_blank(content) else text(content, content_key)
    return message


def _tool_result(turn: Mapping[str, Any], content: Any, content_key: str) -> Message:
    """A tool may well answer nothing, or an object, which is written as JSON."""
    if isinstance(content, dict):
        content = json.dumps(content, ensure_ascii=False, default=str)
    message = Message(role="tool", content=content if content == "" else text(content, content_key))
    if isinstance(turn.get("tool_call_id"), str):
        message["tool_call_id"] = turn["tool_call_id"]
    if isinstance(turn.get("name"), str):
        message["name"] = turn["name"]
    return message


def _refuse_weights(turn: Mapping[str, Any]) -> None:
    for key in _WEIGHT_KEYS:
        value = turn.get(key)
        # A loss may also be a measured one, which means nothing here.
        if value is not None and (value == 0 or (key == "weight" and value != 1)):
            raise RowError(
                f" has {key} {shown(json.dumps(value, default=str))}, which this program cannot honour: it learns every "
                "answer that data.loss_on names"
            )


def _add_calls(message: Message, turn: Mapping[str, Any]) -> None:
    for key in ("tool_calls", "function_call"):
        calls = decoded(turn.get(key))
        # Arrow fills what a turn does not have: {"name": null, "arguments": null}.
        unset = isinstance(calls, dict) and all(value is None for value in calls.values())
        if not is_blank(calls) and not unset:
            message["tool_calls"] = read_calls(calls)
            return


def _add_reasoning(message: Message, turn: Mapping[str, Any]) -> None:
    for key in _REASONING_KEYS:
        if not is_blank(turn.get(key)):
            message["reasoning_content"] = text(turn[key], key)
            return


def _joined_parts(parts: list[Any], content_key: str) -> str:
    return "".join(part if isinstance(part, str) else _part_text(part, content_key) for part in parts)


def _part_text(part: Any, content_key: str) -> str:
    if not isinstance(part, dict):
        raise RowError(f"{content_key} is a list, and in it is {kind(part)}, not a text part")
    if part.get("type") not in _TEXT_PARTS:
        raise RowError(f"{content_key} has a part of type {shown(repr(part.get('type')))}; only text can be learnt")
    if not isinstance(part.get("text"), str):
        raise RowError(f"{content_key} is a list, and in it is a text part without text")
    return str(part["text"])


def turn_roles(value: Any) -> list[str | None]:
    """The role of each turn of a chat by roles; nothing where the value is none."""
    turns = (_as_list(value) or []) if chat_dialect(value) == "roles" else []
    return [role_of(turn.get(_role_key(turn))) for turn in turns if isinstance(turn, dict)]


def speakers(values: list[Any]) -> Counter[str]:
    """How often each speaker has a turn in chats whose speakers are no known roles."""
    turns = (turn for value in values for turn in _as_list(value) or () if isinstance(turn, dict))
    return Counter(str(turn.get(_role_key(turn))) for turn in turns)


def turn_keys(value: Any) -> tuple[str, str]:
    """The keys of role and text in a chat by roles or speakers."""
    turn = next((turn for turn in _as_list(value) or () if isinstance(turn, dict)), {})
    return _role_key(turn), _content_key(turn)
