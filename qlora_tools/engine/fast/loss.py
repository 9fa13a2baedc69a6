"""Last norm, head and cross entropy of the learnt tokens, without ever holding the logits of all of them."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .first_order import first_order
from .kernels import Kernels
from .norm import Norm

# Logits of a chunk at once: 128 MiB in 16 bits.
_CHUNK_ELEMENTS = 2**26


class SummedCrossEntropy(Function):
    """Sum of the cross entropies of `norm(hidden) @ head'`, and how many targets are the likeliest token.

    Norm and head are frozen, so the gradient of `hidden` is a constant times what the forward pass can compute while it has
    the logits: they are made once, a chunk of tokens at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, norm: Norm, head: Tensor, targets: Tensor, kernels: Kernels
    ) -> tuple[Tensor, Tensor]:
        """`hidden` is `[tokens, hidden size]`, `head` `[vocabulary, hidden size]`; both results are fp32 scalars."""
        wanted, normed = ctx.needs_input_grad[0], torch.empty_like(hidden)
        inverse = kernels.rms_norm(hidden, norm.weight, norm.eps, normed)
        size = max(1, _CHUNK_ELEMENTS // head.shape[0])
        room = hidden.new_empty(min(size, hidden.shape[0]), head.shape[0])
        total, likeliest = (torch.zeros((), device=hidden.device) for _ in range(2))
        for first in range(0, hidden.shape[0], size):
            part = normed[first : first + size]
            logits = torch.mm(part, head.t(), out=room[: part.shape[0]])
            losses, hits = kernels.cross_entropy(logits, targets[first : first + size])
            total += losses
            likeliest += hits
            if wanted:  # the normed tokens are used up: their gradient takes their place
                torch.mm(logits, head, out=part)
        if wanted:
            kernels.rms_norm_backward(normed, hidden, norm.weight, inverse, normed, None)
            ctx.save_for_backward(normed)
        ctx.mark_non_differentiable(likeliest)
        return total, likeliest

    @staticmethod
    @first_order
    def backward(ctx: Any, of_total: Tensor, of_likeliest: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of `hidden`, multiplied in fp32: with fp16 `of_total` holds the scale of the loss."""
        (gradient,) = ctx.saved_tensors
        return (gradient.float() * of_total).to(gradient.dtype), None, None, None, None
