"""Types of arguments that several tools share, with bounds and words."""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from qlora_tools.errors import QloraError

_LONGEST_PATH = 4096
_MOST_SETTINGS = 64
_MOST_CONFIG = 20_000
_MOST_BRACKETS = 200


def _as_mapping(value: Any) -> Any:
    """A config that was written as YAML or JSON text is read; anything else is left to the type check.

    Bounded before anybody looks closer: a config has some sixty fields, and looking takes time for each.
    """
    text = value if isinstance(value, str) else json.dumps(value, default=str) if isinstance(value, dict) else ""
    if len(text) > _MOST_CONFIG or text.count("{") + text.count("[") > _MOST_BRACKETS:
        raise ValueError(
            f"is too large for a config: {_MOST_CONFIG:,} characters and {_MOST_BRACKETS} brackets are allowed"
        )
    if not isinstance(value, str):
        return value
    from qlora_tools.config.files import parse_config_text

    try:
        return parse_config_text(value, source="given")
    except QloraError as error:
        raise ValueError(error.message) from None


def _not_empty(text: str) -> str:
    """As the schema could say too, for tokens with each path argument; empty text would pass for "not given"."""
    if not text:
        raise ValueError("is empty")
    return text


# `format: path` marks what the workspace guard checks; tests find path arguments by it.
PathText = Annotated[
    str, Field(max_length=_LONGEST_PATH, json_schema_extra={"format": "path"}), AfterValidator(_not_empty)
]
Model = Annotated[
    str,
    Field(
        max_length=_LONGEST_PATH,
        json_schema_extra={"format": "path"},
        description="Catalogue name, Hub id (owner/name) or ./directory.",
    ),
    AfterValidator(_not_empty),
]
Gpu = Annotated[str, Field(max_length=100, description="t4, 4090, h100, cpu ... Default: this machine's.")]
MemoryLimit = Annotated[float, Field(ge=0.5, le=4096, description="Free GPU memory in GiB.")]
Settings = Annotated[
    dict[str, Any],
    Field(
        max_length=_MOST_SETTINGS,
        description='Run config fields: {"rank": 64}. All: qlora://config/schema.',
    ),
]
# A config of a tool that says itself what it takes it for.
KnownConfig = Annotated[dict[str, Any], BeforeValidator(_as_mapping)]
PlannedConfig = Annotated[KnownConfig, Field(description="As of create_config.")]
Config = Annotated[
    dict[str, Any],
    BeforeValidator(_as_mapping),
    Field(description="Run config: {model: {name}, data: {path}, output: {directory}, ...}."),
]
Adapter = Annotated[PathText, Field(description="A job's id, or the output directory of a run.")]
IdempotencyKey = Annotated[str, Field(max_length=200, description="Same key, one job.")]
DryRun = Annotated[bool, Field(description="Check, start nothing.")]
JobId = Annotated[str, Field(max_length=200, description="Id, its beginning, name, or last.")]
