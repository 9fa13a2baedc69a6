"""The operations of `Kernels` on a CUDA GPU: one launch of a Triton kernel each (`cross_entropy` adds a sum).

Launches are sized by the shapes alone. Nothing is tuned at run time, which would cost seconds in every process. What a model
fixes (columns, heads) is compiled in; what changes from batch to batch (rows, distances between them) is not.
"""

from math import gcd
from typing import Any

import torch
from torch import Tensor

from .gpu_decode import decode_elements_kernel, decode_words_kernel
from .gpu_gate import swiglu_backward_kernel, swiglu_kernel
from .gpu_loss import cross_entropy_kernel
from .gpu_norms import rms_norm_backward_kernel, rms_norm_kernel
from .gpu_rotation import rotate_kernel, rotate_normed_backward_kernel, rotate_normed_kernel

# A tile of a program, in elements: two accesses of 16 bytes of each tensor a thread.
_GATE_COLUMNS = 2048
_HEAD_ELEMENTS = 2048
_ROW_ELEMENTS = 1024
_DECODED_WORDS = 512


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
    """See `Kernels.rms_norm`."""
    inverse = torch.empty((x.shape[0], 1), dtype=torch.float32, device=x.device)
    _norm(x, weight, inverse, out, eps, known=False)
    return inverse


def rms_normed(x: Tensor, weight: Tensor, inverse: Tensor, out: Tensor) -> None:
    """See `Kernels.rms_normed`."""
    _norm(x, weight, inverse, out, 0.0, known=True)


def _norm(x: Tensor, weight: Tensor, inverse: Tensor, out: Tensor, eps: float, *, known: bool) -> None:
    rows, columns = x.shape
    height, shape = _row_tile(columns)
    unit, steps = _steps(x, out)
    rms_norm_kernel[(_parts(rows, height),)](
        *(x, weight, inverse, out, *steps, rows, eps), known=known, columns=columns, unit=unit, **shape
    )


def rms_norm_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, out: Tensor, residual: Tensor | None
) -> None:
    """See `Kernels.rms_norm_backward`."""
    rows, columns = x.shape
    height, shape = _row_tile(columns)
    unit, steps = _steps(gradient, x, out, out if residual is None else residual)
    rms_norm_backward_kernel[(_parts(rows, height),)](
        *(gradient, x, weight, inverse, out, residual, *steps, rows), columns=columns, unit=unit, **shape
    )


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor, out: Tensor, *, back: bool) -> None:
    """See `Kernels.rotate`."""
    grid, shape = _head_tile(heads)
    unit, steps = _steps(heads, out)
    rotate_kernel[grid](heads, cosine, sine, out, *steps, cosine.stride(0), back=back, unit=unit, **shape)


def rotate_normed(heads: Tensor, weight: Tensor, eps: float, cosine: Tensor, sine: Tensor, out: Tensor) -> Tensor:
    """See `Kernels.rotate_normed`."""
    grid, shape = _head_tile(heads)
    inverse = torch.empty((*heads.shape[:2], 1), dtype=torch.float32, device=heads.device)
    unit, steps = _steps(heads, out)
    rotate_normed_kernel[grid](
        *(heads, weight, inverse, cosine, sine, out, *steps, cosine.stride(0), eps), unit=unit, **shape
    )
    return inverse


def rotate_normed_backward(
    gradient: Tensor, heads: Tensor, weight: Tensor, inverse: Tensor, cosine: Tensor, sine: Tensor, out: Tensor
) -> None:
    """See `Kernels.rotate_normed_backward`."""
    grid, shape = _head_tile(heads)
    unit, steps = _steps(gradient, heads, out)
    rotate_normed_backward_kernel[grid](
        *(gradient, heads, weight, inverse, cosine, sine, out, *steps, cosine.stride(0)), unit=unit, **shape
    )


