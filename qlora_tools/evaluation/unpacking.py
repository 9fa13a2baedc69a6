"""4-bit layers on a CPU, unpacked once instead of in every step: the same products, in a fraction of the time."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psutil
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit

from ..models.hardware import Hardware

_SHARE_OF_FREE = 0.4


@contextmanager
def weights_unpacked(model: Any, hardware: Hardware) -> Iterator[None]:
    """Within it, 4-bit layers multiply with weights in the model's dtype that stand in memory, where there is room.

    bitsandbytes unpacks the weights of a layer whenever it is called on a CPU, which costs more than the products of a
    step; what it unpacks them to is the same each time. Elsewhere than on a CPU nothing is changed.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Linear4bit)] if hardware.kind == "cpu" else []
    layers = [layer for layer in layers if layer.compute_dtype in (None, model.dtype)]
    needed = sum(layer.weight.quant_state.shape.numel() for layer in layers) * model.dtype.itemsize
    if needed > _SHARE_OF_FREE * psutil.virtual_memory().available:
        layers = []
    for layer in layers:
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(model.dtype)
        layer.forward = partial(torch.nn.functional.linear, weight=weight, bias=layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
