"""The element-wise operations of a decoder layer and the decoding of 4-bit weights: what each does, and who does it where.

`plain.py` is torch alone and runs anywhere; `gpu.py` does the same with Triton, and is held to `plain.py` by tests. Results
go to tensors that the caller owns. Matrices are `[rows, columns]` with the columns side by side and any distance between
rows, since they are often part of a wider one. Everything is computed in fp32 and rounded once, on the way out.
None is differentiable by itself: the layer calls both directions.
"""

from typing import Any, Protocol

import torch
from torch import Tensor


class Kernels(Protocol):
    """The operations. An output may be an input of the same shape where this is said."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
        """`x / rms(x) * weight` into `out`; returns the reciprocal of the rms, fp32 `[rows, 1]` (arXiv 1910.07467)."""

    def rms_normed(self, x: Tensor, weight: Tensor, inverse: Tensor, out: Tensor) -> None:
        """The output of `rms_norm` again, from the reciprocal. As in Transformers, it is rounded before the weight."""

    def rms_norm_backward(
        self, gradient: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, out: Tensor, residual: Tensor | None
    ) -> None:
        """Gradient of `x` into `out`, which may be `gradient`; `residual` is what reaches `x` on the way around the norm."""

    def rotate(self, heads: Tensor, cosine: Tensor, sine: Tensor, out: Tensor, *, back: bool) -> None:
        """Rotary positions on `heads` `[tokens, heads, size]` into `out`, which may be `heads` (arXiv 2104.09864).

        `cosine` and `sine` are fp32 `[tokens, size]`, both halves alike; `back` turns the other way, which is the gradient.
        """

    def rotate_normed(
        self, heads: Tensor, weight: Tensor, eps: float, cosine: Tensor, sine: Tensor, out: Tensor
    ) -> Tensor:
        """RMSNorm over each head, rounded, then rotary positions; returns the reciprocals, fp32 `[tokens, heads, 1]`."""

    def rotate_normed_backward(
        self,
        gradient: Tensor,
        heads: Tensor,
        weight: Tensor,
        inverse: Tensor,
        cosine: Tensor,
        sine: Tensor,
        out: Tensor,
    ) -> None:
        """Gradient of the heads before the norm into `out`, which may be `gradient`."""

    def swiglu(self, gate: Tensor, up: Tensor, out: Tensor) -> None:
        """`silu(gate) * up` into `out` (arXiv 2002.05202)."""

    def swiglu_backward(self, gradient: Tensor, gate: Tensor, up: Tensor) -> None:
        """In place: `gradient` becomes `silu(gate) * up`, `gate` and `up` become their gradients."""

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Summed loss of `logits` `[rows, vocabulary]` and number of hits, fp32 scalars; `logits` become the gradient."""

    def decode_4bit(self, packed: Tensor, state: Any, out: Tensor, b: Tensor | None, first: int) -> None:
        """The dense weight `[out, in]` of bitsandbytes' `packed` and quantisation state into the first columns of `out`.

        Columns behind it become `b` `[out, rank]` from column `in + first` on, and zero elsewhere.
        """


def kernels_for(device: torch.device) -> Kernels:
    """Those of the device: Triton's on a GPU."""
    if device.type == "cuda":
        from . import gpu

        return gpu
    from . import plain

    return plain
