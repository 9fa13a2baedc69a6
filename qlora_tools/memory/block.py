"""One decoder block of a model on the tape."""

import math
from dataclasses import replace
from functools import lru_cache

from ..models.shape import Linears, ModelShape
from .operations import EXPERTS, MicroBatch, Recorder
from .tape import Block, Tensor


@lru_cache(maxsize=256)
def record_block(shape: ModelShape, batch: MicroBatch, *, sparse: bool, entry_width: int) -> Block:
    """Record a block of `shape` whose input has elements of `entry_width` bytes; `sparse` is a block with experts."""
    recorder = Recorder(batch)
    entry = recorder.tensor(shape.hidden_size, entry_width)
    parallel = shape.traits.parallel
    first = _normed(recorder, entry, shape, "before")
    attended = _half(recorder, _attention(recorder, first, shape), shape)
    if parallel:
        second = _normed(recorder, entry, shape, "before") if shape.model_type == "gpt_neox" else first
        middle = entry
    else:
        middle = recorder.add(entry, attended)
        second = _normed(recorder, middle, shape, "before")
    mixed = _sparse_mlp(recorder, second, shape) if sparse else _mlp(recorder, second, shape, shape.linear_shapes())
    mixed = _half(recorder, mixed, shape)
    if parallel:
        mixed = recorder.add(attended, mixed)
    return Block(recorder.tape, entry, recorder.add(middle, mixed))


def _half(recorder: Recorder, x: Tensor, shape: ModelShape) -> Tensor:
    """The output of attention or MLP as it is added to the residual stream."""
    x = _normed(recorder, x, shape, "after")
    x = recorder.dropout(x) if shape.residual_dropout else x
    if not shape.traits.scaled_residual:
        return x
    return recorder.tape.record("residual scale", (x,), Tensor(x.elements, x.width))


def _normed(recorder: Recorder, x: Tensor, shape: ModelShape, place: str) -> Tensor:
    traits = shape.traits
    return recorder.norm(x, traits.norm) if traits.placement in (place, "around") else x


def _attention(recorder: Recorder, x: Tensor, shape: ModelShape) -> Tensor:
    if shape.latent is not None:
        return _latent_attention(recorder, x, shape)
    query, key, value = _projections(recorder, x, shape)
    if shape.traits.qk_norm != "none":
        query, key = recorder.norm(query, "rms"), recorder.norm(key, "rms")
    if shape.position_parameters == 0:
        query, key = recorder.rope(query), recorder.rope(key)
    attended = recorder.attention(query, key, value, shape.heads, capped=shape.traits.capped_scores)
    if shape.traits.partial_rotary and recorder.batch.attention != "eager":
        # The kernel answers in the layout of its queries, which the joined halves have changed: a copy brings it back.
        attended = recorder.tape.record("layout", (attended,), Tensor(attended.elements, attended.width))
    name = shape.traits.output_name
    return recorder.linear(attended, name, shape.attention_linears[name])


def _projections(recorder: Recorder, x: Tensor, shape: ModelShape) -> tuple[Tensor, Tensor, Tensor]:
    linears, fused = shape.attention_linears, shape.traits.fused_qkv
    key_value = shape.key_value_heads * shape.head_size
    if fused is None:
        query, key, value = (recorder.linear(x, name, linears[name]) for name in ("q_proj", "k_proj", "v_proj"))
        return query, key, value
    whole = recorder.linear(x, fused, linears[fused])
    parts = (shape.heads * shape.head_size, key_value, key_value)
    query, key, value = (recorder.part(whole, features) for features in parts)
    return query, key, value


def _latent_attention(recorder: Recorder, x: Tensor, shape: ModelShape) -> Tensor:
    """DeepSeek's attention: narrow projections with norms, keys and values built for every head."""
    linears, latent = shape.attention_linears, shape.latent
    assert latent is not None
    query = x
    for name in [name for name in linears if name.startswith("q_")]:
        query = recorder.linear(query, name, linears[name])
        query = recorder.norm(query, "rms") if name == "q_a_proj" else query
    narrow = recorder.norm(recorder.linear(x, "kv_a_proj_with_mqa", linears["kv_a_proj_with_mqa"]), "rms")
    both = recorder.linear(narrow, "kv_b_proj", linears["kv_b_proj"])
    key = recorder.tape.record("keys", (both,), Tensor(query.elements, query.width))
    value = recorder.part(both, shape.heads * latent.value_size)
    attended = recorder.attention(recorder.rope(query), key, value, shape.heads)
    return recorder.linear(attended, "o_proj", linears["o_proj"])


