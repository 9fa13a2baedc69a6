"""Which engine trains: the fast one where it knows the model and all that is asked for, else the stock one with a word."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer

from ...memory.fast_limits import adapter_reason, architecture_reason, device_reason, family_reason
from .families import FAMILIES


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
    return (
        device_reason(model.device.type)
        or family_reason(config.model_type)
        or _adapter_reason(model)
        or _architecture_reason(model.get_base_model())
        or _weights_reason(model)
    )


def _adapter_reason(model: Any) -> str | None:
    if len(model.peft_config) != 1:
        return "it trains one adapter at a time"
    (settings,) = model.peft_config.values()
    return adapter_reason(uses_dora=settings.use_dora, saves_modules=bool(settings.modules_to_save))


def _architecture_reason(causal: Any) -> str | None:
    config, decoder = causal.config, causal.model
    dropped = max(config.attention_dropout, getattr(config, "resid_pdrop", 0.0))
    turned, size = 2 * decoder.rotary_emb.inv_freq.numel(), decoder.layers[0].self_attn.head_dim
    return architecture_reason(config.hidden_act, dropped, turned, size)


def _weights_reason(model: Any) -> str | None:
    head = model.get_base_model().get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        return "it knows a dense head without bias"
    for module in _projections(model):
        base = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if type(base) not in (Linear4bit, torch.nn.Linear):
            return f"it knows bases in nf4, fp4 and none, and this one has {type(base).__name__}"
    return _trained_reason(model)


def _trained_reason(model: Any) -> str | None:
    known = {id(one) for module in _projections(model) for one in module.parameters()}
    other = [name for name, one in model.named_parameters() if one.requires_grad and id(one) not in known]
    return f"it trains the seven projections of a layer, and not {other[0]}" if other else None


def _projections(model: Any) -> Iterator[Any]:
    causal = model.get_base_model()
    for layer in causal.model.layers:
        yield from FAMILIES[causal.config.model_type].projections(layer)
