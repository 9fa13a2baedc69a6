"""The memory ledger of a training run, from the model's shape and the config alone.

A first, plain version: dense Llama-like decoders, the stock engine, and a wide band around the middle figure. Formulas
follow `qlora guide memory`; every coefficient is counted from the tensors that the stock path keeps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config.schema import LoraConfig, QuantizationConfig, RunConfig
from ..models.shape import ModelShape

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_OPTIMIZER_BYTES = {
    "paged_adamw_8bit": 2.0,
    "adamw_8bit": 2.0,
    "paged_lion_8bit": 1.0,
    "lion_8bit": 1.0,
    "paged_adamw_32bit": 8.0,
    "adamw_torch": 8.0,
    "adafactor": 0.1,
    "sgd": 0.0,
}
_BLOCK = 64  # weights that share one scale
_NESTED_BLOCK = 256  # scales that share one scale of scales
_CONTEXT_BYTES = 512 * 2**20  # CUDA context, cuBLAS workspace and kernels; not counted by torch
_TILE = (4096, 32_768)  # tokens and vocabulary columns that the fused head of TRL 1.16 computes at once


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of a run in bytes: each part, their sum, and how wrong this first version may be."""

    parts: dict[str, int]

    @property
    def mid_bytes(self) -> int:
        """The expected peak of what torch allocates, paged optimiser state included."""
        return sum(self.parts.values())

    @property
    def low_bytes(self) -> int:
        """The peak is hardly below this."""
        return round(self.mid_bytes * 0.8)

    @property
    def high_bytes(self) -> int:
        """The peak is hardly above this; with the CUDA context, what the GPU should have free."""
        return round(self.mid_bytes * 1.25) + _CONTEXT_BYTES

    def fits(self, free_bytes: int) -> bool:
        """Whether the run is expected to fit, with the margin of the high figure."""
        return self.high_bytes <= free_bytes


def estimate_memory(config: RunConfig, shape: ModelShape, *, compute_dtype: str) -> MemoryEstimate:
    """Peak memory of training `config` on a model of `shape` with matrix products in `compute_dtype`."""
    training, lora = config.training, config.lora
    tokens = training.micro_batch_size * training.max_length_tokens
    width = _BYTES[compute_dtype]
    adapter = adapter_parameters(shape, lora) + _saved_in_full(shape, lora)
    return MemoryEstimate(
        {
            "base weights": _weights(shape, config.quantization, width),
            "embeddings and head": shape.embedding_parameters * width,
            "adapter and modules to save (fp32)": adapter * 4,
            "gradients (fp32)": adapter * 4,
            "optimiser": round(adapter * _OPTIMIZER_BYTES[training.optimizer]),
            "saved activations": _saved_activations(shape, tokens, width, training.gradient_checkpointing),
            "live layer": _layer_activations(shape, tokens, width) if training.gradient_checkpointing else 0,
            "dequantised weight": _scratch(shape, config.quantization, width),
            # One tile of logits, and the gradient of the hidden states summed up in fp32 beside its copy.
            "loss": min(tokens, _TILE[0]) * min(shape.vocabulary, _TILE[1]) * width
            + 2 * 4 * tokens * shape.hidden_size,
        }
    )


def adapter_parameters(shape: ModelShape, lora: LoraConfig) -> int:
    """Trainable parameters of the adapter: rank x (inputs + outputs) for every targeted linear layer."""
    shapes = shape.linear_shapes()
    targets = {
        "all-linear": tuple(shapes),
        "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    }.get(str(lora.target_modules), _named(lora.target_modules, shapes))
    per_layer = sum(lora.rank * sum(shapes[name]) + (shapes[name][1] if lora.use_dora else 0) for name in targets)
    return shape.layers * per_layer


def _named(modules: Sequence[str], shapes: Mapping[str, object]) -> tuple[str, ...]:
    """The block's linears among module names; `self_attn.q_proj` names q_proj."""
    last = {name.rsplit(".", 1)[-1] for name in modules}
    return tuple(name for name in shapes if name in last)


def _saved_in_full(shape: ModelShape, lora: LoraConfig) -> int:
    """Parameters of modules that are trained whole: embedding and head, and named linears of every block."""
    shapes = shape.linear_shapes()
    linears = sum(shapes[name][0] * shapes[name][1] for name in _named(lora.modules_to_save, shapes)) * shape.layers
    tables = sum(name.rsplit(".", 1)[-1] in ("embed_tokens", "lm_head") for name in lora.modules_to_save)
    return linears + tables * shape.vocabulary * shape.hidden_size


def _weights(shape: ModelShape, quantization: QuantizationConfig, width: int) -> int:
    linear, norms = shape.linear_parameters, (2 * shape.layers + 1) * shape.hidden_size * width
    if quantization.kind == "none":
        return linear * width + norms
    if quantization.kind == "int8":
        rows = shape.layers * sum(outputs for _, outputs in shape.linear_shapes().values())
        return linear + 4 * rows + norms
    blocks = linear / _BLOCK
    scales = blocks * (1 + 4 / _NESTED_BLOCK) if quantization.double_quantization else blocks * 4
    return round(linear / 2 + scales) + norms


def _layer_activations(shape: ModelShape, tokens: int, width: int) -> int:
    """What one block keeps for backward: inputs of norms and linears, q, k, v, and the products of the MLP.

    Counts of tensors; the peak of the 1B shape in benchmarks/results/gpu_stock.json agrees within a tenth.
    """
    attention = shape.heads * shape.head_size + 2 * shape.key_value_heads * shape.head_size
    return tokens * width * (6 * shape.hidden_size + 2 * attention + 4 * shape.intermediate_size)


def _saved_activations(shape: ModelShape, tokens: int, width: int, checkpointing: bool) -> int:
    if checkpointing:
        return shape.layers * tokens * shape.hidden_size * width
    return shape.layers * _layer_activations(shape, tokens, width)


def _scratch(shape: ModelShape, quantization: QuantizationConfig, width: int) -> int:
    if quantization.kind == "none":
        return 0
    return 2 * width * max(inputs * outputs for inputs, outputs in shape.linear_shapes().values())
