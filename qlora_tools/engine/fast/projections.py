"""Products of the projections that share an input, forward and backward, base and LoRA together.

A group of projections with `in` inputs, `out` outputs and R ranks in all computes `Y = X W' + T B'`, where `T = X A'` is
thin and A has the scale folded in. Inputs lie in a room `[tokens, in + R]` whose last columns take T, and gradients of
outputs in a room `[tokens, out + R]` whose last columns take the gradient of T. So, where the dense weights are decoded side
by side into `[W B]` or above each other into `[W; A]`, base and LoRA are one product with one rounding: `Y = [X T] [W B]'`
and `dX = [dY dT] [W; A]`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from .dropout import Dropout
from .kernels import Kernels
from .weights import Adapter, Projection, Scratch, product_in_fp32

# Products of 16-bit matrices want rows of whole 16 bytes.
_RANK_MULTIPLE = 8


@dataclass(frozen=True)
class _Part:
    """A projection, its place among the outputs and the ranks of its group, and its B in the compute dtype."""

    number: int
    projection: Projection
    rows: slice
    ranks: slice
    b: Tensor | None


class Group:
    """Projections that read the same input, and their adapters in the compute dtype, which follow by `copies`.

    With a `scratch` their weights, all in 4 bits, are decoded into it together. Without, each is multiplied by itself.
    Dropout is before LoRA, with masks of its own for each projection, as in PEFT.
    """

    def __init__(
        self, projections: Sequence[Projection], like: Tensor, kernels: Kernels, scratch: Scratch | None = None
    ) -> None:
        self._kernels = kernels
        self._scratch = scratch if all(one.in_4bit for one in projections) else None
        self._parts = list(_parts(projections, like))
        self.inputs = projections[0].shape[1]
        self.outputs = self._parts[-1].rows.stop
        self.rank = -(-self._parts[-1].ranks.stop // _RANK_MULTIPLE) * _RANK_MULTIPLE
        self._a = like.new_zeros(self.rank, self.inputs)
        self._bias = _stacked_bias(projections, like)

    def copies(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Copies of A and B in the compute dtype, each with its trained tensor and the scale that it takes on."""
        for part, adapter, b in self._with_adapter():
            yield self._a[part.ranks], adapter.a, adapter.scale
            yield b, adapter.b, 1.0

    def adapters(self) -> list[Tensor]:
        """A and B of all projections that have them, in order: the tensors that gradients are of."""
        return [tensor for _, adapter, _ in self._with_adapter() for tensor in (adapter.a, adapter.b)]

    def input_room(self, tokens: int) -> Tensor:
        """Uninitialised `[tokens, in + R]` for `forward`."""
        return self._a.new_empty(tokens, self.inputs + self.rank)

    def gradient_room(self, tokens: int) -> Tensor:
        """Uninitialised `[tokens, out + R]` for the backward pass."""
        return self._a.new_empty(tokens, self.outputs + self.rank)

    def thin(self, room: Tensor) -> Tensor:
        """The last columns of an input room, the thin product, or of a gradient room, its gradient."""
        return room[:, room.shape[1] - self.rank :]

    def forward(
        self, room: Tensor, dropout: Dropout | None, *, residual: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """`residual` and the outputs `[tokens, out]`; the input is in the first columns of `room`, the last become thin."""
        x, thin = room[:, : self.inputs], self.thin(room)
        if dropout is None and self.rank:
            torch.mm(x, self._a.t(), out=thin)
        elif dropout is not None:
            thin.zero_()
            for part, _, _ in self._with_adapter():
                torch.mm(dropout.of(part.number)(x), self._a[part.ranks].t(), out=thin[:, part.ranks])
        if out is None:
            out = room.new_empty(room.shape[0], self.outputs)
        if self._scratch is None:
            self._one_by_one(room, residual, out)
        else:
            self._at_once(room, self._scratch, residual, out)
        return out

    def b_gradients(self, room: Tensor, thin: Tensor) -> list[Tensor]:
        """Gradient of each B, fp32; the last columns of `room`, which holds that of the outputs, become that of `thin`."""
        of_thin, found = self.thin(room), []
        of_thin[:, self._parts[-1].ranks.stop :] = 0
        for part, _, b in self._with_adapter():
            torch.mm(room[:, part.rows], b, out=of_thin[:, part.ranks])
            found.append(product_in_fp32(room[:, part.rows].t(), thin[:, part.ranks]))
        return found

    def input_gradient(self, room: Tensor, dropout: Dropout | None) -> Tensor:
        """Gradient of the input `[tokens, in]` through W and LoRA, after `b_gradients`."""
        out = room.new_empty(room.shape[0], self.inputs)
        rows = self.outputs + (self.rank if dropout is None else 0)
        if self._scratch is None:
            self._one_by_one_backward(room[:, :rows], out)
        else:
            weight = self._scratch.take(rows, self.inputs)
            for part in self._parts:
                stored = part.projection.base.weight
                self._kernels.decode_4bit(stored.data, stored.quant_state, weight[part.rows], None, 0)
            weight[self.outputs :] = self._a[: rows - self.outputs]
            torch.mm(room[:, :rows], weight, out=out)
        if dropout is not None:
            for part, _, _ in self._with_adapter():
                out.add_(dropout.of(part.number)(self.thin(room)[:, part.ranks] @ self._a[part.ranks]))
        return out

    def gradients(self, room: Tensor, x: Tensor, of_b: list[Tensor], dropout: Dropout | None) -> list[Tensor]:
        """Those of `adapters`, from the gradient room after `b_gradients`, the input `[tokens, in]`, and `of_b`."""
        if not of_b:
            return []
        of_thin, adapted = self.thin(room).t(), list(self._with_adapter())
        if dropout is None:
            whole = product_in_fp32(of_thin, x)
            of_a = [whole[part.ranks] for part, _, _ in adapted]
        else:
            dropped = ((part.ranks, dropout.of(part.number)(x)) for part, _, _ in adapted)
            of_a = [product_in_fp32(of_thin[ranks], its) for ranks, its in dropped]
        each = [one.mul_(adapter.scale) for one, (_, adapter, _) in zip(of_a, adapted, strict=True)]
        return [gradient for pair in zip(each, of_b, strict=True) for gradient in pair]

    def _with_adapter(self) -> Iterator[tuple[_Part, Adapter, Tensor]]:
        for part in self._parts:
            if part.projection.adapter is not None and part.b is not None:
                yield part, part.projection.adapter, part.b

    def _at_once(self, room: Tensor, scratch: Scratch, residual: Tensor | None, out: Tensor) -> None:
        weight = scratch.take(self.outputs, room.shape[1])
        for part in self._parts:
            stored = part.projection.base.weight
            self._kernels.decode_4bit(stored.data, stored.quant_state, weight[part.rows], part.b, part.ranks.start)
        added = self._bias if residual is None else residual
        if added is None:
            torch.mm(room, weight.t(), out=out)
        else:
            torch.addmm(added, room, weight.t(), out=out)
        if self._bias is not None and residual is not None:
            out.add_(self._bias)

    def _one_by_one(self, room: Tensor, residual: Tensor | None, out: Tensor) -> None:
        x, thin = room[:, : self.inputs], self.thin(room)
        for part in self._parts:
            here, bias = out[:, part.rows], part.projection.bias
            # Not onto the residual: it is large, and LoRA added to the sum would round it a second time.
            fresh = here if residual is None else torch.empty_like(here)
            torch.mm(x, part.projection.weight(x.dtype).t(), out=fresh)
            if bias is not None:
                fresh.add_(bias)
            if part.b is not None:
                fresh.addmm_(thin[:, part.ranks], part.b.t())
            if residual is not None:
                torch.add(fresh, residual[:, part.rows], out=here)

    def _one_by_one_backward(self, room: Tensor, out: Tensor) -> None:
        for part in self._parts:
            weight = part.projection.weight(room.dtype)
            if part.number:
                out.addmm_(room[:, part.rows], weight)
            else:
                torch.mm(room[:, part.rows], weight, out=out)
        if room.shape[1] > self.outputs:
            out.addmm_(room[:, self.outputs :], self._a)


def _parts(projections: Sequence[Projection], like: Tensor) -> Iterator[_Part]:
    rows = _slices([one.shape[0] for one in projections])
    ranks = _slices([0 if one.adapter is None else one.adapter.a.shape[0] for one in projections])
    for number, one in enumerate(projections):
        b = None if one.adapter is None else torch.empty_like(one.adapter.b, dtype=like.dtype)
        yield _Part(number, one, rows[number], ranks[number], b)


def _slices(sizes: Sequence[int]) -> list[slice]:
    return [slice(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]


def _stacked_bias(projections: Sequence[Projection], like: Tensor) -> Tensor | None:
    if all(one.bias is None for one in projections):
        return None
    return torch.cat([like.new_zeros(one.shape[0]) if one.bias is None else one.bias.to(like) for one in projections])
