"""The shape of a decoder, read from its config.json: what memory and time depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..errors import ModelError
from .config_fields import entries, flag, optional_size, rotary_share, share, size
from .config_fields import layers as layers_of
from .structure import Traits, traits_of

Linears = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Experts:
    """The experts of a sparse block. Transformers 5 keeps them as 3-D tensors, which bitsandbytes does not quantise."""

    count: int
    per_token: int
    size: int
    shared_size: int = 0
    dense_blocks: int = 0
    bias: bool = False


@dataclass(frozen=True)
class LatentAttention:
    """DeepSeek's multi-head latent attention: queries and keys through narrow projections."""

    query_rank: int | None
    key_value_rank: int
    rope_size: int
    nope_size: int
    value_size: int


@dataclass(frozen=True)
class CountedWeights:
    """Parameters as the model's own code makes them, for families whose code was not read here."""

    linear: int
    embeddings: int
    others: int
    small: int


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only transformer; counts of elements, not bytes."""

    model_type: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied_embeddings: bool
    experts: Experts | None = None
    latent: LatentAttention | None = None
    sliding_window: int | None = None
    sliding_layers: int = 0
    max_length: int | None = None
    position_parameters: int = 0
    activation: str = "silu"
    residual_dropout: bool = False
    dropped: float = 0.0
    rotary_share: float = 1.0
    traits: Traits = field(default_factory=Traits)
    counted: CountedWeights | None = None

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> "ModelShape":
        """Read the shape from the content of a config.json; raises `ModelError` where a size is absent."""
        hidden, heads = (
            size(values, "hidden_size", "n_embd", "d_model"),
            size(values, "num_attention_heads", "n_head", "n_heads"),
        )
        layers, traits = (
            layers_of(values, "num_hidden_layers", "n_layer", "n_layers"),
            traits_of(str(values.get("model_type"))),
        )
        single = values.get("multi_query") and not values.get("new_decoder_architecture")
        key_value = 1 if single else size(values, "num_key_value_heads", "num_kv_heads", otherwise=heads)
        if heads % key_value:
            raise ModelError(
                f"config.json has {heads} heads of queries for {key_value} of keys and values, which do not go together.",
                next_step="Check num_attention_heads and num_key_value_heads.",
            )
        window, sliding = _sliding(values, layers)
        length = optional_size(values, "max_position_embeddings", "n_positions")
        gpt2 = values.get("model_type") == "gpt2"
        return cls(
            model_type=str(values.get("model_type", "unknown")),
            layers=layers,
            hidden_size=hidden,
            intermediate_size=size(
                values, "intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", otherwise=4 * hidden
            ),
            heads=heads,
            key_value_heads=key_value,
            head_size=size(values, "head_dim", otherwise=max(1, hidden // heads)),
            vocabulary=size(values, "vocab_size"),
            # Families that tie leave the key out; the two that do not (Llama, Mistral) default to False.
            tied_embeddings=flag(values, "tie_word_embeddings", otherwise=traits.tied_by_default),
            experts=_experts(values, layers),
            latent=_latent(values),
            sliding_window=window,
            sliding_layers=sliding,
            max_length=length,
            position_parameters=(length or 0) * hidden if gpt2 else 0,
            activation=_activation(values),
            residual_dropout=any(share(values, name) > 0 for name in _RESIDUAL_DROPOUTS) or gpt2,
            dropped=max(share(values, "attention_dropout"), share(values, "resid_pdrop")),
            rotary_share=rotary_share(values),
            traits=traits,
        )

    @property
    def dense_layers(self) -> int:
        """Blocks with a plain MLP."""
        return self.layers if self.experts is None else min(self.layers, self.experts.dense_blocks)

    @property
    def sparse_layers(self) -> int:
        """Blocks with experts."""
        return self.layers - self.dense_layers

    def linear_shapes(self, *, sparse: bool | None = None) -> Linears:
        """Input and output size of each linear of one block, by its usual name. `sparse` asks for a block with experts."""
        sparse = self.dense_layers == 0 if sparse is None else sparse
        return {**self.attention_linears, **(self._shared_linears if sparse else self._mlp_linears)}

    @cached_property
    def attention_linears(self) -> Linears:
        """The projections of attention."""
        query, key_value = self.heads * self.head_size, self.key_value_heads * self.head_size
        if self.latent is not None:
            return _latent_linears(self.latent, self.hidden_size, self.heads)
        output = {self.traits.output_name: (query, self.hidden_size)}
        if self.traits.fused_qkv is not None:
            return {self.traits.fused_qkv: (self.hidden_size, query + 2 * key_value), **output}
        return {
            "q_proj": (self.hidden_size, query),
            "k_proj": (self.hidden_size, key_value),
            "v_proj": (self.hidden_size, key_value),
            **output,
        }

    @cached_property
    def _mlp_linears(self) -> Linears:
        return _mlp(self.traits, self.hidden_size, self.intermediate_size, "")

    @cached_property
    def _shared_linears(self) -> Linears:
        if self.experts is None or self.experts.shared_size == 0:
            return {}
        return _mlp(self.traits, self.hidden_size, self.experts.shared_size, "shared_")

    @cached_property
    def linear_parameters(self) -> int:
        """Parameters of all block linears: what quantisation shrinks."""
        if self.counted is not None:
            return self.counted.linear
        return sum(
            count * sum(inputs * outputs for inputs, outputs in self.linear_shapes(sparse=sparse).values())
            for sparse, count in ((False, self.dense_layers), (True, self.sparse_layers))
        )

    @cached_property
    def expert_parameters(self) -> int:
        """Parameters of experts and their routers, which stay unquantised."""
        if self.counted is not None:
            return self.counted.others
        if self.experts is None:
            return 0
        matrices = 3 if self.traits.gated else 2
        bias = (2 * self.experts.size + self.hidden_size) if self.experts.bias else 0
        expert = matrices * self.hidden_size * self.experts.size + bias
        return self.sparse_layers * self.experts.count * (expert + self.hidden_size + int(self.experts.bias))

    @property
    def norm_parameters(self) -> int:
        """Parameters of norms and biases: small, and never quantised."""
        if self.counted is not None:
            return self.counted.small
        norms = {"before": 2, "after": 2, "around": 4}[self.traits.placement] - int(
            self.traits.parallel and self.model_type != "gpt_neox"
        )
        width = 2 if self.traits.norm == "layer" else 1
        query, key_value = self.heads * self.head_size, self.key_value_heads * self.head_size
        attention = {"none": 0, "head": 2 * self.head_size, "full": query + key_value}[self.traits.qk_norm]
        bias = query + 2 * key_value if self.traits.qkv_bias else 0
        if not self.traits.gated:
            bias += 2 * self.hidden_size + self.intermediate_size
        return self.layers * (norms * width * self.hidden_size + attention + bias) + width * self.hidden_size

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding, and of the head where it is not the same matrix."""
        if self.counted is not None:
            return self.counted.embeddings
        return self.vocabulary * self.hidden_size * (1 if self.tied_embeddings else 2) + self.position_parameters

    @property
    def parameters(self) -> int:
        """All parameters; tied ones count once."""
        return self.linear_parameters + self.expert_parameters + self.norm_parameters + self.embedding_parameters

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through, without the embedding: what time depends on."""
        share = 1.0 if self.experts is None else self.experts.per_token / self.experts.count
        head = self.vocabulary * self.hidden_size
        return self.linear_parameters + round(self.expert_parameters * share) + head


_RESIDUAL_DROPOUTS = ("resid_pdrop", "hidden_dropout", "residual_dropout")


def _activation(values: Mapping[str, Any]) -> str:
    names = ("hidden_act", "hidden_activation", "activation_function", "activation")
    return str(next((values[name] for name in names if values.get(name)), "silu"))


def _mlp(traits: Traits, hidden: int, size: int, prefix: str) -> Linears:
    names = [prefix + name for name in traits.mlp_names]
    if len(names) == 3:
        return {names[0]: (hidden, size), names[1]: (hidden, size), names[2]: (size, hidden)}
    first = 2 * size if traits.gated else size
    # GPT-2 calls two layers c_proj; the second one gets its path.
    last = f"mlp.{names[1]}" if names[1] == traits.output_name else names[1]
    return {names[0]: (hidden, first), last: (size, hidden)}


def _latent_linears(latent: LatentAttention, hidden: int, heads: int) -> Linears:
    query = heads * (latent.nope_size + latent.rope_size)
    narrow = {"q_proj": (hidden, query)}
    if latent.query_rank is not None:
        narrow = {"q_a_proj": (hidden, latent.query_rank), "q_b_proj": (latent.query_rank, query)}
    return {
        **narrow,
        "kv_a_proj_with_mqa": (hidden, latent.key_value_rank + latent.rope_size),
        "kv_b_proj": (latent.key_value_rank, heads * (latent.nope_size + latent.value_size)),
        "o_proj": (heads * latent.value_size, hidden),
    }


def _latent(values: Mapping[str, Any]) -> LatentAttention | None:
    if values.get("kv_lora_rank") is None:
        return None
    return LatentAttention(
        query_rank=optional_size(values, "q_lora_rank"),
        key_value_rank=size(values, "kv_lora_rank"),
        rope_size=size(values, "qk_rope_head_dim"),
        nope_size=size(values, "qk_nope_head_dim"),
        value_size=size(values, "v_head_dim"),
    )


def _experts(values: Mapping[str, Any], layers: int) -> Experts | None:
    count = optional_size(values, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    if count is None or count < 2:
        return None
    width = size(values, "moe_intermediate_size", "intermediate_size")
    shared = optional_size(values, "shared_expert_intermediate_size") or width * (
        optional_size(values, "n_shared_experts") or 0
    )
    per_token = min(count, optional_size(values, "num_experts_per_tok", "moe_topk", "moe_k") or 1)
    bias = values.get("model_type") == "gpt_oss"
    return Experts(count, per_token, width, shared, _dense_blocks(values, layers), bias=bias)


def _dense_blocks(values: Mapping[str, Any], layers: int) -> int:
    """Blocks with a plain MLP: the first ones, those that are listed, or all but every n-th."""
    step = optional_size(values, "decoder_sparse_step") or 1
    listed = {index for index in entries(values, "mlp_only_layers") if isinstance(index, int) and 0 <= index < layers}
    first = optional_size(values, "first_k_dense_replace") or 0
    return sum(index < first or index in listed or (index + 1) % step != 0 for index in range(layers))


def _sliding(values: Mapping[str, Any], layers: int) -> tuple[int | None, int]:
    """The window, and how many blocks look no further than it."""
    window = optional_size(values, "sliding_window")
    if window is None or values.get("use_sliding_window") is False:
        return None, 0
    kinds = entries(values, "layer_types")
    if kinds:
        return window, sum("sliding" in str(kind) for kind in kinds)
    pattern = optional_size(values, "sliding_window_pattern") or _PATTERNS.get(str(values.get("model_type")), 0)
    return window, layers - layers // pattern if pattern else layers


# Every n-th block of these sees everything, where config.json does not say so.
_PATTERNS = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2, "olmo3": 4}
