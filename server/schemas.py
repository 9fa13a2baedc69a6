"""Schemas as agents pay for them: without titles that repeat names, and without alternatives that only say "or null"."""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]
# What goes without saying: an object may have any members unless it is closed.
_ANYTHING = ("additionalProperties", True)


def plain_schema(schema: Mapping[str, Any]) -> Schema:
    """`schema` without titles and nulls, references resolved."""
    return _plain(schema, schema.get("$defs", {}), ())


def outline_of(schema: Mapping[str, Any]) -> Schema:
    """What an agent has to know of an answer before it comes: what is always there, and which lists and objects may be.

    Single values that may be absent, and what is within lists and objects, are read in the answer itself: every agent pays
    for this outline with each task, whether it calls the tool or not.
    """
    plain = plain_schema(schema)
    always = plain["required"]
    types = {name: part.get("type") for name, part in plain["properties"].items()}
    told = {name: {"type": kind} for name, kind in types.items() if name in always or kind in ("array", "object")}
    return {"type": "object", "properties": told, "required": always}


def _plain(schema: Mapping[str, Any], known: Mapping[str, Any], within: tuple[str, ...]) -> Schema:
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        if name in within:
            return {"type": "object"}
        return _plain({**known[name], **beside}, known, (*within, name))
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    if "anyOf" in schema and len(choices) == 1:
        beside = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return _plain({**choices[0], **beside}, known, within)
    names = ("title", "$defs")
    return {
        key: _value(key, value, known, within)
        for key, value in schema.items()
        if (key not in names or isinstance(value, bool)) and (key, value) != _ANYTHING
    }


def _value(key: str, value: Any, known: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    if key == "properties":
        return {name: _plain(part, known, within) for name, part in value.items()}
    if key in ("items", "additionalProperties") and isinstance(value, Mapping):
        return _plain(value, known, within)
    if key in ("anyOf", "prefixItems"):
        return [_plain(part, known, within) for part in value]
    return value
