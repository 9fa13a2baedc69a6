"""What the fast engine knows, as plain facts: the engine asks before it trains, the estimator before it counts."""

from ..config.schema import RunConfig
from ..models.shape import ModelShape

# Kinds of devices that the engine has been measured on. On others a run falls back to the stock one.
MEASURED_ON = ("cpu",)
FAMILIES = ("llama", "mistral", "phi3", "qwen2", "qwen3")


def device_reason(kind: str) -> str | None:
    """Why the fast engine does not train on devices of this kind ("cpu", "cuda"); None where it does."""
    return None if kind in MEASURED_ON else "its path on a GPU has not been measured yet"


def family_reason(model_type: str) -> str | None:
    """Why the fast engine cannot compute a model of this type; None where it can."""
    return None if model_type in FAMILIES else f"it knows {', '.join(FAMILIES)}, and this model is {model_type}"


def architecture_reason(activation: str, dropped: float, turned: int, head_size: int) -> str | None:
    """Why the fast engine cannot compute a model of a known type; None where it can.

    `dropped` is the largest share of activations that the model itself drops, `turned` how many numbers of a head's
    `head_size` its positions turn.
    """
    if activation != "silu":
        return f"it knows the activation silu, and this model has {activation}"
    if dropped:
        return f"the model itself drops {dropped:g} of its activations"
    if turned != head_size:
        return f"it turns whole heads, and this model {turned} of their {head_size} numbers"
    return None


def adapter_reason(*, uses_dora: bool, saves_modules: bool) -> str | None:
    """Why the fast engine cannot train a LoRA adapter with these settings; None where it can."""
    if uses_dora:
        return "it has no DoRA"
    if saves_modules:
        return "it trains no whole modules (lora.modules_to_save)"
    return None


def why_not_fast(config: RunConfig, shape: ModelShape, device: str) -> str | None:
    """Why the fast engine cannot train `config` on a model of `shape` on a kind of `device`; None where it can."""
    lora, kind, size = config.lora, config.quantization.kind, shape.head_size
    turned = 2 * round(size * shape.rotary_share / 2)
    return (
        device_reason(device)
        or family_reason(shape.model_type)
        or adapter_reason(uses_dora=lora.use_dora, saves_modules=bool(lora.modules_to_save))
        or architecture_reason(shape.activation, shape.dropped, turned, size)
        or (None if kind != "int8" else "it knows bases in nf4, fp4 and none, and this one is int8")
    )
