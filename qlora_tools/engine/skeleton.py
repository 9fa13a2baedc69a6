"""What a model is made of, without its weights: built on torch's meta device by Transformers and quantised there too."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import AutoHfQuantizer

from ..config.library_arguments import quantization_arguments
from ..config.schema import QuantizationConfig


@dataclass(frozen=True)
class Skeleton:
    """Names of a model in memory: its embedding, its head, and what stays in fp32.

    `quantized` are the modules whose weights the quantisation replaces, `transposed` those that store them as `[in, out]`;
    `tied` says that head and embedding are one.
    """

    embedding: str
    head: str | None
    tied: bool
    quantized: frozenset[str]
    transposed: frozenset[str]
    kept_in_fp32: tuple[str, ...]


def read_skeleton(location: Path, quantization: QuantizationConfig, compute_dtype: str) -> Skeleton:
    """The skeleton of the model in `location`, as `quantization` would load it."""
    config = AutoConfig.from_pretrained(location, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    names = {id(module): name for name, module in model.named_modules()}
    head = model.get_output_embeddings()
    kept = (*(model._keep_in_fp32_modules or ()), *(getattr(model, "_keep_in_fp32_modules_strict", None) or ()))
    transposed = frozenset(name for name, module in model.named_modules() if isinstance(module, Conv1D))
    return Skeleton(
        embedding=names[id(model.get_input_embeddings())],
        head=None if head is None else names.get(id(head)),
        tied=bool(config.get_text_config().tie_word_embeddings),
        quantized=frozenset(_quantized(model, quantization, compute_dtype)),
        transposed=transposed,
        kept_in_fp32=kept,
    )


def _quantized(model: Any, quantization: QuantizationConfig, compute_dtype: str) -> Iterator[str]:
    arguments = quantization_arguments(quantization, compute_dtype)
    if not arguments:
        return
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    quantizer = AutoHfQuantizer.from_config(BitsAndBytesConfig(**arguments))
    quantizer.preprocess_model(model=model, device_map=None)
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit | Linear8bitLt):
            yield name
