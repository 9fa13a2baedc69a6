"""Frozen linear layers with their LoRA, and the memory that dense weights share."""

from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor


class Scratch:
    """One buffer that all dense weights share: each is used up by its product before the next is decoded."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._buffer = torch.empty(0, device=device, dtype=dtype)

    def take(self, rows: int, columns: int) -> Tensor:
        """Uninitialised memory `[rows, columns]`, valid until the next call."""
        if self._buffer.numel() < rows * columns:
            self._buffer = self._buffer.new_empty(0)  # given back before more is asked for
            self._buffer = self._buffer.new_empty(rows * columns)
        return self._buffer[: rows * columns].view(rows, columns)


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

    @property
    def in_4bit(self) -> bool:
        """Whether W has to be decoded."""
        return isinstance(self.base, Linear4bit)

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        rows, columns = self.base.weight.quant_state.shape if self.in_4bit else self.base.weight.shape
        return int(rows), int(columns)

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias, where there is one."""
        bias: Tensor | None = self.base.bias
        return bias

    def weight(self, dtype: torch.dtype) -> Tensor:
        """W `[out, in]` in `dtype`, in memory of its own where it is decoded."""
        stored = self.base.weight
        return (dequantize_4bit(stored.data, stored.quant_state) if self.in_4bit else stored).to(dtype)


def product_in_fp32(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` as fp32: gradients of the adapters are not rounded to the compute dtype on their way out."""
    if left.dtype == torch.float32:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
