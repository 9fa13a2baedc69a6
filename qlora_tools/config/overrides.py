"""Single settings from a command line or a tool call: `lora.rank=32`, or `rank=32` where the name is unique."""

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from ..errors import UsageError
from ..hiding import hidden_secrets
from .files import parse_config, parse_config_text
from .schema import RunConfig

_LONGEST_NAME = 100


def settings_from_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` texts as a mapping of dotted fields; values are read as YAML reads them. Raises `UsageError`."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip() or "\n" in pair:
            raise UsageError(
                f"{pair!r} is not a setting of the form name=value.", next_step="Write for example rank=32."
            )
        path = field_path(name.strip())
        if path in settings:
            raise UsageError(f"{path} is given twice.", next_step="Give each setting once.")
        settings[path] = parse_config_text(f"value: {value.strip()}", source=pair)["value"]
    return settings


def field_path(name: str) -> str:
    """The dotted field that `name` means; raises `UsageError` with the nearest names."""
    paths = _paths()
    if name in paths:
        return name
    meant = [path for path in paths if path.rsplit(".", 1)[-1] == name]
    if len(meant) == 1:
        return meant[0]
    lasts = {path.rsplit(".", 1)[-1]: path for path in paths}
    near = meant or [
        lasts.get(word, word) for word in difflib.get_close_matches(name[:_LONGEST_NAME], [*lasts, *paths], n=3)
    ]
    hint = f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    shown = hidden_secrets(name)[:_LONGEST_NAME]
    raise UsageError(
        f"No setting is called {shown!r}{hint}", next_step="`qlora config schema` lists every field of a config."
    )


def config_with(
    settings: Mapping[str, Any], *, model: str = "any", data: str = "any", output: str = "any"
) -> RunConfig:
    """A RunConfig of defaults and `settings` (dotted fields); raises `ConfigError` with all problems."""
    parts: dict[str, dict[str, Any]] = {"model": {"name": model}, "data": {"path": data}}
    parts["output"] = {"directory": output}
    for path, value in settings.items():
        part, _, name = field_path(path).partition(".")
        parts.setdefault(part, {})[name] = value
    return parse_config(parts, source="in the settings")


@cache
def _paths() -> tuple[str, ...]:
    return tuple(
        f"{part}.{name}"
        for part, info in RunConfig.model_fields.items()
        for name in info.annotation.model_fields  # type: ignore[union-attr]
    )
