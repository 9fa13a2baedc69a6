"""A config for a model, a dataset and the hardware at hand, with the reason beside every value.

A first version: it settles lengths, batches, checkpointing and dtype. What it leaves alone keeps RunConfig's default.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config import RunConfig, parse_config
from ..config.library_arguments import resolve_compute_dtype
from ..errors import UsageError
from ..memory import MemoryEstimate, estimate_memory
from ..models.hardware import Hardware
from ..models.shape import ModelShape

_ROWS_PER_STEP = 16
_MICRO_BATCHES = (16, 8, 4, 2, 1)
_LENGTH_STEP = 32


@dataclass(frozen=True)
class PlannedValue:
    """One value that the plan set, and why."""

    field: str
    value: object
    reason: str


@dataclass(frozen=True)
class Plan:
    """A complete config, the values that were chosen for this case, and the memory they are expected to take."""

    config: RunConfig
    values: tuple[PlannedValue, ...]
    estimate: MemoryEstimate
    fits: bool


def create_config(
    *,
    model: str,
    data: str,
    output: str,
    shape: ModelShape,
    row_lengths: Sequence[int],
    hardware: Hardware,
    rows_per_step: int = _ROWS_PER_STEP,
) -> Plan:
    """Plan a run over rows of `row_lengths` tokens that fits the free memory of `hardware`.

    `fits` is False where even the smallest settings are expected to exceed it.
    """
    if not row_lengths or rows_per_step < 1:
        raise UsageError(
            f"A plan needs at least one row and one row a step (rows: {len(row_lengths)}, rows a step: {rows_per_step}).",
            next_step="Give a dataset with rows.",
        )
    longest = max(row_lengths)
    length = min(2048, -(-longest // _LENGTH_STEP) * _LENGTH_STEP)
    dtype = resolve_compute_dtype("auto", hardware)
    named = {"model": {"name": model}, "data": {"path": data}, "output": {"directory": output}}
    candidates = [
        (size, checkpointing)
        for checkpointing in (False, True)
        for size in _MICRO_BATCHES
        if size <= rows_per_step and rows_per_step % size == 0
    ]
    for size, checkpointing in candidates:
        training = _training(length, size, rows_per_step, checkpointing)
        config = parse_config({**named, "training": training})
        estimate = estimate_memory(config, shape, compute_dtype=dtype)
        if estimate.fits(hardware.free_memory_bytes):
            break
    fits = estimate.fits(hardware.free_memory_bytes)
    reasons = _reasons(longest, hardware, rows_per_step, dtype)
    values = tuple(PlannedValue(f"training.{name}", value, reasons[name]) for name, value in training.items())
    dtype_reason = PlannedValue("quantization.compute_dtype", f"auto ({dtype})", reasons["compute_dtype"])
    return Plan(config, (*values, dtype_reason), estimate, fits)


def _training(length: int, size: int, rows_per_step: int, checkpointing: bool) -> dict[str, Any]:
    return {
        "max_length_tokens": length,
        "micro_batch_size": size,
        "gradient_accumulation_steps": rows_per_step // size,
        "gradient_checkpointing": checkpointing,
    }


def _reasons(longest: int, hardware: Hardware, rows_per_step: int, dtype: str) -> dict[str, str]:
    free = f"{hardware.free_memory_bytes / 2**30:.1f} GiB free"
    return {
        "max_length_tokens": f"the longest row has {longest} tokens; nothing above it is needed, up to 2048",
        "micro_batch_size": f"the largest divisor of {rows_per_step} that is expected to fit into {free}",
        "gradient_accumulation_steps": f"makes {rows_per_step} rows a step, whatever the micro-batch",
        "gradient_checkpointing": "off where activations fit (faster), on where they do not",
        "compute_dtype": f"the fastest that {hardware.name} computes natively is {dtype}",
    }
