"""What lies in memory from the first step to the last: the base, the adapter, its gradients and the optimiser's state."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..config.choices import Quantization
from ..config.library_arguments import ATTENTION_MODULES
from ..config.schema import LoraConfig, QuantizationConfig
from ..errors import ConfigError, ConfigProblem
from ..models.shape import Linears, ModelShape
from .operations import BLOCK, EXPERTS, NESTED_BLOCK

# Small tensors of one 4-bit layer: the 16 levels and, nested, 256 levels and an offset. The allocator hands out 512 B.
_CODEBOOKS = {False: 512, True: 2048}
# Tensors from this size on are paged by bitsandbytes' paged optimisers; below the second, 8-bit states stay in fp32.
_LEAST_PAGED = 100_000
_LEAST_8BIT = 4096
_STATE_BLOCK = 256  # 8-bit optimiser values that share one fp32 scale


@dataclass(frozen=True)
class OptimizerState:
    """Bytes of an optimiser's state: what torch allocates, what lies in managed memory, and what a step borrows."""

    allocated: int
    paged: int
    step: int


def base_weights(shape: ModelShape, quantization: QuantizationConfig, width: int) -> dict[str, int]:
    """Bytes of the frozen base by part; `width` is that of what stays unquantised."""
    linear, kind = shape.linear_parameters, kind_of(shape, quantization)
    parts = {"base weights": linear * width}
    if kind == "int8":
        parts = {"base weights": linear, "quantisation constants": 4 * _linear_rows(shape)}
    elif kind != "none":
        parts = {"base weights": linear // 2, "quantisation constants": _constants(shape, quantization)}
    if shape.expert_parameters:
        parts["experts (not quantised)"] = shape.expert_parameters * width
    parts["embeddings and head"] = shape.embedding_parameters * width
    parts["norms and biases"] = shape.norm_parameters * width
    return parts


def kind_of(shape: ModelShape, quantization: QuantizationConfig) -> Quantization:
    """How the linears are really held: bitsandbytes passes over classes that are not torch's own."""
    return "none" if shape.traits.own_linears else quantization.kind


def _constants(shape: ModelShape, quantization: QuantizationConfig) -> int:
    blocks, nested = shape.linear_parameters // BLOCK, quantization.double_quantization
    scales = blocks + 4 * blocks // NESTED_BLOCK if nested else 4 * blocks
    return scales + _linear_count(shape) * _CODEBOOKS[nested]


def _linear_rows(shape: ModelShape) -> int:
    return sum(outputs for _, linears in _blocks(shape) for _, outputs in linears.values())


def _linear_count(shape: ModelShape) -> int:
    return sum(len(linears) for _, linears in _blocks(shape))


def _blocks(shape: ModelShape) -> Iterator[tuple[bool, Linears]]:
    """Whether each block is sparse, and its linears."""
    dense, sparse = shape.linear_shapes(sparse=False), shape.linear_shapes(sparse=True)
    yield from ((False, dense) for _ in range(shape.dense_layers))
    yield from ((True, sparse) for _ in range(shape.sparse_layers))


def target_names(lora: LoraConfig, shape: ModelShape, *, sparse: bool) -> frozenset[str]:
    """The linears of a block that get an adapter; a path like `self_attn.q_proj` names q_proj.

    With the experts' linears among the targets, PEFT adapts their 3-D tensors; `EXPERTS` stands for them.
    """
    linears = shape.linear_shapes(sparse=sparse)
    if lora.target_modules == "attention":
        return frozenset(name for name in linears if name in (*ATTENTION_MODULES, *_LATENT_MODULES))
    chosen = frozenset(linears)
    everything = lora.target_modules == "all-linear"
    if not everything:
        chosen = frozenset(_named(lora.target_modules, linears))
    asked = everything or {"gate_proj", "up_proj", "down_proj"} <= set(lora.target_modules)
    return chosen | {EXPERTS} if sparse and asked and shape.model_type not in _EXPERTS_LEFT_ALONE else chosen


_LATENT_MODULES = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
# PEFT has no mapping from names of linears to the experts of these.
_EXPERTS_LEFT_ALONE = ("gpt_oss",)


def _named(modules: Sequence[str], linears: Linears) -> tuple[str, ...]:
    """The linears that are named, by themselves or by the part of the block that holds them."""
    last = {name.rsplit(".", 1)[-1] for name in modules}
    return tuple(
        name
        for name in linears
        if name.removeprefix("shared_").rsplit(".", 1)[-1] in last or _PARENTS[_attends(name)] & last
    )


_PARENTS = {True: {"self_attn", "self_attention", "attention", "attn"}, False: {"mlp"}}
_TABLES = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings")


def _attends(name: str) -> bool:
    return name in (*ATTENTION_MODULES, *_LATENT_MODULES)


def check_modules(shape: ModelShape, lora: LoraConfig) -> None:
    """Raise `ConfigError` for module names of which nothing is known in this model."""
    linears = {**shape.linear_shapes(sparse=False), **shape.linear_shapes(sparse=True)}
    targets = () if isinstance(lora.target_modules, str) else lora.target_modules
    problems = [
        ConfigProblem(
            field, f"{name} names no module of this model that is known; its linears are {', '.join(linears)}"
        )
        for field, names in (("lora.target_modules", targets), ("lora.modules_to_save", lora.modules_to_save))
        for name in names
        if not _named((name,), linears) and (field == "lora.target_modules" or _last(name) not in _TABLES)
    ]
    if problems and shape.traits.known:
        raise ConfigError(problems, source="for this model")


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def adapter_tensors(shape: ModelShape, lora: LoraConfig) -> list[list[int]]:
    """Elements of every trained tensor, block by block."""
    kinds = list(_blocks(shape))
    of_a_kind = {
        sparse: [*_adapters(shape, lora, sparse=sparse), *_saved_linears(lora, linears)]
        for sparse, linears in dict(kinds).items()
    }
    return [of_a_kind[sparse] for sparse, _ in kinds]


def _adapters(shape: ModelShape, lora: LoraConfig, *, sparse: bool) -> list[int]:
    linears, names = shape.linear_shapes(sparse=sparse), target_names(lora, shape, sparse=sparse)
    plain = [
        elements
        for name in linears
        if name in names
        for inputs, outputs in (linears[name],)
        for elements in ((lora.rank * inputs, lora.rank * outputs) + ((outputs,) if lora.use_dora else ()))
    ]
    return [*plain, *_expert_adapters(shape, lora.rank)] if EXPERTS in names else plain


def _expert_adapters(shape: ModelShape, rank: int) -> list[int]:
    """PEFT doubles the rank of gate and up, which are one tensor, and adapts the router."""
    experts, hidden = shape.experts, shape.hidden_size
    assert experts is not None
    each = rank * experts.count
    return [
        2 * each * hidden,
        2 * each * 2 * experts.size,
        each * experts.size,
        each * hidden,
        rank * hidden,
        rank * experts.count,
    ]


def _saved_linears(lora: LoraConfig, linears: Linears) -> list[int]:
    return [linears[name][0] * linears[name][1] for name in _named(lora.modules_to_save, linears)]


def trained_tables(shape: ModelShape, lora: LoraConfig) -> list[int]:
    """Elements of embedding and head where they are trained in full."""
    names = dict.fromkeys(_last(name) for name in lora.modules_to_save)
    return [shape.vocabulary * shape.hidden_size for name in names if name in _TABLES]


def optimizer_state(name: str, tensors: Sequence[int]) -> OptimizerState:
    """The state of optimiser `name` for trained tensors of so many elements each."""
    total = sum(tensors)
    if name in ("adamw_torch", "adafactor", "sgd"):
        # torch steps all tensors at once and borrows their square roots; Adafactor keeps one row and one column each.
        allocated = {"adamw_torch": 8 * total, "adafactor": round(0.1 * total), "sgd": 0}[name]
        step = {"adamw_torch": 4 * total, "adafactor": 3 * 4 * max(tensors, default=0), "sgd": 0}[name]
        return OptimizerState(allocated, 0, step)
    moments = 1 if "lion" in name else 2
    sizes = [
        (elements, count * _state_bytes(elements, moments, eight_bit="8bit" in name))
        for elements, count in Counter(tensors).items()
    ]
    paged = sum(size for elements, size in sizes if name.startswith("paged") and elements >= _LEAST_PAGED)
    return OptimizerState(sum(size for _, size in sizes) - paged, paged, 0)


def _state_bytes(elements: int, moments: int, *, eight_bit: bool) -> int:
    if not eight_bit or elements < _LEAST_8BIT:
        return 4 * moments * elements
    return moments * (elements + 4 * -(-elements // _STATE_BLOCK))
