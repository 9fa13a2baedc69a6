"""Everything that decides how training goes on after a step: taken from a trainer, put into a new one, kept on disk.

Safetensors and JSON only. Transformers' own checkpoints are pickles, are written in place, and are not used.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..checkpoints import write_checkpoint
from ..durable import as_json
from ..errors import DiskSpaceError
from ..going_on import STATE_FILE
from .optimizer_state import ParameterStates, from_tensors, put_optimizer, take_optimizer, to_tensors
from .output import full_disk_as_oserror
from .random_state import RandomState

WEIGHTS_FILE, OPTIMIZER_FILE = "adapter.safetensors", "optimizer.safetensors"
# What must stay free beside a checkpoint: logs, metrics, and the adapter's tokenizer.
_SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class MicroBatches:
    """How a step is cut: rows or bins at once, and how often. `bin_parts` parts make one bin of `max_length_tokens`."""

    size: int
    accumulation: int
    evaluation_size: int
    bin_parts: int = 1


@dataclass
class BestEvaluation:
    """The best evaluation so far, and how many have passed since."""

    loss: float | None = None
    step: int | None = None
    without_gain: int = 0
    stopped_early: bool = False


@dataclass(frozen=True)
class LoopState:
    """Where the loop stands after `step`: sums that the next log needs, and the random state of that moment.

    `window_loss` is the sum of losses since step `last_logged`, a tensor on the device until it is saved. `usual_norm` is
    the mean of the logarithms of gradient norms, and of how many.
    """

    step: int
    random: RandomState
    window_loss: torch.Tensor
    last_logged: int
    tokens: int = 0
    window_metrics: Mapping[str, list[float]] = field(default_factory=dict)
    evaluation_due: bool = False
    usual_norm: tuple[float, int] = (0.0, 0)


@dataclass(frozen=True)
class TrainingState:
    """One step's end as a whole. `adapter` and `optimizer` refer to the living tensors until they are saved or put."""

    loop: LoopState
    adapter: dict[str, torch.Tensor]
    optimizer: ParameterStates
    scaler: dict[str, Any] | None
    cut: MicroBatches
    best: BestEvaluation
    recoveries: tuple[dict[str, Any], ...] = ()

    @classmethod
    def take(cls, trainer: Any, loop: LoopState, cut: MicroBatches, best: BestEvaluation) -> "TrainingState":
        """References to what `trainer` holds now, which must be what it held after `loop.step`."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # paged states are read by the host
        scaler = trainer.accelerator.scaler
        return cls(
            loop,
            trained_weights(trainer.model),
            take_optimizer(trainer.optimizer, trainer.model) if trainer.optimizer is not None else {},
            scaler.state_dict() if scaler is not None else None,
            cut,
            replace(best),
        )

    def put(self, trainer: Any) -> None:
        """Make `trainer`, which has made its optimiser and schedule but no step, stand where this state stood."""
        put_weights(trainer.model, self.adapter)
        put_optimizer(trainer.optimizer, trainer.model, self.optimizer)
        _set_schedule(trainer.lr_scheduler, self.loop.step)
        if self.scaler is not None and trainer.accelerator.scaler is not None:
            trainer.accelerator.scaler.load_state_dict(self.scaler)
        trainer.state.global_step = self.loop.step
        put_loop(trainer, self.loop)


def put_loop(trainer: Any, loop: LoopState) -> None:
    """Set the sums of `trainer` to those of `loop`; the random state is put later, when the first batch is there."""
    trainer._tr_loss.copy_(loop.window_loss)
    trainer._globalstep_last_logged = loop.last_logged
    trainer._total_train_tokens = loop.tokens
    trainer._metrics["train"].clear()
    trainer._metrics["train"].update({name: list(values) for name, values in loop.window_metrics.items()})


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """The trained parameters by name: references."""
    return {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}


def put_weights(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy `weights` into the parameters of the same names."""
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        if parameters[name].data is not value:
            parameters[name].data.copy_(value)


