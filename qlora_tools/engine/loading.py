"""Loading a base model and its tokenizer: from safetensors only, quantised on the way in, never upcast as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch.nn import Embedding, Linear
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from ..config.library_arguments import quantization_arguments
from ..config.schema import QuantizationConfig
from ..disk import DISK_FULL
from ..errors import MachineError, ModelError
from ..models.causal import require_causal_language_model
from ..models.hardware import Hardware
from ..models.reference import ResolvedModel
from .device import require_capable

# What Transformers raises for files that are cut off, of the wrong type, or of an architecture it does not know.
_BROKEN_FILES = (OSError, ValueError, ImportError, KeyError, TypeError, SafetensorError, StrictDataclassError)


@dataclass(frozen=True)
class LoadedModel:
    """A base model on its device, its tokenizer, and the dtype of its matrix products."""

    model: Any
    tokenizer: Any
    compute_dtype: str


def load_tokenizer(resolved: ResolvedModel) -> Any:
    """The model's tokenizer, with a pad token of its own where the vocabulary has a spare one."""
    tokenizer = _from_pretrained(AutoTokenizer, resolved)
    if tokenizer.pad_token_id is None:
        # Labels are built from spans, not from pad ids, so padding with EOS hides nothing from the loss.
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"The tokenizer of {resolved.reference.name} has neither a pad nor an EOS token.",
            next_step="Set eos_token in its tokenizer_config.json.",
        )
    return tokenizer


def load_model(
    resolved: ResolvedModel,
    quantization: QuantizationConfig,
    *,
    compute_dtype: str,
    attention_implementation: str,
    hardware: Hardware,
) -> LoadedModel:
    """Load the base, quantised as configured; embeddings, head and norms in `compute_dtype`.

    Raises `ModelError` for anything but a complete causal language model in safetensors, `MachineError` where
    the processor cannot run the quantised form or memory runs out.
    """
    require_capable(hardware, quantization.kind)
    config = _checked_config(resolved)
    arguments = quantization_arguments(quantization, compute_dtype)
    try:
        model, info = _from_pretrained(
            AutoModelForCausalLM,
            resolved,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else a tensor of another shape is a RuntimeError that does not name it
            dtype=getattr(torch, compute_dtype),
            quantization_config=BitsAndBytesConfig(**arguments) if arguments else None,
            attn_implementation=attention_name(attention_implementation, config.to_dict()),
            device_map={"": 0 if hardware.kind == "cuda" else "cpu"},
        )
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise MachineError(
            f"{resolved.reference.name} does not fit into the memory of {hardware.name}.",
            next_step="Choose a smaller model or quantization.kind: nf4.",
        ) from None
    _check_complete(resolved, info, model)
    keep_autograd(model)
    return LoadedModel(model, load_tokenizer(resolved), compute_dtype)


def attention_name(asked: str, values: Mapping[str, Any]) -> str | None:
    """The implementation by its name in Transformers, or None for the library's choice.

    Before 5.21 that choice is sdpa for models that cap their attention scores, and sdpa leaves the cap out.
    """
    if asked != "auto":
        return asked
    return "eager" if values.get("attn_logit_softcapping") else None


def read_config(resolved: ResolvedModel) -> dict[str, Any]:
    """The model's config as plain data, from its directory or the Hub."""
    return dict(_from_pretrained(AutoConfig, resolved).to_dict())


def _checked_config(resolved: ResolvedModel) -> Any:
    config = _from_pretrained(AutoConfig, resolved)
    values = config.to_dict()
    require_causal_language_model(values, resolved.reference.name)
    quantized = values.get("quantization_config")
    if quantized:
        raise ModelError(
            f"{resolved.reference.name} is quantised already ({quantized.get('quant_method', 'unknown')}).",
            next_step="Give the original 16-bit model; qlora-tools quantises it while loading.",
        )
    return config


def _from_pretrained(auto_class: Any, resolved: ResolvedModel, **arguments: Any) -> Any:
    try:
        # Said outright: left out, Transformers may ask on the terminal whether to run a model's own code.
        return auto_class.from_pretrained(
            resolved.location, trust_remote_code=False, local_files_only=True, **arguments
        )
    except _BROKEN_FILES as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise _as_model_error(resolved, error) from None


def _as_model_error(resolved: ResolvedModel, error: BaseException) -> ModelError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = resolved.reference.name
    reason = f"{name} cannot be loaded: {lines[0] if lines else type(error).__name__}"
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        return ModelError(
            f"{name} needs code that is shipped with the model, which is never run.",
            next_step="Choose a model whose architecture is part of Transformers.",
        )
    step = "Check that it is a complete model of an architecture that Transformers knows."
    return ModelError(reason, next_step=step)


def _check_complete(resolved: ResolvedModel, info: dict[str, Any], model: Any) -> None:
    missing = sorted(info["missing_keys"])
    others = {*(str(item[0]) for item in info["mismatched_keys"]), *_of_another_shape(model)}
    mismatched = sorted(others.difference(missing))
    if missing or mismatched:
        shown = ", ".join([*missing, *mismatched][:3])
        raise ModelError(
            f"The weights of {resolved.reference.name} do not fit its config.json: {len(missing)} tensors are missing and "
            f"{len(mismatched)} have another shape ({shown}).",
            next_step="Fetch the model again; left like this, those layers would be random.",
        )


def _of_another_shape(model: Any) -> list[str]:
    """Weights of another shape than their layers have: Transformers lets them pass where it quantises, 5.17 all of them."""
    layers = {
        f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Linear | Embedding)
    }
    return [name for name, layer in layers.items() if _stored_shape(layer.weight) != _shape(layer)]


def _shape(layer: Linear | Embedding) -> tuple[int, int]:
    if isinstance(layer, Embedding):
        return layer.num_embeddings, layer.embedding_dim
    return layer.out_features, layer.in_features


def _stored_shape(weight: torch.nn.Parameter) -> tuple[int, ...]:
    packed = getattr(weight, "quant_state", None)
    return tuple(packed.shape if packed is not None else weight.shape)


def keep_autograd(model: Any) -> None:
    """Keep bitsandbytes from repacking weights for CPU inference: that path has no autograd, and it stays for good."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
