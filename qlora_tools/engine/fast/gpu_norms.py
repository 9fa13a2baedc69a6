# mypy: allow-untyped-decorators
"""RMSNorm and its gradient as Triton kernels (arXiv 1910.07467).

A program holds whole rows in registers, so each tensor passes through memory once. Distances between rows come in steps of
`unit` elements, in these and in all other kernels: so the compiler knows that accesses of 16 bytes are aligned.
"""

import triton
import triton.language as tl


@triton.jit
def tile_of(rows: tl.tensor, columns: tl.constexpr, block: tl.constexpr, height: tl.constexpr) -> tl.tensor:
    """Rows (int64), columns, and which of them exist, of this program's tile `[height, block]`."""
    row = tl.program_id(0) * height + tl.arange(0, height)[:, None]
    column = tl.arange(0, block)[None, :]
    return row.to(tl.int64), column, (row < rows) & (column < columns)


@triton.jit
def rounded_then_weighed(value: tl.tensor, inverse: tl.tensor, weight: tl.tensor, narrow: tl.constexpr) -> tl.tensor:
    """`value * inverse` rounded to `narrow`, as in Transformers, times the weight in fp32."""
    return (value * inverse).to(narrow).to(tl.float32) * weight


@triton.jit(do_not_specialize=["x_step", "out_step", "rows"])
def rms_norm_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    inverse: tl.tensor,
    out: tl.tensor,
    x_step: tl.tensor,
    out_step: tl.tensor,
    rows: tl.tensor,
    eps: tl.tensor,
    known: tl.constexpr,
    columns: tl.constexpr,
    unit: tl.constexpr,
    block: tl.constexpr,
    height: tl.constexpr,
) -> None:
    """`inverse` is read where it is `known`, else computed and written."""
    row, column, kept = tile_of(rows, columns, block, height)
    value = tl.load(x + row * x_step * unit + column, kept, other=0.0).to(tl.float32)
    factor = tl.load(weight + column, column < columns, other=0.0).to(tl.float32)
    if known:
        reciprocal = tl.load(inverse + row, row < rows, other=0.0)
    else:
        reciprocal = tl.rsqrt(tl.sum(value * value, 1, keep_dims=True) / columns + eps)
        tl.store(inverse + row, reciprocal, row < rows)
    result = rounded_then_weighed(value, reciprocal, factor, x.dtype.element_ty)
    tl.store(out + row * out_step * unit + column, result.to(out.dtype.element_ty), kept)


@triton.jit(do_not_specialize=["gradient_step", "x_step", "out_step", "residual_step", "rows"])
def rms_norm_backward_kernel(
    gradient: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    inverse: tl.tensor,
    out: tl.tensor,
    residual: tl.tensor,
    gradient_step: tl.tensor,
    x_step: tl.tensor,
    out_step: tl.tensor,
    residual_step: tl.tensor,
    rows: tl.tensor,
    columns: tl.constexpr,
    unit: tl.constexpr,
    block: tl.constexpr,
    height: tl.constexpr,
) -> None:
    """`residual` may be None. All is read before anything is written: `out` may be any of the inputs."""
    row, column, kept = tile_of(rows, columns, block, height)
    above = tl.load(gradient + row * gradient_step * unit + column, kept, other=0.0)
    value = tl.load(x + row * x_step * unit + column, kept, other=0.0).to(tl.float32)
    factor = tl.load(weight + column, column < columns, other=0.0).to(tl.float32)
    reciprocal = tl.load(inverse + row, row < rows, other=0.0)
    normed, scaled = value * reciprocal, above.to(tl.float32) * factor
    share = tl.sum(normed * scaled, 1, keep_dims=True) / columns
    result = (scaled - normed * share) * reciprocal
    if residual is not None:
        around = tl.load(residual + row * residual_step * unit + column, kept, other=0.0)
        result += around.to(tl.float32)
    tl.store(out + row * out_step * unit + column, result.to(out.dtype.element_ty), kept)
