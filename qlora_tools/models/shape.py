"""The shape of a decoder, read from its config.json: what memory and time depend on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError


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

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> "ModelShape":
        """Read the shape from the content of a config.json; raises `ModelError` where a size is absent."""
        hidden, heads = _size(values, "hidden_size", "n_embd"), _size(values, "num_attention_heads", "n_head")
        return cls(
            model_type=str(values.get("model_type", "unknown")),
            layers=_size(values, "num_hidden_layers", "n_layer"),
            hidden_size=hidden,
            intermediate_size=_size(values, "intermediate_size", "n_inner", otherwise=4 * hidden),
            heads=heads,
            key_value_heads=_size(values, "num_key_value_heads", otherwise=heads),
            head_size=_size(values, "head_dim", otherwise=hidden // heads),
            vocabulary=_size(values, "vocab_size"),
            # Families that tie leave the key out; the two that do not (Llama, Mistral) default to False.
            tied_embeddings=bool(values.get("tie_word_embeddings", values.get("model_type") in _TIED_BY_DEFAULT)),
        )

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Input and output size of each linear layer of one decoder block, by its usual name."""
        query, key_value = self.heads * self.head_size, self.key_value_heads * self.head_size
        return {
            "q_proj": (self.hidden_size, query),
            "k_proj": (self.hidden_size, key_value),
            "v_proj": (self.hidden_size, key_value),
            "o_proj": (query, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
        }

    @property
    def linear_parameters(self) -> int:
        """Parameters of all block linears: what quantisation shrinks."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_shapes().values())

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding, and of the head where it is not the same matrix."""
        return self.vocabulary * self.hidden_size * (1 if self.tied_embeddings else 2)


_TIED_BY_DEFAULT = ("gemma", "gemma2", "gemma3_text", "gpt2")


def require_causal_language_model(values: Mapping[str, Any], name: str) -> None:
    """Raise `ModelError` for models that are not plain causal language models, by their config.json."""
    architectures = [str(item) for item in values.get("architectures") or ()]
    other = values.get("is_encoder_decoder") or any(key in values for key in ("vision_config", "audio_config"))
    causal = not architectures or any(item.endswith(("ForCausalLM", "LMHeadModel")) for item in architectures)
    if other or not causal:
        kind = ", ".join(architectures) or str(values.get("model_type"))
        raise ModelError(
            f"{name} is a {kind}; qlora-tools trains causal language models only (architectures ending in ForCausalLM).",
            next_step="Choose a text-only decoder such as a Llama, Qwen, Mistral, Gemma or Phi model.",
        )


def _size(values: Mapping[str, Any], *names: str, otherwise: int | None = None) -> int:
    found = next((values[name] for name in names if values.get(name) is not None), otherwise)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ModelError(
            f"config.json has no usable {' or '.join(names)} (is {found!r}); a positive whole number is needed.",
            next_step="Check that this is the config.json of a causal language model.",
        )
    return found
