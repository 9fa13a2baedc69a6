"""The weights that an adapter was trained against: what is left of a tensor after quantising and dequantising it.

The same codes as bitsandbytes gives to the whole tensor, found slice by slice. Its constants are quantised in their turn
(double quantisation) around the mean of all of them, so the first pass finds the constants and the second the weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from bitsandbytes import functional

from ..config.schema import QuantizationConfig
from ..errors import ModelError

_NESTED_BLOCK = 256
_CELLS = 2**14
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

    def of(self, weight: torch.Tensor, first: int) -> torch.Tensor:
        """Rows from `first` on, `[rows, width]` in the dtype of loading, as fp32 after the round trip."""
        if self.kind == "int8":
            return _int8(weight)
        assert self.constants is not None
        assert self.largest is not None
        begin, flat = first * self.width // BLOCK, weight.reshape(-1).float()
        whole = flat.numel() // BLOCK
        blocks = slice(begin, begin + whole)
        scaled = flat[: whole * BLOCK].reshape(-1, BLOCK) * (1.0 / self.largest[blocks].clamp(min=_LEAST))[:, None]
        values = levels(self.kind).nearest(scaled.reshape(-1)).reshape(-1, BLOCK).mul_(self.constants[blocks][:, None])
        values = values.reshape(-1)
        if flat.numel() % BLOCK:
            # The last block of a tensor may be short, and bitsandbytes divides there.
            rest = levels(self.kind).nearest(flat[whole * BLOCK :] / self.largest[begin + whole].clamp(min=_LEAST))
            values = torch.cat([values, rest * self.constants[begin + whole]])
        # In the dtype of loading, as every forward pass of the training had it.
        return values.to(weight.dtype).float().reshape(weight.shape)


def round_trip(
    quantization: QuantizationConfig,
    read: Callable[[int, int], torch.Tensor],
    shape: tuple[int, int],
    slices: Sequence[tuple[int, int]],
    spread: Spread,
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
        least, most = torch.aminmax(flat[: whole * BLOCK].reshape(-1, BLOCK).float(), dim=1)
        torch.maximum(most, least.neg_(), out=constants[begin : begin + whole])
        if flat.numel() % BLOCK:
            constants[begin + whole] = flat[whole * BLOCK :].float().abs().amax()

    spread(find, slices)
    if not bool(torch.isfinite(constants).all()):
        raise ModelError(
            "The weights of the base have numbers that are not finite.",
            next_step="Fetch the base again; it is damaged.",
        )
    kept = _nested(constants) if quantization.double_quantization else constants
    return RoundTrip(quantization.kind, width, constants, kept)


@dataclass(frozen=True)
class Levels:
    """The sixteen values of a 4-bit kind, found by a table: a search among them is fifty times slower.

    Magnitudes up to 1 fall into cells of equal width. A cell within one level's reach holds it; one that a boundary runs
    through holds NaN, and only there the boundaries are asked.
    """

    values: torch.Tensor
    boundaries: torch.Tensor
    cells: torch.Tensor

    def nearest(self, scaled: torch.Tensor) -> torch.Tensor:
        """The nearest level of each number between -1 and 1; a number on a boundary goes to the lower one."""
        cell = (scaled * _CELLS).to(torch.int32).add_(_CELLS).clamp_(0, 2 * _CELLS)
        found = torch.index_select(self.cells, 0, cell)
        unsure = torch.isnan(found).nonzero().flatten()
        found[unsure] = self.values[torch.bucketize(scaled[unsure], self.boundaries)]
        return found


@cache
def levels(kind: str) -> Levels:
    """The levels of `nf4` or `fp4`, as bitsandbytes has them."""
    values = functional.get_4bit_type(kind, device="cpu").sort().values
    boundaries = (values[:-1] + values[1:]) / 2
    # Numbers are cut towards zero, so that the cell in the middle reaches one width to both sides.
    number = torch.arange(-_CELLS, _CELLS + 1)
    low = (number - (number <= 0).int()).float() / _CELLS
    high = (number + (number >= 0).int()).float() / _CELLS
    first, last = torch.bucketize(low, boundaries), torch.bucketize(high, boundaries)
    return Levels(values, boundaries, torch.where(first == last, values[first], torch.nan))


def _nested(constants: torch.Tensor) -> torch.Tensor:
    offset = constants.mean()
    codes, state = functional.quantize_blockwise(constants - offset, blocksize=_NESTED_BLOCK)
    return functional.dequantize_blockwise(codes, state) + offset


def _int8(weight: torch.Tensor) -> torch.Tensor:
    """LLM.int8() (arXiv 2208.07339): each row by its largest value, from fp16 as bitsandbytes stores it."""
    codes, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
    return functional.int8_vectorwise_dequant(codes, scales)
