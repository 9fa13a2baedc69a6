"""What the decoder blocks of a model type are made of: the facts that config.json leaves to the code of the family.

Read from the modelling code of Transformers 5.17 to 5.23. A type that is not listed counts as Llama-like with what its
config names, and is marked as such: its memory figures get a wider band.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Traits:
    """How one family differs from Llama.

    `placement` of norms: `before` each half of a block, `after` each half, or both (`around`). `qk_norm`: over each head, or
    over all heads at once. `eager_only`: no kernel of torch computes its attention (capped scores, sinks).
    `partial_rotary`: positions turn a part of each head, and joining the parts again makes a copy of another layout.
    `scaled_residual`: each half of a block is scaled before it is added, and the embeddings are scaled apart.
    `own_linears`: a class of its own, which bitsandbytes does not quantise.
    `fused_qkv`, `output_name` and `mlp_names` are the names of the linears where they are not Llama's.
    """

    norm: Literal["rms", "layer"] = "rms"
    placement: Literal["before", "after", "around"] = "before"
    parallel: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"
    qkv_bias: bool = False
    gated: bool = True
    fused_qkv: str | None = None
    output_name: str = "o_proj"
    mlp_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    tied_by_default: bool = False
    eager_only: bool = False
    capped_scores: bool = False
    partial_rotary: bool = False
    scaled_residual: bool = False
    own_linears: bool = False
    known: bool = True


_FUSED_MLP = ("gate_up_proj", "down_proj")

TRAITS: dict[str, Traits] = {
    **dict.fromkeys(("llama", "mistral", "ministral", "mixtral", "deepseek_v2", "deepseek_v3"), Traits()),
    **dict.fromkeys(("qwen2", "qwen2_moe", "seed_oss"), Traits(qkv_bias=True)),
    **dict.fromkeys(("qwen3", "qwen3_moe"), Traits(qk_norm="head")),
    **dict.fromkeys(("olmo2", "olmo3"), Traits(qk_norm="full", placement="after")),
    **dict.fromkeys(("cohere", "cohere2"), Traits(parallel=True, tied_by_default=True)),
    **dict.fromkeys(("olmo",), Traits(norm="layer")),
    "stablelm": Traits(norm="layer", partial_rotary=True),
    "granite": Traits(scaled_residual=True),
    "smollm3": Traits(tied_by_default=True),
    "olmoe": Traits(qk_norm="full"),
    "gpt_oss": Traits(qkv_bias=True, eager_only=True),
    "gemma": Traits(tied_by_default=True),
    "gemma2": Traits(placement="around", tied_by_default=True, eager_only=True, capped_scores=True),
    "gemma3_text": Traits(placement="around", qk_norm="head", tied_by_default=True),
    "glm": Traits(qkv_bias=True, mlp_names=_FUSED_MLP, partial_rotary=True),
    "glm4": Traits(placement="around", qkv_bias=True, mlp_names=_FUSED_MLP, partial_rotary=True),
    "phi3": Traits(fused_qkv="qkv_proj", mlp_names=_FUSED_MLP, partial_rotary=True),
    "phi": Traits(
        norm="layer",
        parallel=True,
        qkv_bias=True,
        gated=False,
        output_name="dense",
        mlp_names=("fc1", "fc2"),
        partial_rotary=True,
    ),
    "starcoder2": Traits(norm="layer", qkv_bias=True, gated=False, mlp_names=("c_fc", "c_proj"), tied_by_default=True),
    "gpt_neox": Traits(
        norm="layer",
        parallel=True,
        qkv_bias=True,
        gated=False,
        fused_qkv="query_key_value",
        output_name="dense",
        mlp_names=("dense_h_to_4h", "dense_4h_to_h"),
        partial_rotary=True,
    ),
    "falcon": Traits(
        norm="layer",
        parallel=True,
        gated=False,
        fused_qkv="query_key_value",
        output_name="dense",
        mlp_names=("dense_h_to_4h", "dense_4h_to_h"),
        tied_by_default=True,
        own_linears=True,
        eager_only=True,
    ),
    "gpt2": Traits(
        norm="layer",
        qkv_bias=True,
        gated=False,
        fused_qkv="c_attn",
        output_name="c_proj",
        mlp_names=("c_fc", "c_proj"),
        tied_by_default=True,
    ),
}


def traits_of(model_type: str) -> Traits:
    """The traits of a model type; those of an unknown one are Llama's, with `known` off."""
    return TRAITS.get(model_type, Traits(known=False))