def swiglu(gate: Tensor, up: Tensor, out: Tensor) -> None:
    """See `Kernels.swiglu`."""
    rows, columns = gate.shape
    unit, steps = _steps(gate, up, out)
    swiglu_kernel[(rows * _parts(columns, _GATE_COLUMNS),)](
        *(gate, up, out, *steps), columns=columns, unit=unit, block=_GATE_COLUMNS
    )


def swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> None:
    """See `Kernels.swiglu_backward`."""
    rows, columns = gate.shape
    unit, steps = _steps(gradient, gate, up)
    swiglu_backward_kernel[(rows * _parts(columns, _GATE_COLUMNS),)](
        *(gradient, gate, up, *steps), columns=columns, unit=unit, block=_GATE_COLUMNS
    )


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """See `Kernels.cross_entropy`."""
    rows, vocabulary = logits.shape
    sums = torch.empty((2, rows), dtype=torch.float32, device=logits.device)
    warps = min(32, max(4, _power(vocabulary) // 1024))
    unit, steps = _steps(logits)
    cross_entropy_kernel[(rows,)](
        *(logits, targets, sums, *steps, rows), vocabulary=vocabulary, unit=unit, lanes=64 * warps, num_warps=warps
    )
    losses, hits = sums.sum(1).unbind()
    return losses, hits


def decode_4bit(packed: Tensor, state: Any, out: Tensor, b: Tensor | None, first: int) -> None:
    """See `Kernels.decode_4bit`."""
    tensors = (packed, state.code, state.absmax, *_outer(state), out, b)
    edges = (0, 0, first) if b is None else (b.stride(0), b.shape[1], first)
    rows, columns = state.shape
    sizes = {"columns": columns, "blocksize": state.blocksize, "enable_fp_fusion": False}
    sizes["blocksize2"] = 1 if state.state2 is None else state.state2.blocksize
    if columns % 8:
        block = min(1024, _power(out.shape[1]))
        grid = (rows * _parts(out.shape[1], block),)
        decode_elements_kernel[grid](*tensors, out.stride(0), *edges, out.shape[1], **sizes, block=block)
        return
    tail = out.shape[1] - columns
    unit, steps = _steps(out)
    programs = _parts(rows * columns // 8, _DECODED_WORDS)
    decode_words_kernel[(programs + _parts(rows * tail, _DECODED_WORDS),)](
        *(*tensors, *steps, *edges, tail, rows, programs), **sizes, unit=unit, block=_DECODED_WORDS
    )


def _outer(state: Any) -> tuple[Tensor | None, ...]:
    """What the block constants are made of, where they are quantised themselves."""
    if state.state2 is None:
        return None, None, None
    return state.state2.absmax, state.state2.code, state.offset


def _steps(*tensors: Tensor) -> tuple[int, list[int]]:
    """The largest of 1, 2, 4, 8 that divides all distances between rows and between heads, and these in units of it."""
    assert all(tensor.stride(-1) == 1 for tensor in tensors), "columns must lie side by side"
    distances = [distance for tensor in tensors for distance in tensor.stride()[:-1]]
    unit = gcd(8, *distances)
    return unit, [distance // unit for distance in distances]


def _parts(length: int, part: int) -> int:
    return -(-length // part)


def _power(length: int) -> int:
    """The next power of two, as a tile must have."""
    return 1 << (length - 1).bit_length()


def _row_tile(columns: int) -> tuple[int, dict[str, int]]:
    """Rows of a program that holds whole rows, and what the kernels of norms are compiled for."""
    block = _power(columns)
    height = max(1, _ROW_ELEMENTS // block)
    return height, {"block": block, "height": height, "num_warps": min(16, max(2, block * height // 512))}


def _head_tile(heads: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """Grid, and what the kernels of rotation are compiled for."""
    tokens, count, size = heads.shape
    block = _power(size // 2)
    height = max(1, min(_power(count), _HEAD_ELEMENTS // (2 * block)))
    shape = {"heads": count, "half": size // 2, "height": height, "block": block}
    return (tokens * _parts(count, height),), {**shape, "num_warps": max(1, height * block // 256)}
