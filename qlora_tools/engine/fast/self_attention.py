"""The self-attention of a decoder layer with its norm, forward and backward."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .attention import Attention, attention
from .dropout import Dropout, within
from .host import Host
from .kernels import Kernels
from .norm import Norm
from .projections import Group
from .rows import Rows


@dataclass(frozen=True)
class Place:
    """Where the tokens of a micro-batch stand: rotary angles, fp32 `[tokens, size]`, and the rows.

    Inputs of layers that are not kept wait on the `host` where there is one. `dropout` is before LoRA.
    """

    cosine: Tensor
    sine: Tensor
    rows: Rows
    host: Host | None = None
    dropout: Dropout | None = None

    def layer(self, number: int) -> "Place":
        """The same place, with the masks of a layer."""
        return self if self.dropout is None else replace(self, dropout=self.dropout.of(number))


@dataclass(frozen=True)
class Heads:
    """Query, key and value heads side by side, `[tokens, heads, size]`, ready for attention.

    Where a family has norms over each head, `before` is what they read, `inverses` are their reciprocals for query and key.
    """

    ready: Tensor
    before: Tensor | None
    inverses: tuple[Tensor, ...]


@dataclass(frozen=True)
class KeptAttention:
    """What the backward pass reads beside the input."""

    inverse: Tensor
    thin: Tensor
    heads: Heads
    attention: Attention
    output_thin: Tensor


@dataclass(frozen=True)
class SelfAttention:
    """`x + output(attention(turned heads of norm(x)))`.

    `query_norm` and `key_norm` are over each head, `window` is how far back a token sees; None where a family has none.
    `head_counts` are those of queries and of keys.
    """

    norm: Norm
    query_key_value: Group
    query_norm: Norm | None
    key_norm: Norm | None
    output: Group
    head_counts: tuple[int, int]
    head_size: int
    window: int | None
    kernels: Kernels

    def adapters(self) -> list[Tensor]:
        """All trained tensors, in the order of `backward`."""
        return [*self.query_key_value.adapters(), *self.output.adapters()]

    def forward(self, x: Tensor, place: Place, *, keep: bool) -> tuple[Tensor, KeptAttention]:
        """The output on `x` `[tokens, hidden]`; what else is returned serves `backward` only if it is to `keep`."""
        room, group = self.query_key_value.input_room(x.shape[0]), self.query_key_value
        inverse = self.kernels.rms_norm(x, self.norm.weight, self.norm.eps, room[:, : group.inputs])
        heads = self._turned(group.forward(room, within(place.dropout, 0)).view(x.shape[0], -1, self.head_size), place)
        thin = group.thin(room).clone()  # a view would keep the room
        del room
        query, key, value = heads.ready.split(self._split, dim=1)
        seen = attention(query, key, value, place.rows, self.window, keep=keep)
        room = self.output.input_room(x.shape[0])
        room[:, : self.output.inputs] = seen.seen.detach()
        middle = self.output.forward(room, within(place.dropout, 1), residual=x)
        return middle, KeptAttention(inverse, thin, heads, seen, self.output.thin(room).clone())

    def backward(
        self, room: Tensor, x: Tensor, kept: KeptAttention, place: Place, *, wants_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of `x` and of `adapters`; `room` is the gradient room of `output` and holds that of the result."""
        of_b = self.output.b_gradients(room, kept.output_thin)
        of_seen = self.output.input_gradient(room, within(place.dropout, 1))
        of_output = self.output.gradients(room, kept.attention.seen.detach(), of_b, within(place.dropout, 1))
        turned = self._turned_backward(kept.attention.gradients(of_seen), kept.heads, place)
        del of_seen
        group, dropout = self.query_key_value, within(place.dropout, 0)
        of_b = group.b_gradients(turned, kept.thin)
        found = [*group.gradients(turned, self._normed(x, kept), of_b, dropout), *of_output]
        if not wants_input:
            return None, found
        of_x, around = group.input_gradient(turned, dropout), room[:, : self.output.outputs]
        self.kernels.rms_norm_backward(of_x, x, self.norm.weight, kept.inverse, of_x, around)
        return of_x, found

    def _turned(self, heads: Tensor, place: Place) -> Heads:
        if self.query_norm is None or self.key_norm is None:
            turning = heads[:, : sum(self.head_counts)]
            self.kernels.rotate(turning, place.cosine, place.sine, turning, back=False)
            return Heads(heads, None, ())
        ready = torch.empty_like(heads)
        (query, key, value), outs = heads.split(self._split, dim=1), ready.split(self._split, dim=1)
        pairs = ((query, self.query_norm, outs[0]), (key, self.key_norm, outs[1]))
        inverses = [
            self.kernels.rotate_normed(part, norm.weight, norm.eps, place.cosine, place.sine, out)
            for part, norm, out in pairs
        ]
        outs[2].copy_(value)
        return Heads(ready, heads, tuple(inverses))

    def _turned_backward(self, gradients: tuple[Tensor, ...], heads: Heads, place: Place) -> Tensor:
        """The gradient room of the projections, from the gradients of the heads that attention read."""
        room = self.query_key_value.gradient_room(gradients[0].shape[0])
        flat = room[:, : self.query_key_value.outputs].unflatten(1, (-1, self.head_size))
        outs, angles = flat.split(self._split, dim=1), (place.cosine, place.sine)
        for at, norm in enumerate((self.query_norm, self.key_norm)):
            if norm is None or heads.before is None:
                self.kernels.rotate(gradients[at], *angles, outs[at], back=True)
            else:
                before = heads.before.split(self._split, dim=1)[at]
                self.kernels.rotate_normed_backward(
                    gradients[at], before, norm.weight, heads.inverses[at], *angles, outs[at]
                )
        outs[2].copy_(gradients[2])
        return room

    def _normed(self, x: Tensor, kept: KeptAttention) -> Tensor:
        normed = torch.empty_like(x)
        self.kernels.rms_normed(x, self.norm.weight, kept.inverse, normed)
        return normed

    @property
    def _split(self) -> list[int]:
        queries, keys = self.head_counts
        return [queries, keys, keys]
