"""The operations of `Kernels` at the shapes of real models: for the report of the compiler and for the stopwatch.

An operation is built from tensors of a maker: shapes without storage for the compiler, drawn values for the stopwatch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """A model and how much work it gets; `rank` columns stand behind rows that share a room with thin products."""

    hidden: int
    inter: int
    heads: int
    key_heads: int
    size: int
    vocabulary: int
    tokens: int = 8192
    rank: int = 16


SHAPES = {
    "8B": Shape(4096, 14336, 32, 8, 128, 128256),
    "1B": Shape(2048, 8192, 32, 8, 64, 128256),
}
CHUNK_ELEMENTS = 2**26  # of logits at a time


@dataclass
class Operation:
    """One call: what it runs with the functions of a module, what it writes, the bytes it has to move; who else does it."""

    run: Callable[[ModuleType], Any]
    written: list[Tensor]
    moved: int
    peer: Callable[[], Any] | None = None


class Maker:
    """Tensors without storage."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def drawn(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.dtype, device="meta")

    def unwritten(self, *shape: int) -> Tensor:
        return self.drawn(*shape)

    def targets(self, rows: int, vocabulary: int) -> Tensor:
        return self.drawn(rows, dtype=torch.int64)

    def quantised(self, rows: int, columns: int, *, nested: bool) -> tuple[Tensor, Any]:
        blocks, wide = rows * columns // 64, torch.float32
        state = SimpleNamespace(shape=(rows, columns), blocksize=64, code=self.drawn(16, dtype=wide), state2=None)
        state.absmax = self.drawn(blocks, dtype=torch.uint8 if nested else wide)
        if nested:
            state.offset = self.drawn(1, dtype=wide)[0]
            state.state2 = SimpleNamespace(
                absmax=self.drawn(-(-blocks // 256), dtype=wide), code=self.drawn(256, dtype=wide), blocksize=256
            )
        return self.drawn(rows * columns // 2, 1, dtype=torch.uint8), state


class RandomMaker(Maker):
    """Tensors of random values on a device; the same seed makes the same ones."""

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int) -> None:
        super().__init__(dtype)
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def drawn(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=dtype or self.dtype)

    def unwritten(self, *shape: int) -> Tensor:
        return torch.full(shape, math.nan, device=self.device, dtype=self.dtype)

    def targets(self, rows: int, vocabulary: int) -> Tensor:
        return torch.randint(vocabulary, (rows,), generator=self.generator, device=self.device)

    def quantised(self, rows: int, columns: int, *, nested: bool) -> tuple[Tensor, Any]:
        from bitsandbytes.functional import quantize_4bit

        return quantize_4bit(self.drawn(rows, columns), compress_statistics=nested, quant_type="nf4")


def size_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def rms_norm(shape: Shape, make: Maker) -> Operation:
    x, weight = make.drawn(shape.tokens, shape.hidden), make.drawn(shape.hidden)
    out = make.unwritten(shape.tokens, shape.hidden + 3 * shape.rank)[:, : shape.hidden]
    return Operation(lambda kernels: kernels.rms_norm(x, weight, 1e-5, out), [out], size_of(x, out))


def rms_normed(shape: Shape, make: Maker) -> Operation:
    x, weight = make.drawn(shape.tokens, shape.hidden), make.drawn(shape.hidden)
    inverse = make.drawn(shape.tokens, 1, dtype=torch.float32)
    out = make.unwritten(shape.tokens, shape.hidden + 3 * shape.rank)[:, : shape.hidden]
    return Operation(lambda kernels: kernels.rms_normed(x, weight, inverse, out), [out], size_of(x, out))


def rms_norm_backward(shape: Shape, make: Maker) -> Operation:
    x, above, around = (make.drawn(shape.tokens, shape.hidden) for _ in range(3))
    weight, inverse = make.drawn(shape.hidden), make.drawn(shape.tokens, 1, dtype=torch.float32)

    def run(kernels: ModuleType) -> None:
        kernels.rms_norm_backward(above, x, weight, inverse, above, around)

    return Operation(run, [above], size_of(x, above, around, above))


def rotated(shape: Shape, make: Maker) -> tuple[Tensor, Tensor, Tensor]:
    """Heads of queries and keys inside the joint projection, cosines, sines."""
    count = shape.heads + shape.key_heads
    joint = make.drawn(shape.tokens, (count + shape.key_heads) * shape.size)
    angles = make.drawn(shape.tokens, shape.size // 2, dtype=torch.float32).repeat(1, 2)
    return joint[:, : count * shape.size].unflatten(-1, (count, shape.size)), angles.cos(), angles.sin()


def rotate(shape: Shape, make: Maker) -> Operation:
    heads, cosine, sine = rotated(shape, make)
    moved = 2 * size_of(heads) + size_of(cosine)
    return Operation(lambda kernels: kernels.rotate(heads, cosine, sine, heads, back=False), [heads], moved)


def rotate_normed(shape: Shape, make: Maker) -> Operation:
    heads, cosine, sine = rotated(shape, make)
    weight, out = make.drawn(shape.size), make.unwritten(*heads.shape)
    moved = 2 * size_of(heads) + size_of(cosine)
    return Operation(lambda kernels: kernels.rotate_normed(heads, weight, 1e-6, cosine, sine, out), [out], moved)


def rotate_normed_backward(shape: Shape, make: Maker) -> Operation:
    heads, cosine, sine = rotated(shape, make)
    weight, above = make.drawn(shape.size), make.drawn(*heads.shape)
    inverse = make.drawn(*heads.shape[:2], 1, dtype=torch.float32)

    def run(kernels: ModuleType) -> None:
        kernels.rotate_normed_backward(above, heads, weight, inverse, cosine, sine, above)

    return Operation(run, [above], 3 * size_of(heads) + size_of(cosine))


def gated(shape: Shape, make: Maker) -> tuple[Tensor, Tensor]:
    """Gate and up inside their room."""
    room = make.drawn(shape.tokens, 2 * shape.inter + 2 * shape.rank)
    return room[:, : shape.inter], room[:, shape.inter : 2 * shape.inter]


def swiglu(shape: Shape, make: Maker) -> Operation:
    gate, up = gated(shape, make)
    out = make.unwritten(shape.tokens, shape.inter + shape.rank)[:, : shape.inter]
    return Operation(lambda kernels: kernels.swiglu(gate, up, out), [out], size_of(gate, up, out))


def swiglu_backward(shape: Shape, make: Maker) -> Operation:
    gate, up = gated(shape, make)
    above = make.drawn(shape.tokens, shape.inter + shape.rank)[:, : shape.inter]
    moved = 2 * size_of(gate, up, above)
    return Operation(lambda kernels: kernels.swiglu_backward(above, gate, up), [above, gate, up], moved)


def cross_entropy(shape: Shape, make: Maker) -> Operation:
    rows = CHUNK_ELEMENTS // shape.vocabulary
    logits, targets = make.drawn(rows, shape.vocabulary), make.targets(rows, shape.vocabulary)
    # The second pass should find the row in the L2 cache: one reading, one writing.
    return Operation(lambda kernels: kernels.cross_entropy(logits, targets), [logits], 2 * size_of(logits))


def cross_entropy_odd(shape: Shape, make: Maker) -> Operation:
    """Rows that begin at odd addresses."""
    logits, targets = make.drawn(128, shape.vocabulary + 1), make.targets(128, shape.vocabulary + 1)
    return Operation(lambda kernels: kernels.cross_entropy(logits, targets), [logits], 2 * size_of(logits))


def decode(shape: Shape, make: Maker, *, nested: bool) -> Operation:
    """The gate projection in its half of the scratch, with its B."""
    packed, state = make.quantised(shape.inter, shape.hidden, nested=nested)
    out = make.unwritten(shape.inter, shape.hidden + 2 * shape.rank)
    b = make.drawn(shape.inter, shape.rank)
    moved = size_of(packed, state.absmax, out, b)

    def stock() -> Tensor:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(packed, state)

    return Operation(lambda kernels: kernels.decode_4bit(packed, state, out, b, 0), [out], moved, stock)


def decode_nested(shape: Shape, make: Maker) -> Operation:
    return decode(shape, make, nested=True)


def decode_single(shape: Shape, make: Maker) -> Operation:
    return decode(shape, make, nested=False)


def decode_odd(shape: Shape, make: Maker) -> Operation:
    """A width that is no multiple of eight."""
    packed, state = make.quantised(512, shape.hidden + 4, nested=True)
    out = make.unwritten(512, shape.hidden + 4)
    return Operation(lambda kernels: kernels.decode_4bit(packed, state, out, None, 0), [out], size_of(packed, out))


OPERATIONS: dict[str, Callable[[Shape, Maker], Operation]] = {
    function.__name__: function
    for function in (
        *(rms_norm, rms_normed, rms_norm_backward, rotate, rotate_normed, rotate_normed_backward),
        *(swiglu, swiglu_backward, cross_entropy, cross_entropy_odd, decode_nested, decode_single, decode_odd),
    )
}
