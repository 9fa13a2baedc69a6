"""What a run may go on with: which settings may change at a checkpoint, and which checkpoints are its own. Light."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoints import checkpoints_directory
from .errors import ConfigError, ConfigProblem, UsageError

STATE_FILE = "state.json"
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
        "training.memory_limit_gib",
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


def config_of(checkpoint: Path) -> dict[str, Any]:
    """The complete config that the run of a complete checkpoint had. Raises `UsageError` where it cannot be read."""
    try:
        config: dict[str, Any] = dict(
            json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))["identity"]["config"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"The config in {checkpoint / STATE_FILE} cannot be read: {error}.", next_step="Take another checkpoint."
        ) from None
    return config


def require_same_config(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ConfigError` with every field of the complete config `now` that may not differ from `earlier`.

    Micro-batches may be others as long as a step holds as many rows.
    """
    problems = []
    for part, values in now.items():
        for name, value in values.items():
            field, was = f"{part}.{name}", earlier.get(part, {}).get(name, value)
            if was != value and field not in CHANGEABLE and not (name in _SIZES and _same_step(earlier, now)):
                problems.append(ConfigProblem(field, f"was {was} and is {value}; it cannot change when a run goes on"))
    if problems:
        raise ConfigError(problems, source="for this checkpoint")


def require_of_output(checkpoint: Path, output: Path) -> None:
    """Raise `UsageError` unless `checkpoint` is named as one of the run that writes to `output`."""
    if checkpoint.absolute().parent != checkpoints_directory(output):
        raise UsageError(
            f"{checkpoint} is not a checkpoint of the run in {output}.",
            next_step=f"Take one of {checkpoints_directory(output)}, or move the output directory back to its place.",
        )


def _same_step(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    first, second = (config["training"][_SIZES[0]] * config["training"][_SIZES[1]] for config in (earlier, now))
    return bool(first == second)
