"""What a run is expected to take, from the rows that it will really see, and what it took."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from ..config.schema import RunConfig
from ..data.rows import TokenRows
from ..errors import ConfigError, ModelError
from ..memory.estimate import MemoryEstimate, estimate_training
from ..memory.history import RunRecord, record_run
from ..memory.training import Workload
from ..memory.weights import check_modules
from ..models.hardware import Hardware
from ..models.shape import ModelShape
from .batches import Layout
from .device import PeakMemory


def expected_memory(
    config: RunConfig,
    values: Mapping[str, Any],
    rows: TokenRows,
    *,
    layout: Layout,
    compute_dtype: str,
    hardware: Hardware,
) -> MemoryEstimate | None:
    """The estimate for the longest rows there are, padded to each other where their lengths differ.

    None for a model whose config.json `values` do not tell its shape: that is no reason not to train it.
    """
    try:
        shape = ModelShape.from_config(values)
        check_modules(shape, config.lora)
    except (ModelError, ConfigError):
        return None
    lengths = [len(row.input_ids) for row in rows.rows]
    longest = config.training.max_length_tokens if layout == "bins" else max(lengths)
    side_by_side = layout == "off" and config.training.micro_batch_size > 1
    workload = Workload(
        learnt_fraction=sum(row.learnt_tokens for row in rows.rows) / max(1, rows.tokens),
        padded=side_by_side and min(lengths) != longest,
    )
    training = config.training.model_copy(update={"max_length_tokens": longest})
    return estimate_training(
        config.model_copy(update={"training": training}),
        shape,
        compute_dtype=compute_dtype,
        hardware=hardware,
        workload=workload,
    )


def predicted_peak(estimate: MemoryEstimate, hardware: Hardware) -> int:
    """What the peak of a run is compared with: on a GPU what torch allocates, on a CPU the whole process."""
    return estimate.mid_bytes if hardware.kind == "cuda" else estimate.device_bytes


def remember_run(config: RunConfig, estimate: MemoryEstimate | None, measured: PeakMemory, hardware: Hardware) -> None:
    """Record predicted and measured peak for later estimates on this machine."""
    if estimate is None:
        return
    record_run(
        RunRecord(
            date=str(date.today()),
            device=hardware.name,
            model=config.model.name,
            quantization=config.quantization.kind,
            predicted_bytes=predicted_peak(estimate, hardware),
            high_bytes=estimate.high_bytes,
            measured_bytes=measured.allocated_bytes,
        )
    )
