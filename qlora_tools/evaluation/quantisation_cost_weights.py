"""The error of quantised weights, tensor by tensor from safetensors: quantised and read back by bitsandbytes, in slices.

No model is built. At any time a slice of one tensor is held, and of double quantisation the codes of one tensor, half a
byte a weight. What is read back is compared in fp32, so that rounding to a compute dtype is no part of the error.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bitsandbytes.functional import (
    QuantState,
    dequantize_4bit,
    dequantize_blockwise,
    int8_vectorwise_quant,
    quantize_4bit,
    quantize_blockwise,
)
from safetensors import safe_open

from ..adapters.check import stored_name
from ..config.schema import QuantizationConfig
from ..engine.skeleton import read_skeleton
from ..errors import ModelError, WorkStopped
from ..events import Listener, RunEvent, StopAsked
from ..models.stored_tensors import StoredTensor, model_tensors
from ..results.instruments import GridFinding, KindWeights, WeightError
from .quantisation_cost_grid import GridCount

_BLOCK = 64
_NESTED_BLOCK = 256
# On a CPU bitsandbytes takes about 30 bytes a weight while it searches for codes.
_SLICE_ELEMENTS = {"cuda": 1 << 25, "cpu": 1 << 22}
_FLOATING = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class WeightCosts:
    """All that was measured on the files of a model: each tensor in each kind, each kind over all, and what stays."""

    tensors: list[WeightError]
    kinds: list[KindWeights]
    unquantised_parameters: int
    unquantised_bytes: int
    grid: GridFinding


@dataclass
class _Error:
    """Sums over one tensor in one kind."""

    squares: float = 0.0
    largest: float = 0.0
    bits: int = 0

    def add(self, original: torch.Tensor, read_back: torch.Tensor, bits: int) -> None:
        apart = read_back.reshape(original.shape) - original
        self.squares += _squares(apart)
        self.largest = max(self.largest, float(apart.abs().max()))
        self.bits += bits


@dataclass(frozen=True)
class _Codes:
    """A slice in 4 bits: two codes a byte, and the scale of each block of 64."""

    packed: torch.Tensor
    scales: torch.Tensor


@dataclass(frozen=True)
class _Measured:
    """One tensor with its own sum of squares and the error of each kind."""

    tensor: StoredTensor
    squares: float
    errors: dict[str, _Error]

    def shown(self, kind: str) -> WeightError:
        error, parameters = self.errors[kind], self.tensor.elements
        return WeightError(
            tensor=self.tensor.name,
            kind=kind,
            parameters=parameters,
            relative_error=_relative(error.squares, self.squares),
            max_error=error.largest,
            bits_per_parameter=error.bits / parameters,
        )


def measure_weights(
    directory: Path, kinds: Sequence[str], *, on_event: Listener, stop: StopAsked, device: str
) -> WeightCosts:
    """Errors of every tensor that quantisation would touch, in each of `kinds`; `device` is "cuda" or "cpu".

    Raises `ModelError` where files are damaged or hold no weight of a linear layer, `WorkStopped` when asked to end.
    """
    stored = model_tensors(directory)
    chosen = _quantised(directory, stored)
    grid = GridCount()
    measured: list[_Measured] = []
    for tensor in chosen:
        if stop():
            raise WorkStopped(f"Measuring weights was stopped after {len(measured)} of {len(chosen)} tensors.")
        measured.append(_measure(tensor, kinds, device, grid))
        on_event(RunEvent("progress", "tensors", {"done": len(measured), "total": len(chosen)}))
    names = {tensor.name for tensor in chosen}
    left = [tensor for name, tensor in stored.items() if name not in names]
    return WeightCosts(
        [one.shown(kind) for kind in kinds for one in measured],
        [_over_all(kind, measured) for kind in kinds],
        sum(tensor.elements for tensor in left),
        sum(tensor.size_bytes for tensor in left),
        grid.finding(),
    )


def _quantised(directory: Path, stored: Mapping[str, StoredTensor]) -> list[StoredTensor]:
    """The stored weights of the layers that Transformers would replace, told by a model without memory."""
    modules = read_skeleton(directory, QuantizationConfig(), "bfloat16").quantized
    names = [stored_name(f"{module}.weight", stored) for module in sorted(modules)]
    found = [stored[name] for name in names if name is not None]
    chosen = [tensor for tensor in found if tensor.dtype in _FLOATING]
    if not chosen:
        raise ModelError(
            f"No tensor in {directory} is the 16-bit weight of a linear layer that quantisation would replace.",
            next_step="Give a model with plain linear layers in bf16, fp16 or fp32.",
        )
    return chosen


def _measure(tensor: StoredTensor, kinds: Sequence[str], device: str, grid: GridCount) -> _Measured:
    squares = 0.0
    errors = {kind: _Error() for kind in kinds}
    # Codes of double quantisation wait for the scales of the whole tensor, which are quantised together.
    nested: list[_Codes] = []
    for part in _slices(tensor, device):
        squares += _squares(part)
        grid.add(part)
        if "int8" in kinds:
            errors["int8"].add(part, *_through_int8(part))
        for family in dict.fromkeys(kind[:3] for kind in kinds if kind != "int8"):
            quantised = _quantised_4bit(part, family)
            if family in kinds:
                errors[family].add(part, *_read_back(quantised, part.shape, family))
            if f"{family}-double" in kinds:
                nested.append(quantised)
    if nested:
        _add_nested(errors["nf4-double"], nested, _slices(tensor, device))
    return _Measured(tensor, squares, errors)


def _slices(tensor: StoredTensor, device: str) -> Iterator[torch.Tensor]:
    """Rows of the stored tensor, so many that each slice but the last is made of whole blocks."""
    rows, width = tensor.shape
    step = max(_BLOCK, _SLICE_ELEMENTS[device] // width // _BLOCK * _BLOCK)
    with safe_open(tensor.file, framework="pt") as file:
        stored = file.get_slice(tensor.name)
        for start in range(0, rows, step):
            yield stored[start : min(start + step, rows)].to(device)


def _quantised_4bit(part: torch.Tensor, kind: str) -> _Codes:
    codes, state = quantize_4bit(part, blocksize=_BLOCK, quant_type=kind)
    return _Codes(codes, state.absmax)


def _read_back(quantised: _Codes, shape: torch.Size, kind: str) -> tuple[torch.Tensor, int]:
    """What codes and scales stand for in fp32, and their bits."""
    state = QuantState(absmax=quantised.scales, shape=shape, dtype=torch.float32, blocksize=_BLOCK, quant_type=kind)
    return dequantize_4bit(quantised.packed, state), 4 * shape.numel() + 32 * len(quantised.scales)


def _through_int8(part: torch.Tensor) -> tuple[torch.Tensor, int]:
    """LLM.int8() (arXiv 2208.07339): a row is divided by its largest weight; bitsandbytes reads weights as fp16."""
    codes, scales, _ = int8_vectorwise_quant(part.half())
    return codes.float() * scales[:, None] / 127, 8 * part.numel() + 32 * len(scales)


def _add_nested(error: _Error, quantised: Sequence[_Codes], parts: Iterator[torch.Tensor]) -> None:
    """Double quantisation (arXiv 2305.14314): 8-bit scales around their mean, with an fp32 scale for 256 of them."""
    scales = torch.cat([codes.scales for codes in quantised])
    offset = scales.mean()
    nested, state = quantize_blockwise(scales - offset, blocksize=_NESTED_BLOCK)
    read_back = (dequantize_blockwise(nested, state) + offset).split([len(codes.scales) for codes in quantised])
    error.bits = 8 * nested.numel() + 32 * state.absmax.numel() + 32
    for part, codes, again in zip(parts, quantised, read_back, strict=True):
        error.add(part, _read_back(_Codes(codes.packed, again), part.shape, "nf4")[0], 4 * part.numel())


def _over_all(kind: str, measured: Sequence[_Measured]) -> KindWeights:
    errors = [one.shown(kind) for one in measured]
    worst = max(errors, key=lambda error: error.relative_error)
    bits, parameters = sum(one.errors[kind].bits for one in measured), sum(one.tensor.elements for one in measured)
    squares = sum(one.errors[kind].squares for one in measured)
    return KindWeights(
        kind=kind,
        tensors=len(measured),
        relative_error=_relative(squares, sum(one.squares for one in measured)),
        worst_tensor=worst.tensor,
        worst_relative_error=worst.relative_error,
        max_error=max(error.max_error for error in errors),
        bits_per_parameter=bits / parameters,
        size_bytes=-(-bits // 8),
    )


def _relative(error: float, squares: float) -> float:
    return math.sqrt(error / squares) if squares else 0.0


def _squares(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2