def save_state(state: TrainingState, output: Path, identity: Mapping[str, Any]) -> Path:
    """Write `state` as checkpoint `step-N` of `output`, whole or not at all, and return its directory.

    `identity` says what run it belongs to. Raises `DiskSpaceError` before anything is written where the space is short,
    `OSError` where the disk fills up on the way.
    """
    optimizer, numbers = to_tensors(state.optimizer)
    weights = {name: value.detach().to("cpu").contiguous() for name, value in state.adapter.items()}
    needed = sum(tensor.nbytes for tensor in (*optimizer.values(), *weights.values()))
    require_space(output, needed)
    loop = state.loop
    described = {
        "identity": dict(identity),
        "loop": {
            "step": loop.step,
            "last_logged": loop.last_logged,
            "tokens": loop.tokens,
            "window_metrics": {name: list(values) for name, values in loop.window_metrics.items()},
            "evaluation_due": loop.evaluation_due,
            "usual_norm": list(loop.usual_norm),
        },
        "random": loop.random.scalars(),
        "optimizer": numbers,
        "scaler": state.scaler,
        "micro_batches": asdict(state.cut),
        "best": asdict(state.best),
        "recoveries": list(state.recoveries),
    }

    def fill(directory: Path) -> None:
        small = {**loop.random.tensors(), "window_loss": loop.window_loss.detach().to("cpu", copy=True)}
        with full_disk_as_oserror():
            save_file(weights, directory / WEIGHTS_FILE)
            save_file({**optimizer, **small}, directory / OPTIMIZER_FILE)
        (directory / STATE_FILE).write_bytes(as_json(described))
        _require_readable(directory / WEIGHTS_FILE, weights)

    return write_checkpoint(output, loop.step, fill)


def load_state(directory: Path) -> tuple[TrainingState, dict[str, Any]]:
    """The state in a complete checkpoint, on the host, and the identity of its run."""
    described = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
    tensors = load_file(directory / OPTIMIZER_FILE)
    random_names = [name for name in tensors if name.startswith("rng.")]
    random = RandomState.from_parts({name: tensors.pop(name) for name in random_names}, described["random"])
    mean, seen = described["loop"].pop("usual_norm")
    loop = LoopState(
        random=random, window_loss=tensors.pop("window_loss"), usual_norm=(mean, seen), **described["loop"]
    )
    state = TrainingState(
        loop,
        load_file(directory / WEIGHTS_FILE),
        from_tensors(tensors, described["optimizer"]),
        described["scaler"],
        MicroBatches(**described["micro_batches"]),
        BestEvaluation(**described["best"]),
        tuple(described["recoveries"]),
    )
    return state, described["identity"]


def load_weights(directory: Path) -> dict[str, torch.Tensor]:
    """The trained weights of a checkpoint, on the host."""
    return load_file(directory / WEIGHTS_FILE)


def require_space(output: Path, needed: int) -> None:
    """Raise `DiskSpaceError` unless a checkpoint of `needed` bytes fits beside what must stay free."""
    free = shutil.disk_usage(output).free
    if free < needed + _SPARE_BYTES:
        size = f"{needed / 2**20:.0f} MiB" if needed >= 2**20 else "less than 1 MiB"
        raise DiskSpaceError(
            f"A checkpoint of {size} does not fit: {free / 2**20:.0f} MiB are free at {output}, and "
            f"{_SPARE_BYTES / 2**20:.0f} MiB must stay free.",
            next_step="Free space there, then resume.",
        )


def _set_schedule(schedule: Any, step: int) -> None:
    """Put the learning rate where `step` steps would have brought it: all of our schedules are functions of the step."""
    rates = [base * rate(step) for base, rate in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    schedule.last_epoch, schedule._step_count, schedule._last_lr = step, step + 1, rates
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _require_readable(path: Path, written: Mapping[str, torch.Tensor]) -> None:
    """A last look at what the disk gives back, before the checkpoint is called complete."""
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != written.keys():
            raise OSError(f"{path} does not hold what was written to it")
