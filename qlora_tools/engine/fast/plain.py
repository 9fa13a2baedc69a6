"""The operations of `Kernels` in plain torch."""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from torch import Tensor
from torch.nn.functional import silu


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
    """See `Kernels.rms_norm`."""
    wide = x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(eps))
    rms_normed(x, weight, inverse, out)
    return inverse


def rms_normed(x: Tensor, weight: Tensor, inverse: Tensor, out: Tensor) -> None:
    """See `Kernels.rms_normed`."""
    torch.mul((x.float() * inverse).to(x.dtype), weight, out=out)


def rms_norm_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, out: Tensor, residual: Tensor | None
) -> None:
    """See `Kernels.rms_norm_backward`."""
    normed = x.float() * inverse
    scaled = gradient.float() * weight
    share = (scaled * normed).mean(-1, keepdim=True)
    result = torch.addcmul(scaled, normed, share, value=-1)
    if residual is None:
        torch.mul(result, inverse, out=out)
    else:
        torch.addcmul(residual, result, inverse, out=out)


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor, out: Tensor, *, back: bool) -> None:
    """See `Kernels.rotate`."""
    half = heads.shape[-1] // 2
    wide, cosine, sine = heads.float(), cosine[:, None], sine[:, None]
    sign = -1 if back else 1
    turned = wide * cosine
    turned[..., :half].addcmul_(wide[..., half:], sine[..., :half], value=-sign)
    turned[..., half:].addcmul_(wide[..., :half], sine[..., half:], value=sign)
    out.copy_(turned)


def rotate_normed(heads: Tensor, weight: Tensor, eps: float, cosine: Tensor, sine: Tensor, out: Tensor) -> Tensor:
    """See `Kernels.rotate_normed`."""
    normed = torch.empty_like(heads)
    inverse = rms_norm(heads, weight, eps, normed)
    rotate(normed, cosine, sine, out, back=False)
    return inverse


def rotate_normed_backward(
    gradient: Tensor, heads: Tensor, weight: Tensor, inverse: Tensor, cosine: Tensor, sine: Tensor, out: Tensor
) -> None:
    """See `Kernels.rotate_normed_backward`."""
    of_normed = torch.empty_like(gradient, dtype=torch.float32)
    rotate(gradient, cosine, sine, of_normed, back=True)
    rms_norm_backward(of_normed, heads, weight, inverse, out, None)


def swiglu(gate: Tensor, up: Tensor, out: Tensor) -> None:
    """See `Kernels.swiglu`."""
    torch.mul(silu(gate.float()), up, out=out)


def swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> None:
    """See `Kernels.swiglu_backward`."""
    wide, wide_gate = gradient.float(), gate.float()
    share = torch.sigmoid(wide_gate)
    activated = wide_gate * share
    # d silu(g) / dg = s + g s (1 - s), with s = sigmoid(g).
    slope = torch.addcmul(share, activated, share.neg().add_(1)).mul_(wide)
    of_up = activated * wide
    torch.mul(activated, up, out=gradient)
    torch.mul(slope, up, out=gate)
    up.copy_(of_up)


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """See `Kernels.cross_entropy`."""
    errors, column = logits.float(), targets[:, None]
    top, place = errors.max(-1, keepdim=True)
    hits = (place == column).sum(dtype=torch.float32)
    chosen = errors.gather(1, column)
    errors.sub_(top).exp_()
    mass = errors.sum(-1, keepdim=True)
    losses = (mass.log() + (top - chosen)).sum()
    errors.div_(mass)
    errors.scatter_add_(1, column, torch.full_like(chosen, -1.0))
    logits.copy_(errors)
    return losses, hits


def decode_4bit(packed: Tensor, state: Any, out: Tensor, b: Tensor | None, first: int) -> None:
    """See `Kernels.decode_4bit`."""
    columns = state.shape[1]
    out[:, :columns] = dequantize_4bit(packed, state)
    if out.shape[1] > columns:
        out[:, columns:] = 0
    if b is not None:
        out[:, columns + first : columns + first + b.shape[1]] = b
