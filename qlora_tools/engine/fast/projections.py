"""Products of a decoder layer as autograd functions, one for each group of projections that share an input.

Each keeps only what its backward pass needs: the thin products x A', and inputs that are kept anyway. Gradients are those of
the input and of A and B; the base has none.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .first_order import first_order
from .kernels import rms_norm, rms_norm_backward, rms_normed, swiglu, swiglu_backward
from .weights import Projection, product_in_fp32

Group = Sequence[Projection]


def adapters_of(group: Group) -> list[Tensor]:
    """A and B of all projections that have them, in order: the tensors whose gradients a function returns."""
    return [tensor for one in group if one.adapter is not None for tensor in (one.adapter.a, one.adapter.b)]


def all_a(group: Group, dtype: torch.dtype) -> Tensor | None:
    """The A of a group below each other `[sum of ranks, in]`: one thin product serves all of them."""
    found = [one.adapter.a for one in group if one.adapter is not None]
    return torch.cat(found).to(dtype) if found else None


def thin_product(x: Tensor, group: Group) -> Tensor | None:
    """`x @ all_a(group)'` `[tokens, sum of ranks]`, None where no projection of the group has an adapter."""
    stacked = all_a(group, x.dtype)
    return None if stacked is None else x @ stacked.t()


def project(x: Tensor, thin: Tensor | None, group: Group) -> list[Tensor]:
    """Outputs `[tokens, out]` of a group on `x` `[tokens, in]`; `thin` is `thin_product(x, group)`."""
    outputs, first = [], 0
    for one in group:
        weight = one.weight(x.dtype).t()
        output = x @ weight if one.bias is None else torch.addmm(one.bias, x, weight)
        if one.adapter is not None and thin is not None:
            last = first + one.adapter.a.shape[0]
            output.addmm_(thin[:, first:last], one.adapter.b.to(x.dtype).t(), alpha=one.adapter.scale)
            first = last
        outputs.append(output)
    return outputs


def project_backward(
    gradients: Sequence[Tensor], thin: Tensor | None, group: Group, *, wants_input: bool
) -> tuple[Tensor | None, Tensor | None, list[Tensor]]:
    """Gradient of the input through W and LoRA, that of `thin`, and those of each B, fp32.

    What the A need beside `thin` is the input: see `adapter_gradients`.
    """
    whole, parts, of_b, first = None, [], [], 0
    for gradient, one in zip(gradients, group, strict=True):
        if wants_input:
            weight = one.weight(gradient.dtype)
            whole = gradient @ weight if whole is None else whole.addmm_(gradient, weight)
        if one.adapter is not None and thin is not None:
            last = first + one.adapter.a.shape[0]
            parts.append((gradient @ one.adapter.b.to(gradient.dtype)).mul_(one.adapter.scale))
            of_b.append(product_in_fp32(gradient.t(), thin[:, first:last]).mul_(one.adapter.scale))
            first = last
    of_thin = torch.cat(parts, dim=1) if parts else None
    if whole is not None and of_thin is not None:
        stacked = all_a(group, of_thin.dtype)
        whole.addmm_(of_thin, stacked)
    return whole, of_thin, of_b


def adapter_gradients(of_thin: Tensor | None, x: Tensor, group: Group, of_b: list[Tensor]) -> list[Tensor]:
    """Gradients in the order of `adapters_of`; `x` is the input of the group."""
    if of_thin is None:
        return []
    ranks = [one.adapter.a.shape[0] for one in group if one.adapter is not None]
    of_a = product_in_fp32(of_thin.t(), x).split(ranks)
    return [gradient for pair in zip(of_a, of_b, strict=True) for gradient in pair]


class NormedProjections(Function):
    """RMSNorm and the projections that read it; returns their outputs and `x` itself, for the way around.

    Keeps `x`, its rms and the thin products; the normed input is computed again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, eps: float, group: Group, *adapters: Tensor) -> tuple[Tensor, ...]:
        """`x` is `[tokens, hidden]`, `adapters` are `adapters_of(group)`."""
        normed, inverse = rms_norm(x, norm, eps)
        thin = thin_product(normed, group)
        ctx.save_for_backward(x, norm, inverse, thin)
        ctx.group = group
        return (x.view_as(x), *project(normed, thin, group))

    @staticmethod
    @first_order
    def backward(ctx: Any, around: Tensor, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `x` and of the adapters."""
        x, norm, inverse, thin = ctx.saved_tensors
        wants_input = ctx.needs_input_grad[0]
        whole, of_thin, of_b = project_backward(gradients, thin, ctx.group, wants_input=wants_input)
        found: list[Tensor] = []
        if of_thin is not None:
            found = adapter_gradients(of_thin, rms_normed(x, norm, inverse), ctx.group, of_b)
        of_x = None if whole is None else rms_norm_backward(whole, x, norm, inverse, around)
        return (of_x, None, None, None, *found)


class AddedProjection(Function):
    """`residual + projection(x)`; keeps `x` and the thin product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, one: Projection, *adapters: Tensor) -> Tensor:
        """`x` is `[tokens, in]`, `residual` `[tokens, out]`."""
        thin = thin_product(x, (one,))
        ctx.save_for_backward(x, thin)
        ctx.one = one
        # Not in the product's own sum: the residual is large, and adding LoRA to it would round it a second time.
        return project(x, thin, (one,))[0].add_(residual)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `x`, `residual` and the adapter."""
        x, thin = ctx.saved_tensors
        group = (ctx.one,)
        whole, of_thin, of_b = project_backward((gradient,), thin, group, wants_input=ctx.needs_input_grad[0])
        return (whole, gradient, None, *adapter_gradients(of_thin, x, group, of_b))


class GatedDown(Function):
    """`residual + down(silu(gate) * up)`; keeps gate and up, and computes their product again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, residual: Tensor, one: Projection, *adapters: Tensor) -> Tensor:
        """`gate` and `up` are `[tokens, intermediate]`, `residual` is `[tokens, hidden]`."""
        ctx.save_for_backward(gate, up)
        ctx.one = one
        inner = swiglu(gate, up)
        return project(inner, thin_product(inner, (one,)), (one,))[0].add_(residual)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `gate`, `up`, `residual` and the adapter."""
        gate, up = ctx.saved_tensors
        of_gate, of_up, found = gated_down_backward(gradient, gate, up, ctx.one)
        return (of_gate, of_up, gradient, None, *found)


def gated_down_backward(
    gradient: Tensor, gate: Tensor, up: Tensor, one: Projection
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients of `gate`, `up` and the adapter: the output of the projection itself is not needed."""
    group = (one,)
    found: list[Tensor] = []
    inner = swiglu(gate, up) if one.adapter is not None else None
    thin = None if inner is None else thin_product(inner, group)
    whole, of_thin, of_b = project_backward((gradient,), thin, group, wants_input=True)
    assert whole is not None
    if inner is not None:
        found = adapter_gradients(of_thin, inner, group, of_b)
    return (*swiglu_backward(whole, gate, up), found)
