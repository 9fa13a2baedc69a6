"""Head and cross entropy of the learnt tokens, without ever holding the logits of all of them."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .first_order import first_order
from .kernels import rms_norm, rms_norm_backward

# Logits of a chunk at once: 256 MiB in fp32.
_CHUNK_ELEMENTS = 2**26


class FinalNorm(Function):
    """RMSNorm before the head; keeps its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, eps: float) -> Tensor:
        """`x` is `[tokens, hidden]`."""
        normed, inverse = rms_norm(x, norm, eps)
        ctx.save_for_backward(x, norm, inverse)
        return normed

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of `x`."""
        return rms_norm_backward(gradient, *ctx.saved_tensors), None, None


class SummedCrossEntropy(Function):
    """Sum of the cross entropies of `hidden @ head'`, and how many targets are the likeliest token.

    The head is frozen, so the gradient of `hidden` is a constant times what the forward pass can compute while it has the
    logits: they are made once, a chunk of tokens at a time.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """`hidden` is `[tokens, hidden size]`, `head` `[vocabulary, hidden size]`; both results are fp32 scalars."""
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        size = max(1, _CHUNK_ELEMENTS // head.shape[0])
        total, likeliest = (torch.zeros((), device=hidden.device) for _ in range(2))
        for first in range(0, hidden.shape[0], size):
            part = slice(first, first + size)
            losses, hits, errors = _chunk(hidden[part] @ head.t(), targets[part])
            total += losses
            likeliest += hits
            if gradient is not None:
                torch.mm(errors.to(hidden.dtype), head, out=gradient[part])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(likeliest)
        return total, likeliest

    @staticmethod
    @first_order
    def backward(ctx: Any, of_total: Tensor, of_likeliest: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of `hidden`, multiplied in fp32: with fp16 `of_total` holds the scale of the loss."""
        (gradient,) = ctx.saved_tensors
        return (gradient.float() * of_total).to(gradient.dtype), None, None


def _chunk(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summed losses, number of hits, and the gradient of the logits `[tokens, vocabulary]`, fp32."""
    errors, column = logits.float(), targets[:, None]
    top, place = errors.max(-1, keepdim=True)
    hit = (place == column).sum()
    chosen = errors.gather(1, column)
    errors.sub_(top).exp_()
    mass = errors.sum(-1, keepdim=True)
    losses = (mass.log() + top - chosen).sum()
    errors.div_(mass)
    errors.scatter_add_(1, column, torch.full_like(chosen, -1.0))
    return losses, hit, errors
