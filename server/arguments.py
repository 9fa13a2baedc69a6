"""Types of arguments that several tools share, with bounds and words."""

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

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


# `format: path` marks what the workspace guard checks; tests find path arguments by it.
PathText = Annotated[str, Field(min_length=1, max_length=_LONGEST_PATH, json_schema_extra={"format": "path"})]
Model = Annotated[
    str,
    Field(
        min_length=1,
        max_length=_LONGEST_PATH,
        json_schema_extra={"format": "path"},
        description="Catalogue name (llama-3.1-8b-instruct), Hub id (owner/name), or ./directory.",
    ),
]
Gpu = Annotated[
    str, Field(max_length=100, description="t4, 4090, a100-80gb, h100, cpu ... Default: this machine's GPU.")
]
MemoryLimit = Annotated[float, Field(ge=0.5, le=4096, description="Free GPU memory in GiB.")]
Settings = Annotated[
    dict[str, Any],
    Field(
        max_length=_MOST_SETTINGS,
        description='Run config fields, such as {"max_length_tokens": 4096, "rank": 64}. All: qlora://config/schema.',
    ),
]
Config = Annotated[
    dict[str, Any],
    BeforeValidator(_as_mapping),
    Field(description="Run config: {model: {name}, data: {path}, output: {directory}, training: {...}, ...}."),
]
JobId = Annotated[str, Field(min_length=1, max_length=200, description="Id, its beginning, name, or last.")]
