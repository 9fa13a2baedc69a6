"""Reading and writing RunConfigs. Reading reports every problem at once, in the user's terms."""

import difflib
import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import ConfigError, ConfigProblem, UsageError
from ..hiding import hidden_secrets
from .rules import conflicts
from .schema import RunConfig

MAX_CONFIG_CHARACTERS = 100_000
_LOOKED_AT = 2_000
_MOST_PROBLEMS = 100


def load_config(path: Path) -> RunConfig:
    """Read a RunConfig from a YAML or JSON file.

    Raises `UsageError` when the file cannot be read, `ConfigError` with all problems when its content is invalid.
    """
    return parse_config(_read_mapping(path), source=str(path))


def parse_config(raw: Mapping[str, Any], *, source: str = "given") -> RunConfig:
    """Validate a mapping of the form that YAML or JSON gives; raises `ConfigError` with all problems."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        # Near names are looked for among all fields, for each that does not exist.
        fields = [_problem(detail) for detail in error.errors(include_url=False)[:_MOST_PROBLEMS] if detail["loc"]]
        raise ConfigError(_distinct(fields + conflicts(_valid_parts(raw))), source=source) from None


def dump_config(config: RunConfig, *, as_json: bool = False, complete: bool = False) -> str:
    """The config as text, `complete` with defaults or as short as it was written; loads back to an equal config."""
    values = config.model_dump(mode="json", exclude_unset=not complete)
    if as_json:
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    return yaml.dump(values, Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True)


def config_schema() -> dict[str, Any]:
    """The JSON Schema of RunConfig."""
    return RunConfig.model_json_schema()


def parse_config_text(text: str, *, source: str) -> Mapping[str, Any]:
    """The mapping in a YAML or JSON text; raises `UsageError` naming line and column where it is neither."""
    if len(text) > MAX_CONFIG_CHARACTERS:
        message = f"The config {source} is over {MAX_CONFIG_CHARACTERS:,} characters, too large for a config."
        raise UsageError(message, next_step="Check the path.")
    try:
        value = _as_json(text) if text.lstrip().startswith("{") else None
        value = _ConfigLoader(text).get_single_data() if value is None else value
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        message = f"The config {source} is not valid YAML or JSON: {_yaml_reason(error)}"
        raise UsageError(message, next_step="Mend that line.") from None
    if not isinstance(value, dict):
        found = "empty" if value is None else f"a {type(value).__name__}"
        message = f"The config {source} is {found}, not a mapping with model, data and output."
        raise UsageError(message, next_step=_EXAMPLE)
    return value


def _read_mapping(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > 4 * MAX_CONFIG_CHARACTERS:
            message = f"{path} is over {4 * MAX_CONFIG_CHARACTERS:,} bytes, too large for a config."
            raise UsageError(message, next_step="Check the path.")
        return parse_config_text(path.read_text(encoding="utf-8-sig"), source=str(path))
    except FileNotFoundError:
        raise UsageError(f"There is no config file {path}.", next_step=nearest_file(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error.strerror).lower()
        message = f"The config {path} cannot be read: {reason}."
        raise UsageError(message, next_step="Check the path and the file.") from None


_EXAMPLE = "The shortest config: {model: {name: ...}, data: {path: ...}, output: {directory: ...}}."


def _as_json(text: str) -> Any:
    """The JSON value, or None where the text is YAML in braces; its escapes and tabs are not YAML's."""
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except json.JSONDecodeError:
        return None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} stands twice")
    return mapping


class _Words:
    """What YAML reads as other than text, the same for reading and writing: `2e-4` is a number, `off` and dates are words."""

    _FLOAT = "tag:yaml.org,2002:float"
    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {
        first: [
            (tag, re.compile(r"^(?:true|false)$") if tag.endswith("bool") else pattern)
            for tag, pattern in resolvers
            if not tag.endswith("timestamp")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for _first in "-+0123456789":
        _pattern = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
        yaml_implicit_resolvers[_first] = [*yaml_implicit_resolvers.get(_first, []), (_FLOAT, _pattern)]


class _ConfigLoader(_Words, yaml.SafeLoader):
    """Safe YAML in which a key may stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, str) or key in seen:
                problem = f"key {key!r} stands twice" if isinstance(key, str) else f"key {key!r} is not text"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _ConfigDumper(_Words, yaml.SafeDumper):
    """Quotes whatever the loader would not read back as text."""


def _yaml_reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "problem", None) or str(error)
    return f"{place}{reason}."


def nearest_file(path: Path) -> str:
    """What to do about a file that is not there: the file beside it whose name is nearest, if one is near."""
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"Did you mean {path.parent / near[0]}?" if near else "Check the path."


def _valid_parts(raw: Mapping[str, Any]) -> dict[str, BaseModel]:
    """Those parts of `raw` that are valid by themselves, absent ones with their defaults."""
    parts: dict[str, BaseModel] = {}
    for name, field in RunConfig.model_fields.items():
        model = field.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        try:
            parts[name] = model.model_validate(raw.get(name, {}))
        except ValidationError:
            continue
    return parts


def _problem(detail: ErrorDetails) -> ConfigProblem:
    # Pydantic names the branch of a union in the location; users know only the field.
    location = [str(part) for part in detail["loc"] if not str(part).startswith(("literal[", "tuple[", "function-"))]
    field = ".".join(location)
    if detail["type"] == "extra_forbidden":
        return ConfigProblem(field, f"there is no such field{_nearest_field(location)}")
    if detail["type"] == "missing":
        return ConfigProblem(field, "is required")
    # Not repr(): through YAML aliases a few hundred characters can stand for gigabytes.
    given = detail["input"]
    # Secrets first: what is cut is no longer recognised.
    shown = reprlib.repr(hidden_secrets(given[:_LOOKED_AT]) if isinstance(given, str) else given)
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return ConfigProblem(field, f"{message} (is {shown})")


def _nearest_field(location: list[str]) -> str:
    parts = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    known = {f"{part}.{name}" for part, model in parts.items() if model is not None for name in model.model_fields}
    by_name = {name.split(".")[1]: name for name in sorted(known, reverse=True)}
    near = difflib.get_close_matches(location[-1], [*by_name, *parts], n=1)
    inside = difflib.get_close_matches(".".join(location), known, n=1)
    best = by_name.get(near[0], near[0]) if near else inside[0] if inside else None
    same_part = f"{location[0]}.{near[0]}" if near else ""
    best = same_part if same_part in known else best
    return f"; did you mean {best}?" if best else "; `qlora config schema` lists the fields"


def _distinct(problems: list[ConfigProblem]) -> list[ConfigProblem]:
    """One problem a field, the first said: a union reports each branch that did not match, the deepest knows best."""
    seen: dict[str, ConfigProblem] = {}
    for problem in problems:
        if not any(other.field.startswith(problem.field + ".") for other in problems):
            seen.setdefault(problem.field, problem)
    return list(seen.values())
