"""What a plan is made of: values with their reasons, and the words for where a reason comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from ..config import RunConfig
from ..config.overrides import config_with, field_path
from ..errors import UsageError

Goal = Literal["style", "instructions", "hard"]
GOALS: tuple[Goal, ...] = get_args(Goal)

QLORA = "QLoRA, arXiv:2305.14314"
LORA = "LoRA, arXiv:2106.09685"
BIDERMAN = "LoRA Learns Less and Forgets Less, arXiv:2405.09673"
RSLORA = "rsLoRA, arXiv:2312.03732"
EIGHT_BIT = "8-bit Optimizers, arXiv:2110.02861"
CHECKPOINTING = "Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174"
MIXED_PRECISION = "Mixed Precision Training, arXiv:1710.03740"
GRID = "measured: benchmarks/results/memory_grid.json"
HEURISTIC = "heuristic of the field"
DATASET = "your dataset"
ASKED = "asked for"

NAMES = {"model.name": "model", "data.path": "data", "output.directory": "output"}
MOST_ROWS_PER_STEP = 4096


@dataclass(frozen=True)
class PlannedValue:
    """One value of a plan: why it is so, who says so, and what a higher or lower one would do.

    `reason` holds fixed words and numbers only, so that it may stand in a comment of a config.
    """

    field: str
    value: object
    reason: str
    source: str
    effect: str


def planned(field: str, value: object, reason: str, source: str) -> PlannedValue:
    """A planned value, with what another one would do: in short, else as the config's own documentation says it."""
    return PlannedValue(field, value, reason, source, _EFFECTS.get(field) or _documented()[field])


_EFFECTS = {
    "model.name": "larger: better answers, more memory, slower",
    "data.path": "more good rows: better answers, longer",
    "output.directory": "none on quality or memory",
    "lora.rank": "higher: more capacity; adapter, gradients and optimiser grow in proportion",
    "lora.alpha": "higher: stronger updates, like a higher learning rate; no memory",
    "lora.target_modules": "fewer: less memory, less capacity",
    "quantization.kind": "more bits: a little more precision, two or four times the weights",
    "quantization.double_quantization": "off: 0.373 bit a parameter more, no better answers",
    "quantization.compute_dtype": "float32: twice the activations, slower; float16: can overflow",
    "training.epochs": "more: learns the rows better, then by heart; no memory",
    "training.micro_batch_size": "higher: faster until the GPU is full; activations grow in proportion",
    "training.gradient_accumulation_steps": "higher: smoother and fewer steps; no memory",
    "training.max_length_tokens": "higher: keeps longer rows whole; activations grow in proportion",
    "training.gradient_checkpointing": "on: several times fewer activations, slower by a third to a half",
    "training.learning_rate": "higher: learns faster, until the loss jumps; no memory",
    "training.warmup_fraction": "higher: a steadier start, fewer steps at the full rate; no memory",
    "training.optimizer": "32-bit states: four times the bytes, no better answers",
}


@cache
def _documented() -> dict[str, str]:
    return {
        f"{part}.{name}": str(field.description)
        for part, info in RunConfig.model_fields.items()
        for name, field in info.annotation.model_fields.items()  # type: ignore[union-attr]
    }


def field_paths() -> tuple[str, ...]:
    """Every field of a config, in the order of the schema."""
    return tuple(_documented())


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is asked for: names as the config shall hold them, the goal, and settings that must stay as they are.

    `settings` maps dotted fields to values. `rows_per_step` is the effective batch, kept whatever the memory.
    """

    model: str
    data: str
    output: str
    goal: Goal = "instructions"
    settings: Mapping[str, Any] | None = None
    rows_per_step: int = 16

    @property
    def asked(self) -> dict[str, Any]:
        """The settings by their full names. Raises `UsageError` for unknown ones."""
        return {field_path(name): value for name, value in (self.settings or {}).items()}

    def config(self, values: Mapping[str, Any]) -> RunConfig:
        """The config of `values` (dotted fields) for this model, dataset and output."""
        return config_with(values, model=self.model, data=self.data, output=self.output)


def check_request(request: PlanRequest) -> None:
    """Raise `UsageError` or `ConfigError` for a goal, batch or setting that cannot be planned with."""
    if request.goal not in GOALS:
        raise UsageError(f"{request.goal!r} is not a goal.", next_step=f"Choose one of {', '.join(GOALS)}.")
    if not 1 <= request.rows_per_step <= MOST_ROWS_PER_STEP:
        raise UsageError(
            f"{request.rows_per_step} rows a step make no sense; 1 to {MOST_ROWS_PER_STEP} are allowed.",
            next_step="Leave it out for the usual 16.",
        )
    twice = [NAMES[name] for name in request.asked if name in NAMES]
    if twice:
        raise UsageError(
            f"A setting may not name the {' and the '.join(twice)} again.",
            next_step=f"Give it once, as the {twice[0]} of the plan (--{twice[0]}).",
        )
    request.config(request.asked)
