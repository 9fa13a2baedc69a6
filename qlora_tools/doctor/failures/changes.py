"""Changes of a config that mend a failure, as dotted fields with new values. The effective batch stays as it is."""

from typing import Any

from ...config import RunConfig
from .entry import Changes

_SHORTEST_TOKENS = 256
_STEADY_NORM, _STEADY_WARMUP = 0.3, 0.1


def set_to(**values: Any) -> Changes:
    """Fixed values (`training__tracking="none"`); those that the config has already are left out."""
    fields = {name.replace("__", "."): value for name, value in values.items()}

    def changes(config: RunConfig | None) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if config is None or _value(config, name) != value}

    return changes


def less_memory(config: RunConfig | None) -> dict[str, Any]:
    """Smaller micro-batches first, with checkpointing; then what keeps the result; rows are shortened last."""
    if config is None:
        return {}
    training = config.training
    found: dict[str, Any] = _smaller_batches(training.micro_batch_size, training.gradient_accumulation_steps)
    if not training.gradient_checkpointing:
        found["training.gradient_checkpointing"] = True
    if config.model.attention_implementation == "eager":
        found["model.attention_implementation"] = "auto"
    return found or _last_resort(config)


def _smaller_batches(micro: int, accumulation: int) -> dict[str, Any]:
    effective = micro * accumulation
    smaller = next((size for size in range(micro // 2, 0, -1) if effective % size == 0), None)
    if smaller is None:
        return {}
    return {"training.micro_batch_size": smaller, "training.gradient_accumulation_steps": effective // smaller}


def _last_resort(config: RunConfig) -> dict[str, Any]:
    if config.lora.modules_to_save:
        return {"lora.modules_to_save": []}
    if config.training.optimizer != "paged_adamw_8bit":
        return {"training.optimizer": "paged_adamw_8bit"}
    shorter = config.training.max_length_tokens // 2
    return {"training.max_length_tokens": shorter} if shorter >= _SHORTEST_TOKENS else {}


def less_memory_loading(config: RunConfig | None) -> dict[str, Any]:
    """Fewer bits for the base, where it is not in 4 bits with double quantisation already."""
    if config is None:
        return {}
    found: dict[str, Any] = {}
    if config.quantization.kind in ("none", "int8") and config.lora.initialization != "pissa":
        found["quantization.kind"] = "nf4"
    if not config.quantization.double_quantization:
        found["quantization.double_quantization"] = True
    return found


def less_memory_evaluating(config: RunConfig | None) -> dict[str, Any]:
    """Evaluation takes rows of a micro-batch as training does, so that smaller ones help."""
    if config is None:
        return {}
    return _smaller_batches(config.training.micro_batch_size, config.training.gradient_accumulation_steps)


def steadier(config: RunConfig | None) -> dict[str, Any]:
    """Against a loss that is not finite: smaller steps, a slower start, and no fp16 where it was asked for."""
    if config is None:
        return {}
    training = config.training
    found: dict[str, Any] = {"training.learning_rate": training.learning_rate / 2}
    if training.max_gradient_norm > _STEADY_NORM:
        found["training.max_gradient_norm"] = _STEADY_NORM
    if training.warmup_fraction < _STEADY_WARMUP:
        found["training.warmup_fraction"] = _STEADY_WARMUP
    if config.quantization.compute_dtype == "float16":
        found["quantization.compute_dtype"] = "float32"
    return found


def smaller_steps(config: RunConfig | None) -> dict[str, Any]:
    """Half of the learning rate, for a loss that climbs."""
    return {} if config is None else {"training.learning_rate": config.training.learning_rate / 2}


def fewer_epochs(config: RunConfig | None) -> dict[str, Any]:
    """One epoch less, for an evaluation loss that rises while the training loss falls."""
    if config is None or config.training.max_steps is not None or config.training.epochs <= 1:
        return {}
    return {"training.epochs": max(1.0, config.training.epochs - 1)}


def storage_as_computed(config: RunConfig | None) -> dict[str, Any]:
    """FSDP shards only tensors of one dtype: the container of the 4-bit weights gets that of the computation."""
    if config is not None and config.quantization.kind not in ("nf4", "fp4"):
        return {}
    computed = "bfloat16" if config is None else config.quantization.compute_dtype
    return {"quantization.storage_dtype": "bfloat16" if computed == "auto" else computed}


def longer_rows(config: RunConfig | None) -> dict[str, Any]:
    """Twice the length, for answers that were cut off and left nothing to learn."""
    return {} if config is None else {"training.max_length_tokens": 2 * config.training.max_length_tokens}


def _value(config: RunConfig, field: str) -> Any:
    part, _, name = field.partition(".")
    return getattr(getattr(config, part), name, None)
