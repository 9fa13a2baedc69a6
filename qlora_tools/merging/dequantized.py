"""The weights that an adapter was trained against: what is left of a tensor after quantising and dequantising it.

The same codes as bitsandbytes gives to the whole tensor, found slice by slice. Its constants are quantised in their turn
(double quantisation) around the mean of all of them, so the first pass finds the constants and the second the weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy
import torch

from ..config.schema import QuantizationConfig
from ..errors import ModelError
from .reading import Scratch

_NESTED_BLOCK = 256
_NESTED_PART = 2**16
_CELLS = 2**14
_MIDDLE = torch.tensor(float(_CELLS))
_REACH = 2**-6
# bitsandbytes' guard against blocks of zeros.
_LEAST = 1e-38
BLOCK = 64
Spread = Callable[[Callable[[tuple[int, int]], None], Sequence[tuple[int, int]]], object]


@dataclass(frozen=True)
class RoundTrip:
    """One quantised tensor: the largest magnitude of each block, and what is kept of it as the block's constant."""

    kind: str
    width: int
    largest: torch.Tensor | None = None
    constants: torch.Tensor | None = None

    def of(self, plain: torch.Tensor, dtype: torch.dtype, first: int, scratch: Scratch) -> torch.Tensor:
        """Rows from `first` on after the round trip, in `scratch`: fp32, as `plain` `[rows, width]` is.

        `dtype` is that of loading. `plain` is not changed.
        """
        if self.kind == "int8":
            return _int8(plain)
        assert self.constants is not None
        assert self.largest is not None
        given, numbers = plain.view(-1), scratch.room("base", plain.numel())
        begin, whole = first * self.width // BLOCK, plain.numel() // BLOCK
        blocks, cut = slice(begin, begin + whole), whole * BLOCK
        self._whole_blocks(given[:cut].view(-1, BLOCK), blocks, numbers[:cut].view(-1, BLOCK), scratch)
        if cut < len(given):
            # The last block of a tensor may be short, and bitsandbytes divides there.
            rest = given[cut:] / self.largest[begin + whole].clamp(min=_LEAST)
            numbers[cut:] = levels(self.kind).searched(rest) * self.constants[begin + whole]
        if dtype == torch.float32:
            return numbers.view(plain.shape)
        # In the dtype of loading, as every forward pass of the training had it.
        rounded = scratch.room("rounded", numbers.numel(), dtype).copy_(numbers)
        return numbers.copy_(rounded).view(plain.shape)

    def _whole_blocks(self, plain: torch.Tensor, blocks: slice, out: torch.Tensor, scratch: Scratch) -> None:
        assert self.constants is not None
        assert self.largest is not None
        torch.mul(plain, (1.0 / self.largest[blocks].clamp(min=_LEAST))[:, None], out=out)
        found = levels(self.kind).nearest(out.view(-1), scratch).view(-1, BLOCK)
        torch.mul(found, self.constants[blocks][:, None], out=out)


