"""Peak memory of a task on a model: what torch allocates and reserves, what nvidia-smi shows, and how sure that is."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

from ..config.schema import RunConfig
from ..models.hardware import Hardware
from ..models.shape import ModelShape
from .fast_engine import FastTraining
from .fast_limits import why_not_fast
from .kept_layers import KeptLayers, most_kept
from .training import Peak, Workload, training_peak
from .weights import check_modules

_MIB = 2**20
_GIB = 2**30
# cuBLAS keeps a workspace for the main and for the backward thread: 32 MiB each on Hopper and later, 8.1 MiB before
# (torch's defaults); 2 MiB more were measured. All of it is allocated through torch.
_WORKSPACE = {True: 66 * _MIB, False: 18 * _MIB}
# Outside torch's counters: CUDA context and kernels, on an H100 after the first run, without paged state. Others: assumed.
_CONTEXT = {True: 800 * _MIB, False: 512 * _MIB}
# A CPU run is a whole Python process: the libraries' code and tables, measured with the demo.
_PROCESS = 1024 * _MIB
# Share of what comes and goes that the allocator cannot use again (expandable segments). Fitted on the rows of
# memory_grid.json that are not held out, with and without checkpointing.
_FRAGMENTATION = {True: 0.35, False: 0.27}
# What the allocator reserved beyond that in the worst rows of the grid.
_FRAGMENTED = 0.04
# Around the middle figure: dense models of known families; where the peak depends on the data; families by guess.
_DOUBT, _DATA_DOUBT, _UNKNOWN_DOUBT = 0.02, 0.10, 0.15
_LEAST_LEARNT = 0.1
_TILES_WITHOUT_TRITON = 9
_FIXED = (
    "base weights",
    "quantisation constants",
    "experts (not quantised)",
    "embeddings and head",
    "norms and biases",
    "adapter (fp32)",
    "adapter copies (fast engine)",
    "decoded weights",
    "optimiser state",
    "gradients (fp32)",
    "batch and masks",
    "saved activations",
)


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory in bytes. `parts` sum to what torch allocates at the fullest moment, `moment`.

    `low_bytes` and `high_bytes` bound what torch allocates: rows may be padded or learn few tokens, and some peaks depend
    on the data. `slack_bytes` is reserved by the allocator but unused. `context_bytes` (CUDA, loaded kernels) and
    `paged_bytes` (optimiser state in managed memory, which may move to the host) are not counted by torch.
    `kept` are the layers whose activations the fast engine keeps; None for the stock engine.
    """

    parts: dict[str, int]
    moment: str
    low_bytes: int
    high_bytes: int
    slack_bytes: int
    context_bytes: int
    paged_bytes: int
    kept: KeptLayers | None = None

    @property
    def engine(self) -> Literal["stock", "fast"]:
        """The engine that was counted."""
        return "stock" if self.kept is None else "fast"

    def kept_words(self) -> str | None:
        """How many layers are kept and how much of the limit that needs: `17 of 32 layers kept, 21.9 of 24.0 GiB`.

        None where no limit decided it.
        """
        kept = self.kept
        if kept is None or kept.limit_bytes is None:
            return None
        needed, limit = self.needed_bytes / _GIB, kept.limit_bytes / _GIB
        others = ", inputs of the others on the host" if kept.on_host else ""
        return f"{kept.count} of {kept.layers} layers kept{others}, {needed:.1f} of {limit:.1f} GiB"

    @property
    def mid_bytes(self) -> int:
        """Expected peak of what torch allocates (`torch.cuda.max_memory_allocated`)."""
        return sum(self.parts.values())

    @property
    def reserved_bytes(self) -> int:
        """Expected peak of what torch reserves (`torch.cuda.max_memory_reserved`, expandable segments)."""
        return self.mid_bytes + self.slack_bytes

    @property
    def device_bytes(self) -> int:
        """What nvidia-smi would show."""
        return self.reserved_bytes + self.context_bytes + self.paged_bytes

    @property
    def needed_bytes(self) -> int:
        """What should be free to be sure: the high figure, a fragmented allocator, and what torch does not count."""
        reserved = self.high_bytes + self.slack_bytes + round(_FRAGMENTED * self.mid_bytes)
        return reserved + self.context_bytes + self.paged_bytes

    def fits(self, free_bytes: int) -> bool:
        """Whether the task fits for sure into so much free memory."""
        return self.needed_bytes <= free_bytes


