"""One decoder layer, whose activations are kept or computed again in the backward pass."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .attention import NormedRotaryHeads, RotaryHeads, attend
from .first_order import first_order
from .projections import AddedProjection, GatedDown, NormedProjections, adapters_of, gated_down_backward
from .rows import Rows
from .weights import Projection


@dataclass(frozen=True)
class Norm:
    """An RMSNorm with its frozen weight."""

    weight: Tensor
    eps: float


@dataclass(frozen=True)
class Place:
    """Where the tokens of a micro-batch stand: rotary angles, fp32 `[tokens, size]`, and the rows."""

    cosine: Tensor
    sine: Tensor
    rows: Rows


@dataclass(frozen=True)
class Layer:
    """The frozen parts of a decoder layer with their adapters, in the order in which they are used.

    `query_norm` and `key_norm` are over each head, `window` is how far back a token sees; None where a family has none.
    """

    attention_norm: Norm
    query_key_value: tuple[Projection, Projection, Projection]
    query_norm: Norm | None
    key_norm: Norm | None
    output: Projection
    mlp_norm: Norm
    gate_up: tuple[Projection, Projection]
    down: Projection
    head_size: int
    window: int | None

    def adapters(self) -> list[Tensor]:
        """All trained tensors; those of the down projection are the last."""
        return [*self._adapters_before_down(), *adapters_of((self.down,))]

    def __call__(self, hidden: Tensor, place: Place, *, keep: bool) -> Tensor:
        """The layer on `hidden` `[tokens, hidden size]`; not to `keep` its activations takes a third more time."""
        if not keep and torch.is_grad_enabled():
            output: Tensor = _Recomputed.apply(hidden, self, place, *self.adapters())
            return output
        around, gate, up = self.before_down(hidden, place)
        whole: Tensor = GatedDown.apply(gate, up, around, self.down, *adapters_of((self.down,)))
        return whole

    def before_down(self, hidden: Tensor, place: Place) -> tuple[Tensor, Tensor, Tensor]:
        """All but the last product: the residual, gate and up."""
        norm, group = self.attention_norm, self.query_key_value
        around, query, key, value = NormedProjections.apply(hidden, norm.weight, norm.eps, group, *adapters_of(group))
        query = _turned(self._heads(query), place, self.query_norm)
        key = _turned(self._heads(key), place, self.key_norm)
        seen = attend(query, key, self._heads(value), place.rows, self.window)
        middle = AddedProjection.apply(seen, around, self.output, *adapters_of((self.output,)))
        norm, gate_up = self.mlp_norm, self.gate_up
        found: tuple[Tensor, Tensor, Tensor] = NormedProjections.apply(
            middle, norm.weight, norm.eps, gate_up, *adapters_of(gate_up)
        )
        return found

    def _adapters_before_down(self) -> list[Tensor]:
        return adapters_of((*self.query_key_value, self.output, *self.gate_up))

    def _heads(self, flat: Tensor) -> Tensor:
        return flat.view(flat.shape[0], -1, self.head_size)


def _turned(heads: Tensor, place: Place, norm: Norm | None) -> Tensor:
    if norm is None:
        plain: Tensor = RotaryHeads.apply(heads, place.cosine, place.sine)
        return plain
    normed: Tensor = NormedRotaryHeads.apply(heads, place.cosine, place.sine, norm.weight, norm.eps)
    return normed


class _Recomputed(Function):
    """A layer that keeps its input only. The output of its down projection is not computed a second time."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, layer: Layer, place: Place, *adapters: Tensor) -> Tensor:
        """`adapters` are `layer.adapters()`."""
        ctx.save_for_backward(hidden)
        ctx.layer, ctx.place = layer, place
        return layer(hidden, place, keep=True)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input and of all adapters of the layer."""
        layer, wants_input = ctx.layer, ctx.needs_input_grad[0]
        hidden = ctx.saved_tensors[0].detach().requires_grad_(wants_input)
        with torch.enable_grad():
            around, gate, up = layer.before_down(hidden, ctx.place)
        of_gate, of_up, of_down = gated_down_backward(gradient, gate.detach(), up.detach(), layer.down)
        before = [*([hidden] if wants_input else []), *layer.adapters()[: -len(of_down) or None]]
        ends = [(end, its) for end, its in ((around, gradient), (gate, of_gate), (up, of_up)) if end.requires_grad]
        found = iter(torch.autograd.grad([end for end, _ in ends], before, [its for _, its in ends]) if before else ())
        return (next(found) if wants_input else None, None, None, *found, *of_down)