def round_trip(
    quantization: QuantizationConfig,
    read: Callable[[int, int], torch.Tensor],
    shape: tuple[int, int],
    slices: Sequence[tuple[int, int]],
    spread: Spread,
    scratch: Scratch,
) -> RoundTrip:
    """Find the constants of a tensor `[rows, width]` whose rows `read` gives; `spread` calls a function for all slices."""
    rows, width = shape
    if quantization.kind == "int8":
        return RoundTrip("int8", width)
    # Made at once: small results between large temporaries would leave holes in memory that nothing fits into again.
    constants = torch.empty(-(-rows * width // BLOCK))

    def find(part: tuple[int, int]) -> None:
        flat = read(*part).reshape(-1)
        begin, whole = part[0] * width // BLOCK, flat.numel() // BLOCK
        constants[begin : begin + whole] = (
            _magnitudes(flat[: whole * BLOCK], scratch).view(-1, BLOCK).amax(1).view(flat.dtype)
        )
        if flat.numel() % BLOCK:
            constants[begin + whole] = flat[whole * BLOCK :].float().abs().amax()

    spread(find, slices)
    if not bool(torch.isfinite(constants.amax())):
        raise ModelError(
            "The weights of the base have numbers that are not finite.",
            next_step="Fetch the base again; it is damaged.",
        )
    kept = _nested(constants, spread) if quantization.double_quantization else constants
    return RoundTrip(quantization.kind, width, constants, kept)


def _magnitudes(numbers: torch.Tensor, scratch: Scratch) -> torch.Tensor:
    """The bits of floating numbers without their signs: integers of the same order, found and compared much faster."""
    bits = torch.int16 if numbers.element_size() == 2 else torch.int32
    return torch.bitwise_and(numbers.view(bits), torch.iinfo(bits).max, out=scratch.room("bits", numbers.numel(), bits))


@dataclass(frozen=True)
class Levels:
    """The sixteen values of a 4-bit kind, found by a table: a search among them is fifty times slower.

    Numbers from -1 to 1 fall into cells of equal width. A cell within one level's reach holds it; one that a boundary runs
    through holds NaN, and only there the boundaries are asked.
    """

    values: torch.Tensor
    boundaries: torch.Tensor
    cells: torch.Tensor

    def nearest(self, scaled: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        """The nearest level of each number between -1 and 1, in `scratch`; one on a boundary goes to the lower level."""
        found = scratch.room("found", scaled.numel())
        torch.add(_MIDDLE, scaled, alpha=_CELLS, out=found)
        cell = scratch.room("cell", scaled.numel(), torch.int32).copy_(found)
        torch.index_select(self.cells, 0, cell, out=found)
        # In torch these two passes take as long as all others together.
        unknown = numpy.isnan(found.numpy(), out=scratch.room("unknown", scaled.numel(), torch.bool).numpy())
        unsure = torch.from_numpy(numpy.flatnonzero(unknown))
        found[unsure] = self.searched(scaled[unsure])
        return found

    def searched(self, scaled: torch.Tensor) -> torch.Tensor:
        """The same by a search among the boundaries."""
        return self.values[torch.bucketize(scaled, self.boundaries)]


@cache
def levels(kind: str) -> Levels:
    """The levels of `nf4` or `fp4`, as bitsandbytes has them."""
    from bitsandbytes import functional

    values = functional.get_4bit_type(kind, device="cpu").sort().values
    boundaries = (values[:-1] + values[1:]) / 2
    # A number that lies beside the edge of a cell may be rounded into the next one: each reaches a little farther.
    number = torch.arange(-_CELLS, _CELLS + 1, dtype=torch.float64)
    first, last = (torch.bucketize((number + reach) / _CELLS, boundaries.double()) for reach in (-_REACH, 1 + _REACH))
    return Levels(values, boundaries, torch.where(first == last, values[first], torch.nan))


def _nested(constants: torch.Tensor, spread: Spread) -> torch.Tensor:
    """What double quantisation keeps: each block of constants stands for itself, but the offset is the mean of all."""
    from bitsandbytes import functional

    offset, kept = constants.mean(), torch.empty_like(constants)

    def keep(part: tuple[int, int]) -> None:
        codes, state = functional.quantize_blockwise(constants[slice(*part)] - offset, blocksize=_NESTED_BLOCK)
        torch.add(functional.dequantize_blockwise(codes, state), offset, out=kept[slice(*part)])

    spread(keep, [(first, min(first + _NESTED_PART, len(kept))) for first in range(0, len(kept), _NESTED_PART)])
    return kept


def _int8(weight: torch.Tensor) -> torch.Tensor:
    """LLM.int8() (arXiv 2208.07339): each row by its largest value, from fp16 as bitsandbytes stores it."""
    from bitsandbytes import functional

    codes, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
    return functional.int8_vectorwise_dequant(codes, scales)