def estimate_training(
    config: RunConfig,
    shape: ModelShape,
    *,
    compute_dtype: str,
    hardware: Hardware | None = None,
    workload: Workload | None = None,
) -> MemoryEstimate:
    """Peak of training `config` on a model of `shape` with matrix products in `compute_dtype`.

    `training.engine: fast` is counted as such where the fast engine knows model and settings, else the stock engine is. With
    `training.memory_limit_gib` it keeps as many layers as are sure to fit, by `needed_bytes`, into the limit and into what is
    free on `hardware`, and where not even none is, inputs of layers wait on the host. Without a limit it keeps none or all,
    as `training.gradient_checkpointing` says.

    `workload` says more about the rows; without it they fill the length and all tokens are learnt, and the band covers
    padded rows and few learnt tokens. `hardware` tells the size of workspaces and of the CUDA context.

    Raises `ConfigError` for target modules and modules to save that the model does not have.
    """
    check_modules(shape, config.lora)
    count = partial(_estimate, config, shape, hardware=hardware, workload=workload)
    checkpointing = config.training.gradient_checkpointing
    on_cpu, layers = hardware is not None and hardware.kind == "cpu", shape.layers
    if config.training.engine != "fast" or why_not_fast(config, shape, "cpu" if on_cpu else "cuda") is not None:
        return count(partial(training_peak, config, shape, compute_dtype=compute_dtype), checkpointing=checkpointing)
    limit = _limit_bytes(config, hardware) if checkpointing else None

    def planned(*, on_host: bool) -> MemoryEstimate:
        fast = FastTraining(config, shape, compute_dtype, on_cpu=on_cpu, on_host=on_host)

        @cache
        def with_kept(kept: int) -> MemoryEstimate:
            found = count(partial(fast.peak, kept=kept), checkpointing=kept < layers)
            return replace(found, kept=KeptLayers(kept, layers, limit, on_host))

        if limit is None:
            return with_kept(0 if checkpointing else layers)
        return with_kept(most_kept(lambda kept: with_kept(kept).needed_bytes, layers, limit))

    here = planned(on_host=False)
    return here if limit is None or on_cpu or here.fits(limit) else planned(on_host=True)


def _limit_bytes(config: RunConfig, hardware: Hardware | None) -> int | None:
    if config.training.memory_limit_gib is None:
        return None
    limit = round(config.training.memory_limit_gib * _GIB)
    free = 0 if hardware is None else hardware.free_memory_bytes
    return min(limit, free) if free else limit


def _estimate(
    config: RunConfig,
    shape: ModelShape,
    peak: Callable[..., Peak],
    *,
    checkpointing: bool,
    hardware: Hardware | None,
    workload: Workload | None,
) -> MemoryEstimate:
    """The estimate around what `peak` finds for a `workload`."""
    known = workload is not None
    middle = workload or Workload()
    if hardware is not None and hardware.kind == "cpu":
        middle = replace(middle, tiles=_TILES_WITHOUT_TRITON)
    base = peak(workload=middle)
    doubt, extra = _doubt(config, shape), _workspace(hardware)
    # Rows of unequal length side by side need a mask, and attention that takes one.
    lowest = base if known else peak(workload=replace(middle, learnt_fraction=_LEAST_LEARNT))
    unequal = not known and config.training.micro_batch_size > 1
    highest = peak(workload=replace(middle, padded=True)) if unequal else base
    return MemoryEstimate(
        parts=with_workspace(base.parts, hardware),
        moment=base.moment,
        low_bytes=round(min(lowest.allocated_bytes, base.allocated_bytes) * (1 - doubt)) + extra,
        high_bytes=math.ceil(max(highest.allocated_bytes, base.allocated_bytes) * (1 + doubt)) + extra,
        slack_bytes=_slack(base, checkpointing=checkpointing),
        context_bytes=context_bytes(hardware),
        paged_bytes=base.paged_bytes,
    )


def with_workspace(parts: dict[str, int], hardware: Hardware | None) -> dict[str, int]:
    """The parts and what cuBLAS keeps beside them."""
    workspace = _workspace(hardware)
    return {**parts, "cuBLAS workspaces": workspace} if workspace else dict(parts)


def _doubt(config: RunConfig, shape: ModelShape) -> float:
    if not shape.traits.known:
        return _UNKNOWN_DOUBT
    by_data = config.quantization.kind == "int8" or shape.experts is not None or config.lora.use_dora
    return _DATA_DOUBT if by_data else _DOUBT


def _slack(peak: Peak, *, checkpointing: bool) -> int:
    passing = sum(size for name, size in peak.parts.items() if name not in _FIXED)
    return round(_FRAGMENTATION[checkpointing] * passing)


def _hopper(hardware: Hardware | None) -> bool:
    """Whether it has the large workspaces of new cards, which a card that is not known is taken to have."""
    return hardware is None or hardware.compute_capability is None or hardware.compute_capability >= (9, 0)


def _workspace(hardware: Hardware | None) -> int:
    return 0 if hardware is not None and hardware.kind == "cpu" else _WORKSPACE[_hopper(hardware)]


def context_bytes(hardware: Hardware | None) -> int:
    """Memory of a process beside what torch counts: the CUDA context with its kernels, or on a CPU the libraries."""
    return _PROCESS if hardware is not None and hardware.kind == "cpu" else _CONTEXT[_hopper(hardware)]
