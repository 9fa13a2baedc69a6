"""Schemas as agents pay for them: without titles that repeat names, and without alternatives that only say "or null"."""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]


def plain_schema(schema: Mapping[str, Any], *, described: bool = True) -> Schema:
    """`schema` without titles and nulls, references resolved.

    Where it is not to be `described`, for what comes back, descriptions, defaults and bans of further fields go too, and
    what is always there is told of the outermost object alone.
    """
    return _plain(schema, schema.get("$defs", {}), described, ())


def _plain(schema: Mapping[str, Any], known: Mapping[str, Any], described: bool, within: tuple[str, ...]) -> Schema:
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        if name in within:
            return {"type": "object"}
        return _plain({**known[name], **beside}, known, described, (*within, name))
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    if "anyOf" in schema and len(choices) == 1:
        beside = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return _plain({**choices[0], **beside}, known, described, within)
    kept: Schema = {}
    for key, value in schema.items():
        if key in ("title", "$defs") and not isinstance(value, bool):
            continue
        if not described and (key in ("description", "default") or value is False):
            continue
        kept[key] = _value(key, value, known, described, within)
    return kept if described else {key: _loose(key, value) for key, value in kept.items()}


def _loose(key: str, value: Any) -> Any:
    """The parts of an object, less what each of them always has."""
    if key == "properties":
        return {name: _loose("items", part) for name, part in value.items()}
    if key == "items" and isinstance(value, Mapping):
        return {name: part for name, part in value.items() if name != "required"}
    return value


def _value(key: str, value: Any, known: Mapping[str, Any], described: bool, within: tuple[str, ...]) -> Any:
    if key == "properties":
        return {name: _plain(part, known, described, within) for name, part in value.items()}
    if key in ("items", "additionalProperties") and isinstance(value, Mapping):
        return _plain(value, known, described, within)
    if key in ("anyOf", "prefixItems"):
        return [_plain(part, known, described, within) for part in value]
    return value
