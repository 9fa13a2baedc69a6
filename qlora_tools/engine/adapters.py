"""Attaching a LoRA adapter to a frozen base, and keeping its weights in fp32."""

import difflib
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model

from ..config.library_arguments import ATTENTION_MODULES, lora_arguments
from ..config.schema import LoraConfig
from ..errors import ConfigError, ConfigProblem
from ..models.reference import ResolvedModel
from .loftq import start_from_loftq


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of the adapter and of the whole model, as the model has them before quantisation."""

    trainable: int
    total: int


def attach_adapter(model: Any, lora: LoraConfig, resolved: ResolvedModel) -> Any:
    """Freeze `model` and put an adapter on it; returns the PeftModel, adapter weights in fp32.

    Raises `ConfigError` when target modules are not in the model.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.config.use_cache = False
    targets = _target_modules(model, lora)
    _check_modules_to_save(model, lora)
    adapted = get_peft_model(model, PeftLoraConfig(**lora_arguments(lora, targets)), autocast_adapter_dtype=True)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if resolved.revision is not None:
        # The name that others can load, not the place of this machine's cache.
        settings = adapted.peft_config["default"]
        settings.base_model_name_or_path, settings.revision = resolved.reference.name, resolved.revision
    if lora.initialization == "loftq":
        start_from_loftq(adapted, resolved)
    return adapted


@contextmanager
def initial_adapter(model: Any, lora: LoraConfig) -> Iterator[Path | None]:
    """The untrained adapter on disk while a run lasts, where its start changed the base weights; else None."""
    if lora.initialization != "pissa":
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="qlora-pissa-") as directory:
        settings = model.peft_config["default"]
        # Saved under the name of the default start, or loading it for the conversion would start PiSSA again.
        settings.init_lora_weights = True
        model.save_pretrained(directory)
        settings.init_lora_weights = "pissa"
        yield Path(directory)


def count_parameters(model: Any) -> ParameterCount:
    """Trainable and all parameters of a PeftModel; 4-bit weights count by what they stand for."""
    trainable, total = model.get_nb_trainable_parameters()
    return ParameterCount(trainable, total)


def frozen_dtypes(model: Any) -> Counter[str]:
    """Parameters of the base that are not quantised, counted by dtype."""
    frozen = (p for p in model.parameters() if not p.requires_grad and p.is_floating_point())
    counted: Counter[str] = Counter()
    for parameter in frozen:
        counted[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return counted


def offloaded_parameters(model: Any, device: str) -> int:
    """Parameters that lie elsewhere than on `device` (`cuda` or `cpu`)."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.device.type != device)


@contextmanager
def master_weights_kept(model: Any) -> Iterator[None]:
    """Undo on leaving whatever recasts the adapter: TRL turns the adapters of a quantised model into bf16.

    bf16 steps of 2e-4 are below its rounding, and GradScaler refuses bf16 gradients on fp16 cards.
    """
    kept = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
    yield
    for name, parameter in model.named_parameters():
        if name in kept:
            parameter.data = kept[name]


def _target_modules(model: Any, lora: LoraConfig) -> str | list[str]:
    if lora.target_modules == "all-linear":
        return "all-linear"
    linears = _linear_names(model)
    if lora.target_modules == "attention":
        found = [name for name in ATTENTION_MODULES if name in linears]
        if found:
            return found
        raise _unknown_modules(["attention"], linears)
    missing = [name for name in lora.target_modules if not _is_linear(name, model)]
    if missing:
        raise _unknown_modules(missing, linears)
    return list(lora.target_modules)


def _check_modules_to_save(model: Any, lora: LoraConfig) -> None:
    """Modules trained in full must be there, and not be quantised: codes have no gradient."""
    for name in lora.modules_to_save:
        named = [module for path, module in model.named_modules() if path == name or path.endswith("." + name)]
        frozen = any(not parameter.is_floating_point() for module in named for parameter in module.parameters())
        if not named or frozen:
            reason = "is quantised, and codes cannot be trained" if named else "is not in the model"
            message = f"{name} {reason}; usual ones are embed_tokens and lm_head"
            raise ConfigError([ConfigProblem("lora.modules_to_save", message)], source="for this model")


def _linear_names(model: Any) -> list[str]:
    linears = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return sorted({name.rsplit(".", 1)[-1] for name in linears})


def _is_linear(wanted: str, model: Any) -> bool:
    named = (module for name, module in model.named_modules() if name == wanted or name.endswith("." + wanted))
    return any(isinstance(module, torch.nn.Linear) for module in named)


def _unknown_modules(missing: list[str], linears: list[str]) -> ConfigError:
    near = difflib.get_close_matches(missing[0], linears, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    message = f"the model has no linear layer {', '.join(missing)}{hint}; its linear layers are {', '.join(linears)}"
    return ConfigError([ConfigProblem("lora.target_modules", message)], source="for this model")
