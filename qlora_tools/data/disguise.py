"""Other words in a turn's place: what differs between two renderings is where the turn stands."""

from collections.abc import Iterable
from typing import Any, Literal

from .examples import Message

Part = Literal["all", "content", "last_call"]

WORD = "zqxvjk"
_MIDDLE = "qxvj"
# Letters that no escape sequence begins or ends with.
_FIRST, _LAST = "zwyhoZWYHO", "kpmglKPMGL"


def disguised(message: Message, part: Part = "all") -> Message:
    """The same turn with what it says replaced by a word that begins and ends with other letters than it does.

    `part` "content" replaces only its text, "last_call" only the arguments of its last call.
    """
    word, other = _word_unlike(_said(message)), message.copy()
    # Of a turn that only calls, some templates refuse a text.
    if part == "content" or (part == "all" and (message["content"] or "tool_calls" not in message)):
        other["content"] = word
    if part == "all" and "reasoning_content" in message:
        other["reasoning_content"] = word
    if part != "content" and "tool_calls" in message:
        kept = message["tool_calls"][:-1] if part == "last_call" else []
        replaced = message["tool_calls"][len(kept) :]
        other["tool_calls"] = [*kept, *(_with_arguments(call, {word: word}) for call in replaced)]
    return other


def _with_arguments(call: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Names stay: templates write those again beside the results."""
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _said(message: Message) -> Iterable[str]:
    yield message["content"]
    yield message.get("reasoning_content", "")
    for call in message.get("tool_calls", ()):
        arguments = call["function"]["arguments"]
        yield from (str(text) for text in (*arguments, *arguments.values()))


def _word_unlike(texts: Iterable[str]) -> str:
    said = [text.strip() for text in texts]
    starts, ends = {text[:1] for text in said}, {text[-1:] for text in said}
    first = next((letter for letter in _FIRST if letter not in starts), _FIRST[0])
    return first + _MIDDLE + next((letter for letter in _LAST if letter not in ends), _LAST[0])


def common_length(one: str, other: str) -> int:
    """Characters at the start that two texts share."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    low, high = 0, shorter  # halving compares in C what a loop would compare in Python
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def common_tail_length(one: str, other: str) -> int:
    """Characters at the end that two texts share."""
    return common_length(one[::-1], other[::-1])
