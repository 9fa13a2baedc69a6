"""A frozen linear layer with its LoRA: the dense weight on demand, and the adapter in the compute dtype."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor


@dataclass
class Scratch:
    """One buffer that all dense weights share: each is used up by its product before the next is decoded."""

    _buffers: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict)

    def take(self, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Uninitialised memory of this shape, valid until the next call."""
        needed = shape[0] * shape[1]
        held = self._buffers.get((device, dtype))
        if held is None or held.numel() < needed:
            self._buffers[device, dtype] = held = torch.empty(needed, device=device, dtype=dtype)
        return held[:needed].view(*shape)


@dataclass(frozen=True)
class Adapter:
    """LoRA of one linear layer: `a` is `[rank, in]`, `b` `[out, rank]`, both fp32 and trained (arXiv 2106.09685)."""

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True)
class Projection:
    """`x W' + bias + scale (x A') B'`; W is frozen, in NF4, FP4 or dense, and A and B may be absent."""

    base: Any
    adapter: Adapter | None
    scratch: Scratch

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias, where there is one."""
        bias: Tensor | None = self.base.bias
        return bias

    def weight(self, dtype: torch.dtype) -> Tensor:
        """W `[out, in]` in `dtype`. What was decoded is valid until the next call of any projection of this engine."""
        stored = self.base.weight
        if not isinstance(self.base, Linear4bit):
            return stored.to(dtype)
        state = stored.quant_state
        if stored.device.type == "cpu":  # bitsandbytes cannot decode into given memory there
            return dequantize_4bit(stored.data, state).to(dtype)
        out = self.scratch.take(state.shape, stored.device, state.dtype)
        return dequantize_4bit(stored.data, state, out=out).to(dtype)


def product_in_fp32(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` as fp32: gradients of the adapters are not rounded to the compute dtype on their way out."""
    if left.dtype == torch.float32:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
