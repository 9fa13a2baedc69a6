"""Memory of everything but LoRA training: answering, merging, and full fine-tuning for comparison."""

from dataclasses import dataclass, replace

from ..config.schema import QuantizationConfig, RunConfig
from ..models.hardware import Hardware
from ..models.shape import ModelShape
from .block import masked, record_block
from .estimate import MemoryEstimate, context_bytes, with_workspace
from .operations import MicroBatch
from .training import WIDTHS
from .weights import base_weights, kind_of

# One fused kernel more or less; with sliding windows the kernel that takes the mask was not the same everywhere.
_DOUBT, _SLIDING_DOUBT = 0.05, 0.15

# Merging measures 0.32 GiB after its imports; eight threads hold a few copies of a slice of 2 MiB each, in fp32.
_IMPORTS_BYTES, _MERGED_SLICES_BYTES = 350 * 2**20, 256 * 2**20


@dataclass(frozen=True)
class HostEstimate:
    """Host memory and disk of a merge, in bytes."""

    parts: dict[str, int]
    disk_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Peak of host memory."""
        return sum(self.parts.values())


def estimate_inference(
    shape: ModelShape,
    quantization: QuantizationConfig,
    *,
    compute_dtype: str,
    rows: int,
    length: int,
    hardware: Hardware | None = None,
) -> MemoryEstimate:
    """Peak of answering `rows` prompts at once, each with its answer within `length` tokens.

    The cache of keys and values grows to the whole length, in blocks with a sliding window to the window. The prompt is
    taken to fill the length, so its forward pass is the fullest one.
    """
    width = WIDTHS[compute_dtype]
    kind = kind_of(shape, quantization)
    batch = MicroBatch(rows, length, width, kind, quantization.double_quantization, 0, frozenset())
    slides = shape.sliding_layers > 0 and length > (shape.sliding_window or length)
    batch = replace(batch, attention="eager" if shape.traits.eager_only else "flash")
    batch = masked(batch) if slides else batch
    block = record_block(shape, batch, sparse=shape.sparse_layers > 0, entry_width=width)
    parts = {
        **base_weights(shape, quantization, width),
        "keys and values": cache_bytes(shape, rows=rows, length=length, width=width),
        # The embeddings stay until the last block has run, and each block's input until it is through.
        "live block": block.forward_peak.total + 2 * block.entry.size,
        "masks": rows * length**2 * int(slides),
        # Of the last position only: in the compute dtype, and in fp32 for sampling.
        "logits": rows * shape.vocabulary * (width + 4),
    }
    parts = with_workspace({name: size for name, size in parts.items() if size}, hardware)
    total = sum(parts.values())
    return MemoryEstimate(
        parts=parts,
        moment="reading the prompt",
        low_bytes=round(total * (1 - _DOUBT)) - parts["live block"],
        high_bytes=round(total * (1 + (_SLIDING_DOUBT if slides else _DOUBT))),
        slack_bytes=round(0.2 * parts["live block"]),
        context_bytes=context_bytes(hardware),
        paged_bytes=0,
    )


def cache_bytes(shape: ModelShape, *, rows: int, length: int, width: int) -> int:
    """Keys and values of every block; DeepSeek's attention keeps them for every head in Transformers."""
    features = 2 * shape.key_value_heads * shape.head_size
    if shape.latent is not None:
        features = shape.heads * (shape.latent.nope_size + shape.latent.rope_size + shape.latent.value_size)
    sliding = min(length, shape.sliding_window or length)
    positions = shape.sliding_layers * sliding + (shape.layers - shape.sliding_layers) * length
    return rows * positions * features * width


def estimate_merging(shape: ModelShape, *, dtype: str = "bfloat16") -> HostEstimate:
    """Host memory and disk of merging: slices and factors of one tensor at a time, whatever the model's size."""
    largest = max(inputs * outputs for inputs, outputs in shape.linear_shapes().values())
    disk = shape.parameters * WIDTHS[dtype]
    return HostEstimate(
        {
            "Python and its libraries": _IMPORTS_BYTES,
            "slices being computed": _MERGED_SLICES_BYTES,
            "constants of the largest tensor": 3 * 4 * largest // 64,
        },
        disk_bytes=disk,
    )


def estimate_full_training(config: RunConfig, shape: ModelShape, *, hardware: Hardware | None = None) -> MemoryEstimate:
    """Full fine-tuning in mixed precision with AdamW, for comparison: 16 bytes a parameter and checkpointed activations.

    bf16 weights and gradients, fp32 master weights and two moments. qlora-tools does not train this way.
    """
    training = config.training
    batch = MicroBatch(training.micro_batch_size, training.max_length_tokens, 2, "none", False, 0, frozenset())
    block = record_block(shape, batch, sparse=shape.sparse_layers > 0, entry_width=2)
    inputs = sum(batch.tokens * 2 * width for width, _ in shape.linear_shapes(sparse=shape.sparse_layers > 0).values())
    parts = {
        "weights (bf16)": 2 * shape.parameters,
        "gradients (bf16)": 2 * shape.parameters,
        "master weights (fp32)": 4 * shape.parameters,
        "optimiser state (fp32)": 8 * shape.parameters,
        "saved activations": shape.layers * block.entry.size,
        "live block": block.backward_peak.total + inputs,
    }
    total = sum(parts.values())
    return MemoryEstimate(
        parts=parts,
        moment="backward of the last block",
        low_bytes=round(total * (1 - _DOUBT)),
        high_bytes=round(total * (1 + _DOUBT)),
        slack_bytes=round(0.3 * parts["live block"]),
        context_bytes=context_bytes(hardware),
        paged_bytes=0,
    )
