"""Settings of a run config that are paths, put in the place of what a caller wrote once the guard has resolved them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qlora_tools.config import RunConfig

_PATHS = ("model.name", "data.path", "data.evaluation_path", "data.more_sources", "output.directory")


def with_resolved_paths(asked: Mapping[str, Any], checked: "RunConfig") -> dict[str, Any]:
    """The settings `asked` (dotted fields) with the paths that stand in the `checked` config."""
    plain = checked.model_dump(mode="json")
    resolved = dict(asked)
    for name in _PATHS:
        if name in asked:
            part, _, last = name.partition(".")
            resolved[name] = plain[part][last]
    return resolved
