"""The gated MLP of a decoder layer with its norm, forward and backward."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .dropout import Dropout, within
from .kernels import Kernels
from .norm import Norm
from .projections import Group

# Tokens at once: enough for the products, and of a long row gate and up are whole only if they are kept.
_TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class KeptMlp:
    """What the backward pass reads of some tokens. `gate_up` is a gradient room: it is overwritten, so this serves once."""

    inverse: Tensor
    thin: Tensor
    gate_up: Tensor


@dataclass(frozen=True)
class Mlp:
    """`middle + down(silu(gate(n)) * up(n))` with `n = norm(middle)`, some tokens at a time."""

    norm: Norm
    gate_up: Group
    down: Group
    kernels: Kernels

    def adapters(self) -> list[Tensor]:
        """All trained tensors, in the order of `backward`."""
        return [*self.gate_up.adapters(), *self.down.adapters()]

    def forward(
        self, middle: Tensor, dropout: Dropout | None, *, keep: bool
    ) -> tuple[Tensor, Tensor, tuple[KeptMlp, ...]]:
        """The output on `middle` `[tokens, hidden]`, the thin product of `down`, and what is kept for `backward`.

        Not to `keep`, nothing is kept, and `middle` becomes the output.
        """
        output, kept, thin = torch.empty_like(middle) if keep else middle, [], []
        for part, its in _parts(middle.shape[0], dropout):
            opened = self._opened(middle[part], its)
            thin.append(self._closed(opened, middle[part], output[part], its))
            if keep:
                kept.append(opened)
            del opened  # or it would live beside the next
        return output, torch.cat(thin), tuple(kept)

    def backward(
        self,
        gradient: Tensor,
        middle: Tensor,
        down_thin: Tensor,
        kept: Sequence[KeptMlp],
        dropout: Dropout | None,
        out: Tensor,
    ) -> list[Tensor]:
        """Gradient of `middle` into `out`; returns those of `adapters`. What was not kept is computed again."""
        found: list[Tensor] = []
        for number, (part, its) in enumerate(_parts(middle.shape[0], dropout)):
            opened = kept[number] if kept else self._opened(middle[part], its)
            of_normed, more = self._part_backward(gradient[part], middle[part], down_thin[part], opened, its)
            self.kernels.rms_norm_backward(
                of_normed, middle[part], self.norm.weight, opened.inverse, out[part], gradient[part]
            )
            found = [one.add_(other) for one, other in zip(found, more, strict=True)] if found else more
            del opened, of_normed, more
        return found

    def _opened(self, middle: Tensor, dropout: Dropout | None) -> KeptMlp:
        room, norm = self.gate_up.input_room(middle.shape[0]), self.norm
        inverse = self.kernels.rms_norm(middle, norm.weight, norm.eps, room[:, : self.gate_up.inputs])
        gate_up = self.gate_up.gradient_room(middle.shape[0])
        self.gate_up.forward(room, within(dropout, 0), out=gate_up[:, : self.gate_up.outputs])
        return KeptMlp(inverse, self.gate_up.thin(room).clone(), gate_up)  # a view would keep the room

    def _closed(self, opened: KeptMlp, middle: Tensor, out: Tensor, dropout: Dropout | None) -> Tensor:
        room = self.down.input_room(middle.shape[0])
        self.kernels.swiglu(*self._halves(opened), room[:, : self.down.inputs])
        self.down.forward(room, within(dropout, 1), residual=middle, out=out)
        return self.down.thin(room).clone()

    def _part_backward(
        self, gradient: Tensor, middle: Tensor, down_thin: Tensor, opened: KeptMlp, dropout: Dropout | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradient of the normed tokens, and those of `adapters`."""
        room, its = self.down.gradient_room(gradient.shape[0]), within(dropout, 1)
        room[:, : self.down.outputs] = gradient
        of_b = self.down.b_gradients(room, down_thin)
        inner = self.down.input_gradient(room, its)
        self.kernels.swiglu_backward(inner, *self._halves(opened))
        of_down = self.down.gradients(room, inner, of_b, its)
        del inner, room
        room, its = opened.gate_up, within(dropout, 0)
        of_b = self.gate_up.b_gradients(room, opened.thin)
        of_normed = self.gate_up.input_gradient(room, its)
        normed = torch.empty_like(middle)
        self.kernels.rms_normed(middle, self.norm.weight, opened.inverse, normed)
        return of_normed, [*self.gate_up.gradients(room, normed, of_b, its), *of_down]

    def _halves(self, opened: KeptMlp) -> tuple[Tensor, Tensor]:
        gate, up = opened.gate_up[:, : self.gate_up.outputs].chunk(2, dim=1)
        return gate, up


def _parts(tokens: int, dropout: Dropout | None) -> Iterator[tuple[slice, Dropout | None]]:
    """Slices of about the same size, none longer than `_TOKENS_AT_ONCE`, each with masks of its own."""
    count = -(-tokens // _TOKENS_AT_ONCE)
    for number in range(count):
        yield slice(tokens * number // count, tokens * (number + 1) // count), within(dropout, number)
