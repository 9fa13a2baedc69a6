"""Attention of rows that lie side by side: each token sees the earlier ones of its own row."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import scaled_dot_product_attention

from .first_order import first_order
from .kernels import rms_norm, rms_norm_backward, rotate, rotate_backward
from .rows import Rows

# 2.10 has another signature, and 2.11 takes as many key heads as query heads only.
_TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])


class RotaryHeads(Function):
    """Rotary positions on heads `[tokens, heads, size]`; keeps nothing but the angles."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """`cosine` and `sine` are fp32 `[tokens, size]`."""
        ctx.save_for_backward(cosine, sine)
        return rotate(heads, cosine, sine)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the heads."""
        return rotate_backward(gradient, *ctx.saved_tensors), None, None


class NormedRotaryHeads(Function):
    """RMSNorm over each head, then rotary positions, as Qwen3 does; keeps the heads before the norm."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosine: Tensor, sine: Tensor, norm: Tensor, eps: float) -> Tensor:
        """`norm` is `[size]`."""
        normed, inverse = rms_norm(heads, norm, eps)
        ctx.save_for_backward(heads, cosine, sine, norm, inverse)
        return rotate(normed, cosine, sine)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the heads before the norm."""
        heads, cosine, sine, norm, inverse = ctx.saved_tensors
        of_normed = rotate_backward(gradient, cosine, sine)
        return rms_norm_backward(of_normed, heads, norm, inverse), None, None, None, None


def attend(query: Tensor, key: Tensor, value: Tensor, rows: Rows, window: int | None) -> Tensor:
    """Causal attention within each row, `[tokens, heads, size]` to `[tokens, heads * size]`; key heads may be fewer.

    A token sees itself and what is before it, `window` tokens at most where that is given.
    """
    if _has_variable_lengths(query):
        return _by_lengths(query, key, value, rows, window).flatten(1)
    split = [part.split(rows.lengths) for part in (query, key, value)]
    return torch.cat([_row(q, k, v, window) for q, k, v in zip(*split, strict=True)]).flatten(1)


def _row(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
    length, grouped = query.shape[0], query.shape[1] != key.shape[1]
    mask = _band(length, window, query.device) if window is not None and window < length else None
    seen = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
    return seen[0].transpose(0, 1)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    place = torch.arange(length, device=device)
    back = place[:, None] - place[None]
    return (back >= 0) & (back < window)


def _has_variable_lengths(query: Tensor) -> bool:
    if not query.is_cuda or query.dtype == torch.float32 or _TORCH < (2, 11):
        return False
    return bool(torch.cuda.get_device_capability(query.device) >= (8, 0))


def _by_lengths(query: Tensor, key: Tensor, value: Tensor, rows: Rows, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = max(rows.lengths)
    seen = (-1 if window is None else window - 1, 0)
    grouped = query.shape[1] // key.shape[1]
    options: dict[str, Any] = {}
    if grouped > 1 and _TORCH < (2, 12):
        key, value = (part.repeat_interleave(grouped, dim=1) for part in (key, value))
    elif grouped > 1:
        options["enable_gqa"] = True
    found: Tensor = varlen_attn(
        query, key, value, rows.starts, rows.starts, longest, longest, window_size=seen, **options
    )
    return found
