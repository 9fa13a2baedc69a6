"""Which engine trains: the fast one where it knows the model and all that is asked for, else the stock one with a word."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer

from .model import FastModel

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class EngineChoice:
    """The engine of a run and why it is this one."""

    name: Literal["stock", "fast"]
    reason: str


def choose_engine(wanted: str, model: Any) -> EngineChoice:
    """The engine for `training.engine` and a PeftModel with its adapter attached."""
    if wanted == "stock":
        return EngineChoice("stock", "asked for")
    if wanted == "auto":
        return EngineChoice("stock", "auto takes the fast engine once its gain is measured on a GPU")
    reason = why_not_fast(model)
    return EngineChoice("fast", "asked for") if reason is None else EngineChoice("stock", f"not fast: {reason}")


def why_not_fast(model: Any) -> str | None:
    """What the fast engine cannot do of this PeftModel; None where it can do all."""
    config = model.get_base_model().config
    if model.device.type != "cpu":
        return "its path on a GPU has not been measured yet"
    if config.model_type not in FAMILIES:
        return f"it knows {', '.join(FAMILIES)}, and this model is {config.model_type}"
    return _adapter_reason(model) or _architecture_reason(config) or _weights_reason(model)


def _adapter_reason(model: Any) -> str | None:
    if len(model.peft_config) != 1:
        return "it trains one adapter at a time"
    (settings,) = model.peft_config.values()
    if settings.use_dora:
        return "it has no DoRA"
    if settings.lora_dropout:
        return f"it has no dropout, and lora.dropout is {settings.lora_dropout:g}"
    if settings.modules_to_save:
        return "it trains no whole modules (lora.modules_to_save)"
    return None


def _architecture_reason(config: Any) -> str | None:
    if config.hidden_act != "silu":
        return f"it knows the activation silu, and this model has {config.hidden_act}"
    if config.attention_dropout:
        return f"the model drops {config.attention_dropout:g} of its attention"
    return None


def _weights_reason(model: Any) -> str | None:
    causal = model.get_base_model()
    head = causal.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        return "it knows a dense head without bias"
    for layer in causal.model.layers:
        for module in (
            *(getattr(layer.self_attn, name) for name in _ATTENTION),
            *(getattr(layer.mlp, name) for name in _MLP),
        ):
            base = module.get_base_layer() if isinstance(module, LoraLayer) else module
            if type(base) not in (Linear4bit, torch.nn.Linear):
                return f"it knows bases in nf4, fp4 and none, and this one has {type(base).__name__}"
    return _trained_reason(model)


def _trained_reason(model: Any) -> str | None:
    layers = model.get_base_model().model.layers
    known = {id(tensor) for tensor in FastModel(model, keep=[False] * len(layers)).adapters()}
    other = [name for name, one in model.named_parameters() if one.requires_grad and id(one) not in known]
    return f"it trains the seven projections of a layer, and not {other[0]}" if other else None
