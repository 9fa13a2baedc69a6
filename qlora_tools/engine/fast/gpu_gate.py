# mypy: allow-untyped-decorators
"""SwiGLU and its gradient as Triton kernels (arXiv 2002.05202)."""

import triton
import triton.language as tl


@triton.jit
def piece_of(columns: tl.constexpr, block: tl.constexpr) -> tl.tensor:
    """Row (int64) and columns of this program; neighbouring programs work on neighbouring columns."""
    per_row: tl.constexpr = (columns + block - 1) // block
    row = tl.program_id(0) // per_row
    return row.to(tl.int64), (tl.program_id(0) % per_row) * block + tl.arange(0, block)


@triton.jit(do_not_specialize=["gate_step", "up_step", "out_step"])
def swiglu_kernel(
    gate: tl.tensor,
    up: tl.tensor,
    out: tl.tensor,
    gate_step: tl.tensor,
    up_step: tl.tensor,
    out_step: tl.tensor,
    columns: tl.constexpr,
    unit: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """`silu(gate) * up`, part of a row a program."""
    row, column = piece_of(columns, block)
    kept = column < columns
    wide_gate = tl.load(gate + row * gate_step * unit + column, kept, other=0.0).to(tl.float32)
    wide_up = tl.load(up + row * up_step * unit + column, kept, other=0.0).to(tl.float32)
    result = wide_gate * tl.sigmoid(wide_gate) * wide_up
    tl.store(out + row * out_step * unit + column, result.to(out.dtype.element_ty), kept)


@triton.jit(do_not_specialize=["gradient_step", "gate_step", "up_step"])
def swiglu_backward_kernel(
    gradient: tl.tensor,
    gate: tl.tensor,
    up: tl.tensor,
    gradient_step: tl.tensor,
    gate_step: tl.tensor,
    up_step: tl.tensor,
    columns: tl.constexpr,
    unit: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """In place. Each element is read and written by one thread alone."""
    row, column = piece_of(columns, block)
    kept = column < columns
    gradient += row * gradient_step * unit
    gate += row * gate_step * unit
    up += row * up_step * unit
    above = tl.load(gradient + column, kept, other=0.0).to(tl.float32)
    wide_gate = tl.load(gate + column, kept, other=0.0).to(tl.float32)
    wide_up = tl.load(up + column, kept, other=0.0).to(tl.float32)
    share = tl.sigmoid(wide_gate)
    activated = wide_gate * share
    # d silu(g) / dg = s + g s (1 - s), with s = sigmoid(g).
    slope = share + activated * (1.0 - share)
    tl.store(gradient + column, (activated * wide_up).to(gradient.dtype.element_ty), kept)
    tl.store(gate + column, (slope * above * wide_up).to(gate.dtype.element_ty), kept)
    tl.store(up + column, (activated * above).to(up.dtype.element_ty), kept)
