"""Whether a model is a plain causal language model, by its config.json."""

from collections.abc import Mapping
from typing import Any

from ..errors import ModelError
from .config_fields import entries


def require_causal_language_model(values: Mapping[str, Any], name: str) -> None:
    """Raise `ModelError` for models that are not plain causal language models, by their config.json."""
    architectures = [str(item) for item in entries(values, "architectures")]
    other = values.get("is_encoder_decoder") or any(key in values for key in ("vision_config", "audio_config"))
    causal = not architectures or any(item.endswith(("ForCausalLM", "LMHeadModel")) for item in architectures)
    if other or not causal:
        kind = ", ".join(architectures) or str(values.get("model_type"))
        raise ModelError(
            f"{name} is a {kind}; qlora-tools trains causal language models only (architectures ending in ForCausalLM).",
            next_step="Choose a text-only decoder such as a Llama, Qwen, Mistral, Gemma or Phi model.",
        )
