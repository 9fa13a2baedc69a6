"""How long a micro-batch takes on a GPU: what the GPU computes and moves against what the CPU can launch.

Two constants are fitted on the NF4 rows of benchmarks/results/memory_grid.json that are not held out (69 rows, one H100
SXM, stock engine, DoRA aside): median error 9 %, and 12 % on the 30 held-out rows (worst 34 %). Most of that is the host:
its CPU launched the same work up to 1.6 times slower in some rows than in others.
"""

import os
from dataclasses import dataclass, field

from ..config.choices import Quantization
from ..config.schema import LoraConfig
from ..memory.weights import target_names
from ..models.gpus import Gpu, find_gpu, gpu_from_hardware_name
from ..models.hardware import Hardware
from ..models.shape import ModelShape

# Share of the peak that large 16-bit products reach: 680 to 735 of 989 TFLOP/s on one H100 SXM.
_EFFICIENCY = 0.7
# Fitted. Bytes moved for every input and output element of a linear in each pass (adapter, norms, activations).
_BYTES_PER_ELEMENT = 28.0
# Fitted. Seconds in which the CPU launches one adapted linear with its share of the block, in each pass.
_LAUNCH_SECONDS = 1.02e-3
# A linear without an adapter launches and moves so much less; a 16-bit one launches less by its dequantisation. Both
# are the best of a few round figures on the few rows of the same file that tell.
_UNADAPTED, _LAUNCHES_16_BIT = 0.25, 0.7
# Dequantising an NF4 weight reads 0.5 byte and writes 2, at half of the rate at which memory is copied.
_DEQUANTISATION_BYTES = 5.0
# int8 takes this much longer than NF4: the middle of three rows of the same file.
_INT8_FACTOR = 1.6
# Launching overlaps with computing, so the longer of the two counts; where they are close, both do.
_OVERLAP = 4
# A block with experts launches about as much as so many linears more.
_EXPERT_LAUNCHES = 6
# One processor of two threads, by benchmarks/results/demo_cpu.json; memory assumed.
_CPU_TFLOPS, _CPU_GB_S = 0.06, 20.0
_MEASURED_ON = "H100 SXM"
_TYPICAL = "RTX 4090"

MEASURED = "measured: benchmarks/results/memory_grid.json"
SCALED = "scaled from an H100 measurement, factor-of-two accuracy"
CPU = "rough, within a factor of three on an idle processor: scaled from benchmarks/results/demo_cpu.json"
UNKNOWN = "no speed is known for this machine; name a GPU (--gpu) to get a time"


@dataclass(frozen=True)
class Card:
    """What time depends on: peak 16-bit TFLOP/s, bandwidth in GB/s, and where the speed comes from."""

    tflops: float
    bandwidth_gb_s: float
    basis: str

    @classmethod
    def of(cls, gpu: Gpu) -> "Card":
        """The card of the table; one whose peak is not published gets it by its bandwidth."""
        measured = find_gpu(_MEASURED_ON)
        assert measured.tflops_16bit is not None
        tflops = gpu.tflops_16bit or measured.tflops_16bit * gpu.bandwidth_gb_s / measured.bandwidth_gb_s
        return cls(tflops, gpu.bandwidth_gb_s, MEASURED if gpu.name == measured.name else SCALED)

    @classmethod
    def for_hardware(cls, hardware: Hardware) -> "Card | None":
        """The card that `hardware` names; None for GPUs that are not in the table."""
        if hardware.kind == "cpu":
            threads = os.cpu_count() or 1
            return cls(_CPU_TFLOPS * threads, _CPU_GB_S, CPU)
        gpu = gpu_from_hardware_name(hardware.name) if hardware.kind == "cuda" else None
        return None if gpu is None else cls.of(gpu)

    @classmethod
    def typical(cls) -> "Card":
        """A card to compare settings on where none was named."""
        return cls.of(find_gpu(_TYPICAL))


@dataclass(frozen=True)
class Work:
    """One micro-batch: rows of so many tokens each, with or without checkpointing, the base's kind and the adapter."""

    rows: int
    length: float
    checkpointing: bool
    kind: Quantization = "nf4"
    lora: LoraConfig = field(default_factory=LoraConfig)

    @property
    def passes(self) -> int:
        """Forward, backward, and with checkpointing the forward once more."""
        return 3 if self.checkpointing else 2


def micro_batch_seconds(shape: ModelShape, card: Card, work: Work) -> float:
    """Seconds for forward and backward of one micro-batch of a LoRA run on a frozen base of `shape`."""
    computing = flops(shape, work) / (_EFFICIENCY * card.tflops * 1e12)
    moving = _moved_bytes(shape, work) / (card.bandwidth_gb_s * 1e9)
    launching = work.passes * _LAUNCH_SECONDS * _launches(shape, work)
    seconds = float(((computing + moving) ** _OVERLAP + launching**_OVERLAP) ** (1 / _OVERLAP))
    return seconds * (_INT8_FACTOR if work.kind == "int8" else 1.0)


def flops(shape: ModelShape, work: Work) -> float:
    """Floating-point operations of one micro-batch.

    Two a parameter and token forward, two backward (the base is frozen, so inputs get gradients and weights do not), two
    more where the forward is repeated; the head is not. Attention is causal: half of all pairs, 2.5 times that backward.
    """
    tokens = work.rows * work.length
    head = shape.vocabulary * shape.hidden_size
    linear = 2 * tokens * ((shape.active_parameters - head) * work.passes + 2 * head)
    window = min(work.length, shape.sliding_window or work.length)
    seen = shape.sliding_layers * window + (shape.layers - shape.sliding_layers) * work.length
    pairs = 2 * tokens * seen * shape.heads * shape.head_size
    return linear + pairs * (work.passes + 1.5)


def _moved_bytes(shape: ModelShape, work: Work) -> float:
    width = sum(
        count * sum(share * sum(sizes) for sizes, share in _linears(shape, work.lora, sparse=sparse))
        for sparse, count in _blocks(shape)
    )
    if shape.experts is not None:
        width += shape.sparse_layers * 3 * shape.experts.per_token * (shape.experts.size + shape.hidden_size)
    dequantised = shape.linear_parameters if work.kind in ("nf4", "fp4") else 0
    moved = _BYTES_PER_ELEMENT * work.rows * work.length * width + _DEQUANTISATION_BYTES * dequantised
    return work.passes * moved


def _launches(shape: ModelShape, work: Work) -> float:
    count = sum(
        count * (sum(share for _, share in _linears(shape, work.lora, sparse=sparse)) + _EXPERT_LAUNCHES * sparse)
        for sparse, count in _blocks(shape)
    )
    return count * (_LAUNCHES_16_BIT if work.kind == "none" else 1.0)


def _blocks(shape: ModelShape) -> tuple[tuple[bool, int], ...]:
    return tuple(
        (sparse, count) for sparse, count in ((False, shape.dense_layers), (True, shape.sparse_layers)) if count
    )


def _linears(shape: ModelShape, lora: LoraConfig, *, sparse: bool) -> list[tuple[tuple[int, int], float]]:
    """Sizes of the linears of a block, and the share of an adapted one's cost that each has."""
    adapted = target_names(lora, shape, sparse=sparse)
    linears = shape.linear_shapes(sparse=sparse)
    return [(sizes, 1.0 if name in adapted else _UNADAPTED) for name, sizes in linears.items()]
