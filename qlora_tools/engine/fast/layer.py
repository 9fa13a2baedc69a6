"""One decoder layer, whose activations are kept or computed again in the backward pass."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .dropout import within
from .first_order import first_order
from .mlp import KeptMlp, Mlp
from .projections import Group
from .self_attention import KeptAttention, Place, SelfAttention


@dataclass(frozen=True)
class Kept:
    """What the backward pass of a layer reads beside its input. It serves once."""

    attention: KeptAttention
    middle: Tensor
    mlp: tuple[KeptMlp, ...]


@dataclass(frozen=True)
class Layer:
    """Self-attention, then the MLP, with their adapters. `number` counts the layers of the model."""

    number: int
    attention: SelfAttention
    mlp: Mlp

    @property
    def groups(self) -> tuple[Group, Group, Group, Group]:
        """The projections in their order."""
        return self.attention.query_key_value, self.attention.output, self.mlp.gate_up, self.mlp.down

    def adapters(self) -> list[Tensor]:
        """All trained tensors, in the order of `backward`."""
        return [*self.attention.adapters(), *self.mlp.adapters()]

    def __call__(self, hidden: Tensor, place: Place, *, keep: bool) -> Tensor:
        """The layer on `hidden` `[tokens, hidden size]`; not to `keep` its activations takes a third more time."""
        if torch.is_grad_enabled():
            output: Tensor = _Differentiable.apply(hidden, self, place.layer(self.number), keep, *self.adapters())
            return output
        return self.forward(hidden, place, keep=False)[0]

    def forward(self, x: Tensor, place: Place, *, keep: bool) -> tuple[Tensor, Tensor, Kept | None]:
        """The output, the thin product of the last projection, and what `backward` reads if it is to `keep` that."""
        middle, attention = self.attention.forward(x, place, keep=keep)
        output, down_thin, mlp = self.mlp.forward(middle, within(place.dropout, 2), keep=keep)
        return output, down_thin, Kept(attention, middle, mlp) if keep else None

    def backward(
        self, gradient: Tensor, x: Tensor, down_thin: Tensor, kept: Kept | None, place: Place, *, wants_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of `x` and of `adapters`; all but the output of the last projection is computed again if not kept."""
        if kept is None:
            middle, attention = self.attention.forward(x, place, keep=True)
            kept = Kept(attention, middle, ())
        attention, middle, mlp = kept.attention, kept.middle, kept.mlp
        del kept
        room, dropout = self.attention.output.gradient_room(x.shape[0]), within(place.dropout, 2)
        of_middle = room[:, : self.attention.output.outputs]
        of_mlp = self.mlp.backward(gradient, middle, down_thin, mlp, dropout, of_middle)
        del mlp, middle
        of_x, of_attention = self.attention.backward(room, x, attention, place, wants_input=wants_input)
        return of_x, [*of_attention, *of_mlp]


class _Differentiable(Function):
    """A layer whose backward pass is its own. Not kept, it saves its input and a thin product."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, layer: Layer, place: Place, keep: bool, *adapters: Tensor) -> Tensor:
        """`adapters` are `layer.adapters()`."""
        output, down_thin, ctx.kept = layer.forward(hidden, place, keep=keep)
        ctx.waits = None if keep or place.host is None else place.host.put(hidden)
        ctx.save_for_backward(hidden if ctx.waits is None else None, down_thin)
        ctx.layer, ctx.place = layer, place
        return output

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input and of all adapters. What was kept is used up: a second pass computes it again."""
        hidden, down_thin = ctx.saved_tensors
        if ctx.waits is not None:
            hidden = ctx.place.host.take(ctx.waits)
        wanted = ctx.needs_input_grad[0]
        # What was kept gets no name here: the layer lets go of it piece by piece.
        of_hidden, found = ctx.layer.backward(gradient, hidden, down_thin, _taken(ctx), ctx.place, wants_input=wanted)
        return (of_hidden, None, None, None, *found)


def _taken(ctx: Any) -> Kept | None:
    kept: Kept | None
    kept, ctx.kept = ctx.kept, None
    return kept