def _mlp(recorder: Recorder, x: Tensor, shape: ModelShape, linears: Linears) -> Tensor:
    names = [name for name in linears if name not in shape.attention_linears]
    if len(names) == 3:
        gate = recorder.linear(x, names[0], linears[names[0]])
        up = recorder.linear(x, names[1], linears[names[1]])
        inner = recorder.multiply(recorder.activation(gate, shape.activation), up, held=(x,))
    else:
        whole = recorder.linear(x, names[0], linears[names[0]])
        gated = shape.traits.gated
        inner = _gated(recorder, whole, shape) if gated else recorder.activation(whole, shape.activation)
    shared = outlier_share(shape.hidden_size, recorder.batch.tokens) if shape.traits.gated else 0.0
    return recorder.linear(inner, names[-1], linears[names[-1]], outliers=shared)


def _gated(recorder: Recorder, whole: Tensor, shape: ModelShape) -> Tensor:
    """Gate and up projection in one matrix: two views of its output."""
    half = whole.elements // 2
    gate, up = (recorder.tape.record("part", (whole,), Tensor(half, whole.width, whole=whole)) for _ in range(2))
    return recorder.multiply(recorder.activation(gate, shape.activation), up)


def _sparse_mlp(recorder: Recorder, x: Tensor, shape: ModelShape) -> Tensor:
    """Routed experts as grouped products over token copies, and the shared expert beside them where there is one."""
    experts = shape.experts
    assert experts is not None
    copies, hidden = recorder.batch.tokens * experts.per_token, shape.hidden_size
    record, width = recorder.tape.record, recorder.batch.width
    router = Tensor(recorder.batch.tokens * experts.count, 4)
    record("router", (x,), router, saved=(x, router))
    chosen = record("copies", (x,), Tensor(copies * hidden, width))
    whole = _expert_product(recorder, chosen, shape, Tensor(copies * 2 * experts.size, width), hidden * 2)
    gate, up = (record("part", (whole,), Tensor(copies * experts.size, width, whole=whole)) for _ in range(2))
    inner = recorder.multiply(recorder.activation(gate, shape.activation), up)
    outs = _expert_product(recorder, inner, shape, Tensor(copies * hidden, width), hidden)
    weighted = record("weighted", (outs,), Tensor(copies * hidden, width), saved=(outs,))
    mixed = record("sum", (weighted,), recorder.tensor(hidden))
    if experts.shared_size == 0:
        return mixed
    return recorder.add(mixed, _mlp(recorder, x, shape, shape.linear_shapes(sparse=True)))


def _expert_product(recorder: Recorder, x: Tensor, shape: ModelShape, output: Tensor, features: int) -> Tensor:
    """A product with all experts' weights; where they are adapted, PEFT makes the sum of weight and update first."""
    experts, width = shape.experts, recorder.batch.width
    assert experts is not None
    if EXPERTS not in recorder.batch.targets:
        return recorder.tape.record("experts", (x,), output)
    size = experts.count * experts.size * features * width
    factors = Tensor(0, 4)
    weights = Tensor(size // width, width)
    recorder.tape.record("expert weights", (factors,), weights, forward_scratch=size, backward_scratch=size)
    return recorder.tape.record("experts", (x, weights), output, saved=(x, weights))


@lru_cache(maxsize=64)
def outlier_share(hidden: int, tokens: int) -> float:
    """Share of an MLP's inner features with a value over 6 somewhere in `tokens` tokens, which int8 keeps in 16 bits.

    For weights of standard deviation 0.02 behind a norm: the features are silu(g) u of normal g and u. Trained weights
    may have fewer or more; this part of an int8 figure depends on the data.
    """
    spread = 0.02 * math.sqrt(hidden)
    step, beyond = 0.05, 0.0
    for index in range(1, 160):
        g = index * step
        scaled = g * spread
        gate = scaled / (1 + math.exp(-scaled))
        density = math.exp(-g * g / 2) / math.sqrt(2 * math.pi)
        beyond += step * density * math.erfc(_OUTLIER / (gate * spread) / math.sqrt(2))
    return -math.expm1(tokens * math.log1p(-beyond))


_OUTLIER = 6.0  # LLM.int8()'s threshold (arXiv 2208.07339)


def masked(batch: MicroBatch) -> MicroBatch:
    """The same batch where attention takes a mask."""
    return batch if batch.attention == "eager" else replace(batch, attention="masked")
