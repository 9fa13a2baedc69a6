"""Element-wise arithmetic of a decoder layer, forward and backward: one function for each operation.

Plain torch, which runs anywhere. A kernel for a GPU goes behind the function of the same name, and is held to this one.
Everything is computed in fp32 and rounded once, on the way out. None of these functions is differentiable by itself: the
autograd functions of this package call both directions.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`x / rms(x) * weight` over the last dimension, and the reciprocal of the rms, fp32 `[..., 1]` (arXiv 1910.07467)."""
    wide = x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(eps))
    return rms_normed(x, weight, inverse), inverse


def rms_normed(x: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
    """The output of `rms_norm` again, from what it keeps. As Transformers does, it is rounded before the weight."""
    return (x.float() * inverse).to(x.dtype).mul_(weight)


def rms_norm_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, residual: Tensor | None = None
) -> Tensor:
    """Gradient of `x` from that of the normed output; `residual` is what reaches `x` on the way around the norm."""
    normed = x.float() * inverse
    scaled = gradient.float() * weight
    share = (scaled * normed).mean(-1, keepdim=True)
    result = torch.addcmul(scaled, normed, share, value=-1).mul_(inverse)
    if residual is not None:
        result.add_(residual)
    return result.to(x.dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions on `x` `[tokens, heads, size]`; `cosine` and `sine` are fp32 `[tokens, size]` (arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    wide, cosine, sine = x.float(), cosine[:, None], sine[:, None]
    turned = wide * cosine
    turned[..., :half].addcmul_(wide[..., half:], sine[..., :half], value=-1)
    turned[..., half:].addcmul_(wide[..., :half], sine[..., half:])
    return turned.to(x.dtype)


def rotate_backward(gradient: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Gradient of the input of `rotate`: the rotation the other way."""
    return rotate(gradient, cosine, -sine)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up` (arXiv 2002.05202)."""
    return silu(gate.float()).mul_(up).to(gate.dtype)


def swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `gate` and `up`."""
    wide, wide_gate = gradient.float(), gate.float()
    share = torch.sigmoid(wide_gate)
    activated = wide_gate * share
    # d silu(g) / dg = s + g s (1 - s), with s = sigmoid(g).
    slope = torch.addcmul(share, activated, share.neg().add_(1)).mul_(wide)
    return slope.mul_(up).to(gate.dtype), activated.mul_(wide).to(up.dtype)
