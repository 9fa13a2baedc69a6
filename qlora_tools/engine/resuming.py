"""Going on from a checkpoint: which one, whether it belongs to this run, and what may be changed on the way."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..adapters.record import config_hash
from ..checkpoints import require_complete, set_later_aside
from ..config import RunConfig
from ..errors import UsageError
from ..events import Listener, RunEvent
from ..going_on import require_of_output, require_same_config
from ..models.reference import ResolvedModel
from .micro_batches import first_cut
from .training_state import TrainingState, load_state

_SIZES = ("micro_batch_size", "gradient_accumulation_steps")
Opened = tuple[TrainingState, dict[str, Any]]


def open_checkpoint(directory: Path, output: Path) -> Opened:
    """The state in the checkpoint `directory` of the run in `output`.

    Raises `UsageError` where it is not complete or belongs to another output directory.
    """
    require_of_output(directory, output)
    require_complete(directory)
    return load_state(directory)


def leave_other_branches(output: Path, start: TrainingState, on_event: Listener) -> None:
    """Move aside what stands above the step to go on from: it is damaged, or belongs to a course that is left."""
    for aside, problem in set_later_aside(output, start.loop.step):
        on_event(RunEvent("note", f"A later checkpoint was moved to {aside}: {problem}."))
    on_event(RunEvent("note", f"Going on after step {start.loop.step}."))


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
    require_same_config(earlier["config"], identity["config"])
    for name, what in (("base_config_sha256", "base model"), ("rows_sha256", "training data")):
        if earlier[name] != identity[name]:
            raise UsageError(
                f"The {what} is not the one that the checkpoint of step {state.loop.step} was trained with.",
                next_step=f"Put the earlier {what} back, or start a new run.",
            )
    return state
