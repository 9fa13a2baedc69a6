"""LoftQ: start the adapter as the best low-rank correction of the quantisation error (Li et al. 2023, arXiv 2310.08659).

One step of its alternation. PEFT's version needs CUDA and leaves out the scale alpha / rank, with which the
correction overshoots; this one divides it out, so that base plus adapter starts nearer to the 16-bit model.
"""

import json
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from peft.tuners.lora.bnb import Linear4bit
from safetensors import safe_open

from ..errors import ModelError
from ..models.reference import ResolvedModel

_PREFIX = "base_model.model."


def start_from_loftq(adapted: Any, resolved: ResolvedModel) -> None:
    """Set A and B of every 4-bit layer so that `dequantised + scale * B @ A` is closest to the original weight.

    Raises `ModelError` when the original weight of a layer is not found under its name.
    """
    directory = Path(resolved.location)
    files = _files_by_tensor(directory)
    for name, module in adapted.named_modules():
        if isinstance(module, Linear4bit):
            tensor = name.removeprefix(_PREFIX) + ".weight"
            if tensor not in files:
                raise ModelError(
                    f"LoftQ needs the original weight {tensor}, which {resolved.reference.name} stores under another name.",
                    next_step="Set lora.initialization: default.",
                )
            with safe_open(directory / files[tensor], framework="pt") as weights:
                _correct(module, weights.get_tensor(tensor))


def _correct(module: Any, original: torch.Tensor) -> None:
    packed = module.get_base_layer().weight
    quantised = dequantize_4bit(packed.data, packed.quant_state).float()
    left, singular, right = torch.linalg.svd(original.to(quantised.device).float() - quantised, full_matrices=False)
    rank, scale = module.r["default"], module.scaling["default"]
    root = (singular[:rank] / scale).sqrt()
    module.lora_B["default"].weight.data = (left[:, :rank] * root).contiguous()
    module.lora_A["default"].weight.data = (root[:, None] * right[:rank]).contiguous()


def _files_by_tensor(directory: Path) -> dict[str, str]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    with safe_open(directory / "model.safetensors", framework="pt") as weights:
        return dict.fromkeys(weights.keys(), "model.safetensors")
