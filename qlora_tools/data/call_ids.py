"""Ids of tool calls: they say only which result belongs to which call, and some templates insist on nine characters."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any


def with_nine_character_ids(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same turns with calls numbered `call00001`, ...; results without an id belong to the calls in their order."""
    numbers, names, open_calls, turns = count(1), dict[str, str](), list[str](), list[dict[str, Any]]()
    for message in messages:
        turn = dict(message)
        if "tool_calls" in turn:
            turn["tool_calls"] = [_renamed(call, numbers, names) for call in turn["tool_calls"]]
            open_calls = [call["id"] for call in turn["tool_calls"]]
        elif turn["role"] == "tool":
            following = open_calls.pop(0) if open_calls else _id(numbers)
            turn["tool_call_id"] = names.get(turn.get("tool_call_id", ""), following)
        turns.append(turn)
    return turns


def _renamed(call: Mapping[str, Any], numbers: Iterator[int], names: dict[str, str]) -> dict[str, Any]:
    name = _id(numbers)
    if "id" in call:
        names[call["id"]] = name
    return {**call, "id": name}


def _id(numbers: Iterator[int]) -> str:
    return f"call{next(numbers):05d}"
