# mypy: allow-untyped-decorators
"""Rotary positions (arXiv 2104.09864), alone and behind an RMSNorm over each head, as Triton kernels.

A program takes some heads of one token. The two halves of a head turn against each other, so each is a tile of its own.
"""

import triton
import triton.language as tl

from .gpu_norms import rounded_then_weighed


@triton.jit
def heads_of(heads: tl.constexpr, half: tl.constexpr, height: tl.constexpr, block: tl.constexpr) -> tl.tensor:
    """Token (int64), heads, columns of a half, and which of them exist, of this program's tile `[height, block]`."""
    per_token: tl.constexpr = (heads + height - 1) // height
    token = tl.program_id(0) // per_token
    head = (tl.program_id(0) % per_token) * height + tl.arange(0, height)[:, None]
    column = tl.arange(0, block)[None, :]
    return token.to(tl.int64), head, column, (head < heads) & (column < half)


@triton.jit
def angles_of(
    cosine: tl.tensor, sine: tl.tensor, place: tl.tensor, column: tl.tensor, half: tl.constexpr, back: tl.constexpr
) -> tl.tensor:
    """Cosines and sines of half a row, since both halves are the same; `back` is the opposite angle."""
    turned = tl.load(sine + place + column, column < half, other=0.0)
    return tl.load(cosine + place + column, column < half, other=0.0), -turned if back else turned


@triton.jit
def halves_of(start: tl.tensor, column: tl.tensor, kept: tl.tensor, half: tl.constexpr) -> tl.tensor:
    """Both halves of the heads that begin at `start`, fp32."""
    first = tl.load(start + column, kept, other=0.0).to(tl.float32)
    return first, tl.load(start + half + column, kept, other=0.0).to(tl.float32)


@triton.jit
def store_halves(
    start: tl.tensor, column: tl.tensor, kept: tl.tensor, first: tl.tensor, second: tl.tensor, half: tl.constexpr
) -> None:
    """Writes what `halves_of` reads, rounded."""
    tl.store(start + column, first.to(start.dtype.element_ty), kept)
    tl.store(start + half + column, second.to(start.dtype.element_ty), kept)


@triton.jit(do_not_specialize=["token_step", "head_step", "out_token_step", "out_head_step"])
def rotate_kernel(
    x: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    out: tl.tensor,
    token_step: tl.tensor,
    head_step: tl.tensor,
    out_token_step: tl.tensor,
    out_head_step: tl.tensor,
    angle_stride: tl.tensor,
    back: tl.constexpr,
    heads: tl.constexpr,
    half: tl.constexpr,
    unit: tl.constexpr,
    height: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """`out` may be `x`: each pair is read and written by one thread alone."""
    token, head, column, kept = heads_of(heads, half, height, block)
    cosines, sines = angles_of(cosine, sine, token * angle_stride, column, half, back)
    start = x + (token * token_step + head * head_step) * unit
    first, second = halves_of(start, column, kept, half)
    start = out + (token * out_token_step + head * out_head_step) * unit
    store_halves(start, column, kept, first * cosines - second * sines, second * cosines + first * sines, half)


@triton.jit(do_not_specialize=["token_step", "head_step", "out_token_step", "out_head_step"])
def rotate_normed_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    inverse: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    out: tl.tensor,
    token_step: tl.tensor,
    head_step: tl.tensor,
    out_token_step: tl.tensor,
    out_head_step: tl.tensor,
    angle_stride: tl.tensor,
    eps: tl.tensor,
    heads: tl.constexpr,
    half: tl.constexpr,
    unit: tl.constexpr,
    height: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """RMSNorm over each head, rounded, then the rotation. `out` may be `x`."""
    token, head, column, kept = heads_of(heads, half, height, block)
    cosines, sines = angles_of(cosine, sine, token * angle_stride, column, half, False)
    start = x + (token * token_step + head * head_step) * unit
    first, second = halves_of(start, column, kept, half)
    squares = tl.sum(first * first + second * second, 1, keep_dims=True)
    reciprocal = tl.rsqrt(squares / (2 * half) + eps)
    tl.store(inverse + token * heads + head, reciprocal, head < heads)
    factor, other_factor = halves_of(weight, column, column < half, half)
    narrow: tl.constexpr = x.dtype.element_ty
    first = rounded_then_weighed(first, reciprocal, factor, narrow).to(narrow).to(tl.float32)
    second = rounded_then_weighed(second, reciprocal, other_factor, narrow).to(narrow).to(tl.float32)
    start = out + (token * out_token_step + head * out_head_step) * unit
    store_halves(start, column, kept, first * cosines - second * sines, second * cosines + first * sines, half)


@triton.jit(
    do_not_specialize=[
        *("gradient_token_step", "gradient_head_step", "token_step", "head_step"),
        *("out_token_step", "out_head_step"),
    ]
)
def rotate_normed_backward_kernel(
    gradient: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    inverse: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    out: tl.tensor,
    gradient_token_step: tl.tensor,
    gradient_head_step: tl.tensor,
    token_step: tl.tensor,
    head_step: tl.tensor,
    out_token_step: tl.tensor,
    out_head_step: tl.tensor,
    angle_stride: tl.tensor,
    heads: tl.constexpr,
    half: tl.constexpr,
    unit: tl.constexpr,
    height: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Back through the rotation and the norm. `out` may be `gradient` or `x`."""
    token, head, column, kept = heads_of(heads, half, height, block)
    cosines, sines = angles_of(cosine, sine, token * angle_stride, column, half, True)
    start = gradient + (token * gradient_token_step + head * gradient_head_step) * unit
    first, second = halves_of(start, column, kept, half)
    start = x + (token * token_step + head * head_step) * unit
    normed, other_normed = halves_of(start, column, kept, half)
    reciprocal = tl.load(inverse + token * heads + head, head < heads, other=0.0)
    normed, other_normed = normed * reciprocal, other_normed * reciprocal
    factor, other_factor = halves_of(weight, column, column < half, half)
    scaled = (first * cosines - second * sines) * factor
    other_scaled = (second * cosines + first * sines) * other_factor
    share = tl.sum(normed * scaled + other_normed * other_scaled, 1, keep_dims=True) / (2 * half)
    start = out + (token * out_token_step + head * out_head_step) * unit
    scaled, other_scaled = scaled - normed * share, other_scaled - other_normed * share
    store_halves(start, column, kept, scaled * reciprocal, other_scaled * reciprocal, half)
