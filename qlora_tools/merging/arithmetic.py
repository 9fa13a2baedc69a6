"""The arithmetic of merging, in fp32 and in slices of rows, in PEFT's order of operations so that results are its own.

W + (B A) s for LoRA (arXiv 2106.09685); m (W + BA s) / ||W + BA s|| by rows for DoRA (arXiv 2402.09353).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..models.stored_tensors import StoredTensor
from .plan import Addition, OutputTensor
from .reading import MappedFiles

# Two working copies in fp32 of so many numbers stay in the caches of a processor.
SLICE_ELEMENTS = 2**19
# A product of at most this rank is one block for matrix libraries: adding it while it is computed rounds as adding it after.
_ONE_BLOCK = 128
# Blocks of the quantisation must not be cut.
_BLOCK = 64


def row_slices(tensor: OutputTensor) -> Iterator[tuple[int, int]]:
    """First row and the row after the last, slice by slice; a tensor without columns counts its elements as rows."""
    rows, width = rows_and_width(tensor.source)
    whole = _BLOCK // math.gcd(width, _BLOCK)
    step = max(SLICE_ELEMENTS // max(width, 1) // whole * whole, whole)
    for first in range(0, rows, step):
        # A row on its own is multiplied by another routine, which rounds otherwise: it goes with the rows before it.
        if rows - (first + step) == 1:
            yield first, rows
            return
        yield first, min(first + step, rows)


def rows_and_width(stored: StoredTensor) -> tuple[int, int]:
    """A tensor as rows of numbers: its first dimension and the product of the others."""
    if len(stored.shape) < 2:
        return stored.elements, 1
    return stored.shape[0], stored.elements // max(stored.shape[0], 1)


@dataclass(frozen=True)
class Factors:
    """The factors of one addition in fp32, on the host. `scale` is still to be applied to their product.

    A scaling that is a power of two is in `b` already: this changes no bit and saves a pass. `norms` are DoRA's where they
    go over all rows.
    """

    addition: Addition
    a: torch.Tensor
    b: torch.Tensor
    magnitude: torch.Tensor | None
    bias: torch.Tensor | None
    scale: float
    norms: torch.Tensor | None = None

    @classmethod
    def read(cls, addition: Addition, files: MappedFiles) -> "Factors":
        """Read them; some megabytes at most."""
        pair = addition.pair

        def fp32(stored: StoredTensor) -> torch.Tensor:
            return files.tensor(stored).to(torch.float32, copy=True)

        folded = math.frexp(addition.scaling)[0] == 0.5
        return cls(
            addition,
            fp32(pair.a),
            fp32(pair.b) * addition.scaling if folded else fp32(pair.b),
            None if pair.magnitude is None else fp32(pair.magnitude).reshape(-1),
            None if pair.bias is None else fp32(pair.bias),
            1.0 if folded else addition.scaling,
        )

    def with_norms(self, rows: Callable[[int, int], torch.Tensor], slices: Sequence[tuple[int, int]]) -> "Factors":
        """DoRA's norms of an embedding or a transposed weight, slice by slice; `rows` gives those of the base in fp32."""
        if self.magnitude is None or not self._turned:
            return self
        parts = [torch.linalg.norm(rows(*part) + self.delta(*part), dim=0) for part in slices]
        # The norm of one norm is not always itself to the last bit.
        return replace(self, norms=parts[0] if len(parts) == 1 else torch.linalg.norm(torch.stack(parts), dim=0))

    def delta(self, first: int, last: int) -> torch.Tensor:
        """Rows of the product, scaled, in the layout of the stored weight."""
        product = (self.b @ self.a[:, first:last]).T if self._turned else self.b[first:last] @ self.a
        return product if self.scale == 1 else product.mul_(self.scale)

    def applied(self, weight: torch.Tensor, first: int, last: int, name: str) -> torch.Tensor:
        """These rows of the fp32 `weight` with the adapter in them; `weight` may be changed."""
        if name.endswith(".bias"):
            assert self.bias is not None
            return weight.add_((self.bias * self.addition.scaling)[first:last].reshape(weight.shape))
        if self._adds_while_multiplying:
            left, right = (self.a[:, first:last].T, self.b.T) if self._turned else (self.b[first:last], self.a)
            return weight.addmm_(left, right)
        delta = self.delta(first, last)
        if self.magnitude is None:
            return weight.add_(delta)
        return self._decomposed(weight, delta, first, last)

    @property
    def _turned(self) -> bool:
        return self.addition.pair.embedding or self.addition.fan_in_fan_out

    @property
    def _adds_while_multiplying(self) -> bool:
        return self.magnitude is None and self.scale == 1 and self.a.shape[0] <= _ONE_BLOCK

    def _decomposed(self, weight: torch.Tensor, delta: torch.Tensor, first: int, last: int) -> torch.Tensor:
        assert self.magnitude is not None
        moved = weight + delta
        if self.norms is not None:
            return (self.magnitude / self.norms).view(1, -1) * moved
        return (self.magnitude[first:last] / torch.linalg.norm(moved, dim=1)).view(-1, 1) * moved


def replaced_rows(tensor: OutputTensor, weight: torch.Tensor, first: int, files: MappedFiles) -> torch.Tensor:
    """The slice with those of its rows replaced that were trained apart."""
    if tensor.row_values is None:
        return weight
    values = files.tensor(tensor.row_values)
    for place, row in enumerate(tensor.rows):
        if first <= row < first + weight.shape[0]:
            weight[row - first] = values[place].to(weight.dtype)
    return weight
