"""Tools that a row offers and calls that an assistant makes, brought to the form that chat templates of today read."""

from collections.abc import Mapping
from typing import Any

from ..examples import RowError
from .values import decoded, is_blank, kind, shown

_ARGUMENT_KEYS = ("arguments", "parameters", "args")


def read_tools(value: Any, column: str) -> tuple[Mapping[str, Any], ...]:
    """The tools of a row, each `{"type": "function", "function": {...}}`; from a list, an object or either as JSON text.

    Raises `RowError` where the value is no list of objects.
    """
    found = decoded(value)
    if is_blank(found):
        return ()
    tools = [decoded(tool) for tool in found] if isinstance(found, list) else [found]
    for number, tool in enumerate(tools, start=1):
        if not isinstance(tool, Mapping):
            raise RowError(f"{column}: tool {number} is {kind(tool)}, not an object")
    return tuple(_wrapped_tool(tool) for tool in tools)


def _wrapped_tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    if "name" in tool and not isinstance(tool.get("function"), Mapping):
        return {"type": "function", "function": dict(tool)}
    return tool


def read_calls(value: Any) -> list[dict[str, Any]]:
    """The calls of a turn: OpenAI's `tool_calls`, its older `function_call`, or bare objects of name and arguments.

    Arguments given as JSON text become an object. Raises `RowError` where a call has no name or no such arguments.
    """
    found = decoded(value)
    calls = found if isinstance(found, list) else [found]
    return [_call(decoded(call), number) for number, call in enumerate(calls, start=1)]


def _call(value: Any, number: int) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RowError(f"tool call {number} is {kind(value)}, not name and arguments")
    inner = value.get("function")
    function = inner if isinstance(inner, Mapping) else value
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise RowError(f"tool call {number} has no name")
    call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": _arguments(function, number)}}
    identifier = value.get("id")
    return {"id": identifier, **call} if isinstance(identifier, str) and identifier else call


def _arguments(function: Mapping[str, Any], number: int) -> dict[str, Any]:
    given = next((function[key] for key in _ARGUMENT_KEYS if function.get(key) is not None), None)
    if is_blank(given):
        return {}
    arguments = decoded(given)
    if not isinstance(arguments, Mapping):
        raise RowError(f"tool call {number}: its arguments are no JSON object ({shown(given)})")
    return dict(arguments)


def holds_calls(value: Any) -> bool:
    """Whether a value is a list of calls, each with name and arguments, given as such or as JSON text."""
    found = decoded(value)
    return (
        isinstance(found, list)
        and bool(found)
        and all(
            isinstance(call, Mapping) and isinstance(call.get("name"), str) and "arguments" in call for call in found
        )
    )
