"""The public planner: a model, a dataset and a GPU by name."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ..config.overrides import config_with
from ..data.lengths import read_lengths
from ..errors import UsageError
from ..memory.report import hardware_for
from ..models.gpu_here import gpu_here
from ..models.hardware import Hardware
from ..models.known import find_model
from ..models.reference import ModelReference
from .plan import Plan, plan_run
from .values import Goal, PlanRequest, check_request

_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 60


def create_config(
    model: str,
    data: str,
    *,
    gpu: str | None = None,
    memory_limit_gib: float | None = None,
    goal: Goal = "instructions",
    output: str | None = None,
    settings: Mapping[str, Any] | None = None,
    rows_per_step: int = 16,
) -> Plan:
    """Plan a fine-tuning run that fits: `plan.config` is its RunConfig, `plan.values` the reason of every value.

    `goal` is `style` (or a domain), `instructions` or `hard`. Without `gpu` and `memory_limit_gib` the GPU of this machine
    is planned for. `settings` (`{"lora.rank": 64}`) are kept as given. `rows_per_step` is the effective batch.

    Raises `UsageError`, `ConfigError`, `ModelError` and `DataError` for what is unknown or wrong, `MachineError` for a GPU
    that is not supported. A run that does not fit is no error: see `plan.fits`, `plan.ladder`, `plan.smaller_model`.
    """
    request = PlanRequest(model, data, output or output_name(model, data), goal, settings, rows_per_step)
    check_request(request)
    hardware = target_hardware(gpu, memory_limit_gib)
    asked = config_with(request.asked, model=model, data=data, output=request.output)
    known = find_model(model, source=asked.model.source)
    reference = ModelReference.parse(model, source=asked.model.source, revision=asked.model.revision)
    return plan_run(request, known.shape, read_lengths(asked.data, reference), hardware)


def target_hardware(gpu: str | None, memory_limit_gib: float | None) -> Hardware:
    """The machine to plan for: by name, by memory, or the GPU of this machine. Raises `UsageError` where there is none."""
    hardware = hardware_for(gpu, memory_limit_gib) or gpu_here()
    if hardware is None:
        raise UsageError(
            "No GPU was named, and nvidia-smi finds none on this machine.",
            next_step="Name one (--gpu 4090, --gpu t4, --gpu a100-80gb), give its free memory (--memory-limit-gib 24), or "
            "plan for the processor of this machine with --gpu cpu, right for models of some hundred million parameters.",
        )
    return hardware


def output_name(model: str, data: str) -> str:
    """A directory for the results, made of the names of model and dataset."""
    parts = [_NAME.sub("-", name).strip("-.")[:_LONGEST_NAME] for name in (PurePath(model).name, PurePath(data).stem)]
    return "runs/" + ("-".join(part for part in parts if part) or "run")
