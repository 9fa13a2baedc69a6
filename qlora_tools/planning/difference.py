"""What changes from one config to another, and what it means. Light: shapes come from the catalogue or a config.json."""

from typing import Any, Literal

from ..config import RunConfig
from ..errors import ConfigError, ModelError
from ..going_on import CHANGEABLE, require_same_config
from ..memory import estimate_training
from ..memory.weights import adapter_tensors, trained_tables
from ..models.catalogue import CATALOGUE
from ..models.known import find_model
from ..models.reference import ModelReference
from ..models.shape import ModelShape
from ..results import ConfigDifference, ConfigFigures, FieldChange
from .values import field_paths, planned

_SIZES = ("training.micro_batch_size", "training.gradient_accumulation_steps")
_AUTO_DTYPE = "bfloat16"


def compare_configs(before: RunConfig, after: RunConfig) -> ConfigDifference:
    """Every field in which two configs differ and which way it moves quality, memory and speed, with what can be computed.

    Peaks are predicted for rows that fill `training.max_length_tokens`, computed in bf16 where the dtype is `auto`, and only
    for models whose shape is known without a network. Configs that differ in defaults written out are equal.
    """
    changes = _changes(before, after)
    notes: list[str] = []
    figures = [_figures(config, notes) for config in (before, after)]
    problems = _resume_problems(before, after)
    return ConfigDifference(
        equal=not changes,
        changes=changes,
        before=figures[0],
        after=figures[1],
        resumable=not problems,
        resume_problems=problems,
        notes=list(dict.fromkeys(notes)),
        next_step=_next_step(changes, problems),
    )


def _changes(before: RunConfig, after: RunConfig) -> list[FieldChange]:
    first, second = (config.model_dump(mode="json") for config in (before, after))
    found = []
    for path in field_paths():
        part, _, name = path.partition(".")
        was, becomes = first[part][name], second[part][name]
        if was != becomes:
            found.append(
                FieldChange(
                    field=path,
                    before=was,
                    after=becomes,
                    direction=_direction(was, becomes),
                    effect=planned(path, becomes, "", "").effect,
                    may_change_on_resume=path in CHANGEABLE or (path in _SIZES and _same_rows(before, after)),
                )
            )
    return found


def _direction(was: Any, becomes: Any) -> Literal["higher", "lower", "other"]:
    switches = isinstance(was, bool) or isinstance(becomes, bool)
    if switches or not isinstance(was, int | float) or not isinstance(becomes, int | float):
        return "other"
    return "higher" if becomes > was else "lower"


def _same_rows(before: RunConfig, after: RunConfig) -> bool:
    first, second = (
        config.training.micro_batch_size * config.training.gradient_accumulation_steps for config in (before, after)
    )
    return first == second


def _figures(config: RunConfig, notes: list[str]) -> ConfigFigures:
    training = config.training
    rows = training.micro_batch_size * training.gradient_accumulation_steps
    peak, trainable = _of_model(config, notes)
    if training.packing == "bins":
        notes.append(
            "With packing: bins a micro-batch counts bins, so that the rows of a step depend on their lengths."
        )
    return ConfigFigures(
        peak_bytes=peak,
        trainable_parameters=trainable,
        rows_per_step=None if training.packing == "bins" else rows,
        tokens_per_step_at_most=rows * training.max_length_tokens,
    )


def _of_model(config: RunConfig, notes: list[str]) -> tuple[int | None, int | None]:
    """The predicted peak in bytes and the number of trained parameters; None where the model is not known here."""
    try:
        shape = _shape(config)
        if shape is None:
            notes.append(
                f"Memory and trained parameters of {config.model.name} are not known without a network; "
                f"`qlora estimate --model {config.model.name}` fetches its config.json."
            )
            return None, None
        dtype = config.quantization.compute_dtype
        estimate = estimate_training(config, shape, compute_dtype=_AUTO_DTYPE if dtype == "auto" else dtype)
    except (ModelError, ConfigError) as error:
        notes.append(f"Memory and trained parameters of {config.model.name} cannot be computed: {error.message}")
        return None, None
    tensors = adapter_tensors(shape, config.lora)
    trained = sum(elements for block in tensors for elements in block) + sum(trained_tables(shape, config.lora))
    return estimate.mid_bytes, trained


def _shape(config: RunConfig) -> ModelShape | None:
    """The model's shape where the catalogue or a directory tells it, never by the network."""
    name, source = config.model.name, config.model.source
    reference = ModelReference.parse(name, source=source)
    known = any(model.hub_id.lower() == name.lower() for model in CATALOGUE.values())
    if reference.source == "hub" and not known:
        return None
    return find_model(name, source=source).shape


def _resume_problems(before: RunConfig, after: RunConfig) -> list[str]:
    try:
        require_same_config(before.model_dump(mode="json"), after.model_dump(mode="json"))
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def _next_step(changes: list[FieldChange], problems: list[str]) -> str:
    if not changes:
        return "Nothing differs: both configs give the same run."
    if problems:
        return "Train the second config as a run of its own, in an output directory of its own."
    return "A checkpoint of the first goes on with these settings: qlora resume JOB NAME=VALUE, or train the second config."
