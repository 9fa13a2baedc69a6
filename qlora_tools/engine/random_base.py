"""A base with random weights in a model's true shape, made and quantised layer by layer where it will run.

Memory and speed depend on shapes, not on values, so such a base shows both without a download: a 70B base never
exists in 16 bits.
"""

from collections.abc import Mapping
from typing import Any

import torch
from bitsandbytes.nn import Int8Params, Params4bit
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.auto import AutoHfQuantizer

from ..config.library_arguments import quantization_arguments
from ..config.schema import QuantizationConfig
from .loading import attention_name, keep_autograd

_SPREAD = 0.02  # standard deviation of the weights, that of most published initialisations


def build_random_base(
    values: Mapping[str, Any],
    quantization: QuantizationConfig,
    *,
    compute_dtype: str,
    attention_implementation: str = "auto",
    device: str = "cuda",
) -> Any:
    """The model of config.json `values`, quantised as configured, with weights of standard deviation 0.02."""
    dtype = getattr(torch, compute_dtype)
    attention = attention_name(attention_implementation, values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**values), dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    arguments = quantization_arguments(quantization, compute_dtype)
    if arguments is not None:
        _replace_linears(model, BitsAndBytesConfig(**arguments), quantization)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module._parameters[name] = _random_like(parameter, module, dtype, device)
    _rebuild_buffers(model, device)
    model.tie_weights()
    keep_autograd(model)
    return model


def _replace_linears(model: Any, arguments: BitsAndBytesConfig, quantization: QuantizationConfig) -> None:
    replace_with_bnb_linear(model, modules_to_not_convert=["lm_head", "embed_out"], quantization_config=arguments)
    model.is_loaded_in_4bit = quantization.kind in ("nf4", "fp4")
    model.is_loaded_in_8bit = quantization.kind == "int8"
    model.is_quantized = True
    model.config.quantization_config = arguments
    model.quantization_method = arguments.quantization_method()
    model.hf_quantizer = AutoHfQuantizer.from_config(arguments)


def _random_like(parameter: Any, module: Any, dtype: torch.dtype, device: str) -> Any:
    if parameter.device.type != "meta":
        return parameter
    values = torch.empty(parameter.shape, dtype=dtype, device=device).normal_(0, _SPREAD)
    if values.ndim == 1:
        values = values + 1
    if isinstance(parameter, Params4bit):
        storage = ("quant_type", "compress_statistics", "quant_storage", "blocksize")
        kept = {name: getattr(parameter, name) for name in storage}
        return Params4bit(values, requires_grad=False, module=module, **kept).to(device)
    if isinstance(parameter, Int8Params):
        # Its public ways quantise only what moves from the host to a GPU.
        return Int8Params(values, requires_grad=False, has_fp16_weights=False)._quantize(device)
    return torch.nn.Parameter(values, requires_grad=False)


def _rebuild_buffers(model: Any, device: str) -> None:
    """Buffers that no checkpoint holds: rotary modules are made anew, scales of embeddings are one."""
    for path, module in list(model.named_modules()):
        if not any(buffer.device.type == "meta" for buffer in module.buffers(recurse=False)):
            continue
        if "Rotary" in type(module).__name__:
            with torch.device(device):
                model.set_submodule(path, type(module)(model.config))
            continue
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.ones(buffer.shape, dtype=buffer.dtype, device=device)
