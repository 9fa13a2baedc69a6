"""Going on from a checkpoint: which one, whether it belongs to this run, and what may be changed on the way."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints import checkpoints_directory, require_complete, set_partial_aside
from ..config import RunConfig
from ..errors import ConfigError, ConfigProblem, UsageError
from ..events import Listener, RunEvent
from ..models.reference import ResolvedModel
from .micro_batches import first_cut
from .record import config_hash
from .training_state import TrainingState, load_state

# What neither the adapter's shape nor the order of rows depends on.
CHANGEABLE = frozenset(
    {
        "model.attention_implementation",
        "quantization.compute_dtype",
        "lora.dropout",
        "data.check",
        "training.epochs",
        "training.max_steps",
        "training.gradient_checkpointing",
        "training.learning_rate",
        "training.schedule",
        "training.warmup_fraction",
        "training.weight_decay",
        "training.max_gradient_norm",
        "training.evaluation_every_steps",
        "training.evaluation_samples",
        "training.checkpoint_every_steps",
        "training.early_stopping_patience",
        "training.keep_best",
        "training.log_every_steps",
        "training.smoke_generation",
        "training.tracking",
        "output.directory",
        "output.overwrite",
        "output.keep_checkpoints",
    }
)
_SIZES = ("micro_batch_size", "gradient_accumulation_steps")
Opened = tuple[TrainingState, dict[str, Any]]


def open_checkpoint(directory: Path, output: Path, on_event: Listener) -> Opened:
    """The state in the checkpoint `directory` of the run in `output`; damaged ones above it are moved aside, and told.

    Raises `UsageError` where it is not complete or belongs to another output directory.
    """
    directory = directory.absolute()
    if directory.parent != checkpoints_directory(output):
        raise UsageError(
            f"{directory} is not a checkpoint of the run in {output}.",
            next_step=f"Take one of {checkpoints_directory(output)}, or set output.directory to that of the checkpoint.",
        )
    require_complete(directory)
    for aside, problem in set_partial_aside(output):
        on_event(RunEvent("note", f"A checkpoint that is not whole was moved to {aside}: {problem}."))
    on_event(RunEvent("note", f"Going on from {directory}."))
    return load_state(directory)


def ordered_as(opened: Opened | None, config: RunConfig) -> RunConfig:
    """`config` with the micro-batches that the run began with, which order its rows; only where a step holds as many rows."""
    if opened is None:
        return config
    first = {name: opened[1]["config"]["training"][name] for name in _SIZES}
    now = {name: getattr(config.training, name) for name in _SIZES}
    if math.prod(first.values()) != math.prod(now.values()):
        return config
    return config.model_copy(update={"training": config.training.model_copy(update=first)})


def cut_as(state: TrainingState | None, asked: RunConfig, ordered: RunConfig) -> TrainingState | None:
    """`state` with the micro-batches of `asked`, where they are others than those that order the rows."""
    if state is None or asked.training == ordered.training:
        return state
    return replace(state, cut=first_cut(asked.training))


def run_identity(config: RunConfig, resolved: ResolvedModel, rows: str) -> dict[str, Any]:
    """What a checkpoint belongs to: config, base and rows. `rows` is the hash of the tokens and labels of an epoch."""
    return {"config": config.model_dump(mode="json"), "base_config_sha256": config_hash(resolved), "rows_sha256": rows}


def same_run(opened: Opened | None, identity: Mapping[str, Any]) -> TrainingState | None:
    """The state to go on from; raises `UsageError` where base or rows changed, `ConfigError` for a field that may not."""
    if opened is None:
        return None
    state, earlier = opened
    _require_same_config(earlier["config"], identity["config"])
    for name, what in (("base_config_sha256", "base model"), ("rows_sha256", "training data")):
        if earlier[name] != identity[name]:
            raise UsageError(
                f"The {what} is not the one that the checkpoint of step {state.loop.step} was trained with.",
                next_step=f"Put the earlier {what} back, or start a new run.",
            )
    return state


def _require_same_config(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    problems = []
    for part, values in now.items():
        for name, value in values.items():
            field, was = f"{part}.{name}", earlier.get(part, {}).get(name, value)
            if was != value and field not in CHANGEABLE:
                problems.append(ConfigProblem(field, f"was {was} and is {value}; it cannot change when a run goes on"))
    if problems:
        raise ConfigError(problems, source="for this checkpoint")
