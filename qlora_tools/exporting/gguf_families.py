"""How llama.cpp knows the families of Transformers: names, numbers of the architecture, and what its code takes for granted.

Each fact was read in llama.cpp's model code and holds only where it is checked here; a model that departs from what that code
computes is refused instead of being written as something else. tests/test_export_gguf.py runs each family in llama.cpp.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ModelError
from ..untrusted import visible_text

Kind = Literal["f16", "bf16", "f32", "q8_0"]
KINDS: tuple[Kind, ...] = ("f16", "bf16", "f32", "q8_0")
CONVERTER_STEP = (
    "Use the converter of llama.cpp itself: git clone https://github.com/ggml-org/llama.cpp, then "
    "python llama.cpp/convert_hf_to_gguf.py DIRECTORY."
)
# llama.cpp scales the scores of these depths by another rule (its 27B models).
_DEPTHS_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}
_PERIODS = {"gemma2": 2, "gemma3": 6}


@dataclass(frozen=True)
class Family:
    """One architecture of llama.cpp.

    `interleaved`: its rotary embedding turns neighbouring rows of a head, those of Transformers the two halves.
    `norm_offset`: what the model adds to the weights of its norms when it runs. `windows`: it can look back a window only.
    """

    architecture: str
    activation: str = "silu"
    interleaved: bool = False
    norm_offset: float = 0.0
    windows: bool = False
    scalings: tuple[str, ...] = ("default", "linear", "yarn")


FAMILIES = {
    "llama": Family("llama", interleaved=True, scalings=("default", "linear", "yarn", "llama3")),
    "mistral": Family("llama", interleaved=True, scalings=("default", "linear", "yarn", "llama3")),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma2": Family("gemma2", "gelu_pytorch_tanh", norm_offset=1.0, windows=True, scalings=("default",)),
    "gemma3_text": Family("gemma3", "gelu_pytorch_tanh", norm_offset=1.0, windows=True, scalings=("default", "linear")),
    "phi3": Family("phi3", scalings=("default", "longrope")),
}


def family_of(config: Any) -> Family:
    """The family of a model; raises `ModelError` for one that is not written here."""
    kind = str(getattr(config, "model_type", ""))
    require_known_type(kind)
    family = FAMILIES[kind]
    _require(family.activation == _activation(config), f"its activation {_activation(config)!r}")
    _require(not (kind == "qwen3" and config.attention_bias), "biases in its attention")
    return family


def require_known_type(kind: str) -> None:
    """Raise `ModelError` for a `model_type` that is not written here."""
    if kind not in FAMILIES:
        raise ModelError(
            f"Models of the type {visible_text(kind)[:40]!r} cannot be written as GGUF here; {', '.join(FAMILIES)} can.",
            next_step=CONVERTER_STEP,
        )


def head_dim(config: Any) -> int:
    """The width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def write_architecture(writer: Any, config: Any, family: Family) -> list[str]:
    """Write the numbers of the architecture; returns what llama.cpp does differently. Raises `ModelError` before writing."""
    rope = _rope(config)
    kind = str(rope.get("rope_type", "default"))
    _require(kind in family.scalings, f"the rotary scaling {visible_text(kind)[:40]!r}")
    notes = _write_windows(writer, config, family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(_rotary_dim(config, rope, family))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if kind != "default":
        _SCALINGS[kind](writer, config, rope)
    if family.norm_offset:
        _write_gemma(writer, config, family)
    short = short_context(config)
    if short is not None:
        notes.append(
            f"llama.cpp turns all positions by the factors for long texts once its context is over {short:,} tokens, "
            f"Transformers only in texts that long: start it with -c {short} where texts are short."
        )
    return notes


def short_context(config: Any) -> int | None:
    """The largest context at which llama.cpp uses the rotary factors for short texts, where a model has two kinds."""
    rope = _rope(config)
    return int(rope["original_max_position_embeddings"]) if rope.get("rope_type") == "longrope" else None


def _rope(config: Any) -> dict[str, Any]:
    """The rotary parameters of the layers that see everything."""
    found = dict(config.rope_parameters or {})
    return dict(found["full_attention"]) if "full_attention" in found else found


def _rotary_dim(config: Any, rope: dict[str, Any], family: Family) -> int:
    share = rope.get("partial_rotary_factor")
    share = getattr(config, "partial_rotary_factor", None) if share is None else share
    share = 1.0 if share is None else float(share)
    _require(share == 1.0 or family.architecture == "phi3", f"rotary embeddings on {share} of a head")
    return int(share * head_dim(config))


def _write_windows(writer: Any, config: Any, family: Family) -> list[str]:
    """Sliding windows, where llama.cpp knows them for this architecture."""
    layers = list(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if family.windows:
        period = _period([kind == "sliding_attention" for kind in layers], _PERIODS[family.architecture])
        _require(period is not None, "the order of its sliding windows")
        writer.add_sliding_window(window)
        if period != _PERIODS[family.architecture]:
            writer.add_sliding_window_pattern(period)
        return []
    looks_back = "sliding_attention" in layers if layers else window is not None
    if family.architecture == "phi3":
        writer.add_sliding_window(0)
    if looks_back and window < config.max_position_embeddings:
        return [
            f"llama.cpp knows no sliding window for this family: beyond {window:,} tokens of context "
            "it attends to more than the model was made for, and answers may differ."
        ]
    return []


def _period(sliding: list[bool], usual: int) -> int | None:
    """The period with which llama.cpp says the same: every last layer of a period sees everything."""
    candidates = (usual, *range(1, len(sliding) + 2))
    return next((p for p in candidates if all(s == (i % p < p - 1) for i, s in enumerate(sliding))), None)


def _write_gemma(writer: Any, config: Any, family: Family) -> None:
    by_width = config.num_hidden_layers == _DEPTHS_SCALED_BY_WIDTH[family.architecture]
    scale = config.hidden_size // config.num_attention_heads if by_width else head_dim(config)
    _require(config.query_pre_attn_scalar == scale, f"query_pre_attn_scalar {config.query_pre_attn_scalar}")
    if family.architecture == "gemma2":
        capped = config.attn_logit_softcapping and config.final_logit_softcapping
        _require(bool(capped), "attention or logits without a cap")
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        return
    _require(not config.attn_logit_softcapping, "capped attention")
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    local = dict(config.rope_parameters["sliding_attention"])
    _require(local.get("rope_type", "default") == "default", "scaled rotary embeddings in its windows")
    writer.add_rope_freq_base_swa(float(local["rope_theta"]))


def _write_linear(writer: Any, config: Any, rope: dict[str, Any]) -> None:
    from gguf import RopeScalingType

    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(float(rope["factor"]))


def _write_yarn(writer: Any, config: Any, rope: dict[str, Any]) -> None:
    from gguf import RopeScalingType

    unusual = [name for name in ("attention_factor", "mscale", "mscale_all_dim") if rope.get(name) is not None]
    _require(not unusual and rope.get("truncate", True), f"the setting {', '.join(unusual) or 'truncate'} of YaRN")
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(float(rope["factor"]))
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    writer.add_rope_scaling_orig_ctx_len(int(original))
    writer.add_rope_scaling_yarn_beta_fast(float(rope.get("beta_fast") or 32))
    writer.add_rope_scaling_yarn_beta_slow(float(rope.get("beta_slow") or 1))


def _write_longrope(writer: Any, config: Any, rope: dict[str, Any]) -> None:
    """Two lists of factors; which one runs depends on the context that llama.cpp is started with."""
    original = int(rope["original_max_position_embeddings"])
    stretch = config.max_position_embeddings / original
    factor = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    stated = rope.get("attention_factor")
    _require(stated is None or math.isclose(stated, factor, rel_tol=1e-4), f"attention_factor {stated}")
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_rope_scaling_attn_factors(factor)


def _frequencies_are_a_tensor(writer: Any, config: Any, rope: dict[str, Any]) -> None:
    """Llama-3's scaling is a tensor of factors: see `rope_factors`."""


_SCALINGS: dict[str, Callable[[Any, Any, dict[str, Any]], None]] = {
    "linear": _write_linear,
    "yarn": _write_yarn,
    "longrope": _write_longrope,
    "llama3": _frequencies_are_a_tensor,
}


def rope_factors(config: Any) -> dict[str, list[float]]:
    """Factors by which llama.cpp divides rotary frequencies, by the name of their tensor."""
    rope = _rope(config)
    kind = rope.get("rope_type")
    if kind == "longrope":
        return {
            "rope_factors_long.weight": [float(value) for value in rope["long_factor"]],
            "rope_factors_short.weight": [float(value) for value in rope["short_factor"]],
        }
    return {"rope_freqs.weight": _llama3_factors(config, rope)} if kind == "llama3" else {}


def _llama3_factors(config: Any, rope: dict[str, Any]) -> list[float]:
    """Llama-3.1's rule: short waves stay, long ones are stretched by `factor`, those between by a share of it."""
    width, factor = head_dim(config), float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"])
    factors = []
    for place in range(0, width, 2):
        turns = original / (2 * math.pi * float(rope["rope_theta"]) ** (place / width))
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / (kept + (1 - kept) / factor))
    return factors


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ModelError(
            f"llama.cpp does not compute this model as Transformers does: {what} has no equal in its code.",
            next_step="Serve the merged model with vLLM or Transformers instead. " + CONVERTER_STEP,
        )
