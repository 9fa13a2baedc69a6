"""Configs that are given rather than planned: checked, compared, or read from another tool's recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mcp.types import CallToolResult
from pydantic import Field, WithJsonSchema

from qlora_tools.access import Access

from .answers import Structured, answered
from .work import Document

if TYPE_CHECKING:
    from qlora_tools.config import RunConfig
    from qlora_tools.results import ConfigFigures, ImportedConfig

_MOST_BYTES = 4 * 2**20
_MOST_WORDS = 12
_GIB = 2**30
_START = "start_training(config=...) with this config."
_Anything = Annotated[Any, WithJsonSchema({"type": ["string", "number", "boolean", "array", "object", "null"]})]


class PlannedField(Structured):
    """One field of a config, and why it has its value."""

    field: str
    value: _Anything
    reason: str
    source: str | None = None
    effect: str


class ChangedField(Structured):
    """One field that two configs differ in."""

    field: str
    before: _Anything
    after: _Anything
    effect: str
    may_change_on_resume: bool


class GivenUp(Structured):
    """What was given up so that the run fits."""

    change: str
    saved_gib: float
    time_factor: float | None = None
    quality: str


class ConfigAnswer(Structured):
    """A config with its reasons; `fits` and `needed_gib` of plans only, `changes` of comparisons."""

    config: dict[str, dict[str, Any]]
    values: list[PlannedField]
    changes: list[ChangedField] = Field(default_factory=list)
    fits: bool | None = None
    needed_gib: float | None = None
    free_gib: float | None = None
    given_up: list[GivenUp] = Field(default_factory=list)
    smaller_model: str | None = None
    larger_gpu: str | None = None
    steps: int | None = None
    expected_seconds: float | None = None
    notes: list[str] = Field(default_factory=list)
    next_call: str


def checked(access: Access, config: Document) -> CallToolResult:
    """A config with every problem of it, or complete and explained."""
    from qlora_tools.config import dump_config

    parsed = _parsed(access, config)
    text = f"The config is valid.\n{dump_config(parsed)}\nNext: {_START}"
    return answered(text, ConfigAnswer(config=_written(parsed), values=_given_values(parsed), next_call=_START))


def compared(access: Access, config: Document, other: Document) -> CallToolResult:
    """What changes from `config` to `other`, and what it means."""
    from qlora_tools.planning import compare_configs

    before, after = _parsed(access, config), _parsed(access, other)
    found = compare_configs(before, after)
    told = [f"{item.field}: {item.before} -> {item.after}; {item.effect}" for item in found.changes[:_MOST_WORDS]]
    more = len(found.changes) - len(told)
    resumes = "can" if found.resumable else "cannot"
    lines = [
        "They are the same." if found.equal else f"{len(found.changes)} fields change from config to compare_with:",
        *told,
        *([f"and {more} more"] if more else []),
        f"{_figures(found.before)} -> {_figures(found.after)}. A checkpoint of the first {resumes} go on with the second.",
        *found.resume_problems,
        *found.notes,
        f"Next: {found.next_step}",
    ]
    fields = ChangedField.model_fields
    answer = ConfigAnswer(
        config=_written(after),
        values=[],
        changes=[ChangedField(**{name: getattr(item, name) for name in fields}) for item in found.changes],
        notes=[*found.resume_problems, *found.notes],
        next_call=found.next_step,
    )
    return answered("\n".join(lines), answer)


def imported(access: Access, path: Path, output: str | None, settings: Mapping[str, Any]) -> CallToolResult:
    """Another tool's recipe, or a training script, as a config, with what was not carried over."""
    from qlora_tools.foreign.importing import import_config

    found = import_config(text_of(path, "import_path"), name=path.name, output=output, settings=settings)
    parsed = _parsed(access, found.config)
    notes = _account(found)
    lines = [
        f"{found.name} ({found.kind}): {len(found.carried)} values carried as they are.",
        *notes[:_MOST_WORDS],
        found.config_yaml,
        f"Next: {found.next_step}",
    ]
    answer = ConfigAnswer(
        config=_written(parsed),
        values=_given_values(parsed),
        notes=notes,
        next_call=f"Show what changed, then {_START}",
    )
    return answered("\n".join(lines), answer)


def text_of(path: Path, argument: str) -> str:
    """The text of a script or recipe. Raises `UsageError` for what is no text or too large."""
    from qlora_tools.foreign.files import text_of_file

    return text_of_file(path, name=f"{argument}: {path}", most_bytes=_MOST_BYTES)


def _parsed(access: Access, config: Document) -> "RunConfig":
    from qlora_tools.config import parse_config

    return access.checked_config(parse_config(config, source="given"))


def _written(config: "RunConfig") -> Document:
    """The config without its defaults, as it may be given to other tools."""
    whole: Document = config.model_dump(mode="json", exclude_unset=True)
    return whole


def _given_values(config: "RunConfig") -> list[PlannedField]:
    from qlora_tools.config import explain_config

    return [
        PlannedField(field=item.field, value=item.value, reason="as given", effect=item.meaning)
        for item in explain_config(config)
        if not item.is_default
    ]


def _figures(figures: "ConfigFigures") -> str:
    peak = "an unknown peak" if figures.peak_bytes is None else f"{figures.peak_bytes / _GIB:.2f} GiB"
    return f"{peak}, {figures.rows_per_step or '?'} rows a step"


def _account(found: "ImportedConfig") -> list[str]:
    """What is not as the recipe has it, the losses first."""
    lost = [item for item in found.not_carried if not item.harmless]
    return [
        *(f"Not carried: {item.name} = {item.value}: {item.why}. {item.what_to_do}" for item in lost),
        *(f"{item.name} = {item.value} became {item.field} = {item.our_value}: {item.why}" for item in found.changed),
        *(f"Left out by the recipe: {item.field} = {item.taken} as in {item.of}" for item in found.missing),
        *found.notes,
    ]
