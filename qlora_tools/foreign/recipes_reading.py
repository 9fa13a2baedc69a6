"""Reading the YAML or JSON of somebody else's recipe: plain data only, whatever it holds, and within limits."""

import json
import re
import reprlib
from collections.abc import Mapping
from typing import Any

import yaml

from ..config.files import MAX_CONFIG_CHARACTERS
from ..errors import UsageError
from ..hiding import hidden_secrets
from ..untrusted import visible_text

_MERGE = "tag:yaml.org,2002:merge"
_SECRET_NAMES = re.compile(r"(^|[._\[(])(\w*_)?(token|api_key|key|secret|password|passwd|webhook_url)$", re.IGNORECASE)
_NOT_SECRET = re.compile(r"(bos|eos|pad|unk|cls|sep|mask|image|video)_token$", re.IGNORECASE)
_LONGEST_SHOWN = 160


class _RecipeLoader(yaml.SafeLoader):
    """Safe YAML as the other tools read it: `off` is a switch, `2e-4` is text, the last of two equal keys counts."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # Merging lists of merged mappings doubles again and again: a few lines could fill the memory.
        merged = [value for key, value in node.value if key.tag == _MERGE]
        if len(merged) > 1 or any(isinstance(value, yaml.SequenceNode) for value in merged):
            raise yaml.constructor.ConstructorError(None, None, "more than one mapping is merged", node.start_mark)
        super().flatten_mapping(node)  # type: ignore[no-untyped-call]


def read_recipe(text: str, *, name: str) -> dict[str, Any]:
    """The mapping in a recipe of YAML or JSON; raises `UsageError` with line and column where it is none."""
    if len(text) > MAX_CONFIG_CHARACTERS:
        raise UsageError(
            f"The recipe {name} is over {MAX_CONFIG_CHARACTERS:,} characters, too large for a recipe.",
            next_step="Check the path.",
        )
    try:
        value = _json_value(text) if text.lstrip().startswith("{") else None
        value = _RecipeLoader(text).get_single_data() if value is None else value
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        reason = hidden_secrets(visible_text(_reason(error)))
        raise UsageError(
            f"The recipe {name} is not valid YAML or JSON: {reason}", next_step="Mend that line."
        ) from None
    if not isinstance(value, dict) or not value:
        found = "empty" if not value else f"a {type(value).__name__}"
        raise UsageError(
            f"The recipe {name} is {found}, not a mapping of settings.",
            next_step="Give an Axolotl or LLaMA-Factory recipe, a training script, or a notebook.",
        )
    return {str(key): item for key, item in value.items()}


def shown_value(name: str, value: Any) -> str:
    """A foreign value as it may be shown: one short line without secrets and hidden characters.

    `name` is the key it stands under: what is called a token or a password is never shown.
    """
    if _is_secret(name, value):
        return "[secret]"
    # Not str(): through YAML aliases a few hundred characters can stand for gigabytes.
    text = value[: 4 * _LONGEST_SHOWN] if isinstance(value, str) else _SHORT.repr(value)
    text = " ".join(visible_text(hidden_secrets(text)).split())
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 4] + " ..."


def _is_secret(name: str, value: Any) -> bool:
    named = _SECRET_NAMES.search(name) and not _NOT_SECRET.search(name)
    return isinstance(value, str) and bool(value) and bool(named)


class _Short(reprlib.Repr):
    """Like `reprlib.Repr`, but what stands under the name of a secret is hidden inside mappings too."""

    def repr_dict(self, x: Mapping[Any, Any], level: int) -> str:  # type: ignore[override]
        hidden = {
            key: "[secret]" if _is_secret(str(key), value) else value
            for key, value in list(x.items())[: self.maxdict + 1]
        }
        return super().repr_dict(hidden, level)


_SHORT = _Short()
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxtuple = 8
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, _LONGEST_SHOWN, _LONGEST_SHOWN


def _json_value(text: str) -> Any:
    """The JSON value, or None where the text is YAML in braces."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "problem", None) or str(error)
    return f"{place}{reason}."
