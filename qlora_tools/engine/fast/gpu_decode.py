# mypy: allow-untyped-decorators
"""4-bit weights of bitsandbytes made dense, as Triton kernels: table value times block constant in fp32, rounded once.

With double quantisation (arXiv 2305.14314) a block constant is itself a table value times a constant of 256 blocks, plus an
offset. bitsandbytes rounds each of these steps, so they must not be contracted: launch with `enable_fp_fusion=False`.
"""

import triton
import triton.language as tl


@triton.jit
def block_constants(
    block: tl.tensor,
    kept: tl.tensor,
    absmax: tl.tensor,
    absmax2: tl.tensor,
    table2: tl.tensor,
    offset: tl.tensor,
    blocksize2: tl.constexpr,
) -> tl.tensor:
    """The fp32 constants of blocks; `absmax2` is None where they are stored as such."""
    constant = tl.load(absmax + block, kept, other=0)
    if absmax2 is None:
        result = constant.to(tl.float32)
    else:
        outer = tl.load(absmax2 + block // blocksize2, kept, other=0.0)
        result = tl.load(table2 + constant.to(tl.int32)) * outer + tl.load(offset)
    return result


@triton.jit
def behind(
    row: tl.tensor, column: tl.tensor, kept: tl.tensor, b: tl.tensor, b_stride: tl.tensor, rank: tl.tensor
) -> tl.tensor:
    """What stands in columns counted from the first of `b` (None: zero): `b`, and zero before and behind it."""
    if b is None:
        result = tl.zeros_like(column).to(tl.float32)
    else:
        inside = kept & (column >= 0) & (column < rank)
        result = tl.load(b + row.to(tl.int64) * b_stride + column, inside, other=0.0).to(tl.float32)
    return result


@triton.jit(do_not_specialize=["out_step", "b_stride", "rank", "first", "tail", "words", "programs", "rows"])
def decode_words_kernel(
    packed: tl.tensor,
    table: tl.tensor,
    absmax: tl.tensor,
    absmax2: tl.tensor,
    table2: tl.tensor,
    offset: tl.tensor,
    out: tl.tensor,
    b: tl.tensor,
    out_step: tl.tensor,
    b_stride: tl.tensor,
    rank: tl.tensor,
    first: tl.tensor,
    tail: tl.tensor,
    rows: tl.tensor,
    programs: tl.tensor,
    columns: tl.constexpr,
    blocksize: tl.constexpr,
    blocksize2: tl.constexpr,
    unit: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Rows of a multiple of eight: a word of 32 bits becomes 16 bytes of bf16. Programs from `programs` on fill the tail."""
    program = tl.program_id(0)
    if program < programs:
        word = program * block + tl.arange(0, block)
        per_row: tl.constexpr = columns // 8
        kept = word < rows * per_row
        bits = tl.load(packed.to(tl.pointer_type(tl.int32)) + word, kept, other=0)
        scale = block_constants(word // (blocksize // 8), kept, absmax, absmax2, table2, offset, blocksize2)
        lane = tl.arange(0, 8)[None, :]
        # The high nibble of a byte comes first.
        value = tl.load(table + ((bits[:, None] >> (4 * (lane ^ 1))) & 15)) * scale[:, None]
        start = (word // per_row).to(tl.int64) * out_step * unit + (word % per_row) * 8
        tl.store(out + start[:, None] + lane, value.to(out.dtype.element_ty), kept[:, None])
    else:
        place = (program - programs) * block + tl.arange(0, block)
        row, column = place // tail, place % tail
        filling = behind(row, column - first, row < rows, b, b_stride, rank).to(out.dtype.element_ty)
        tl.store(out + row.to(tl.int64) * out_step * unit + columns + column, filling, row < rows)


@triton.jit(do_not_specialize=["out_stride", "b_stride", "rank", "first", "width"])
def decode_elements_kernel(
    packed: tl.tensor,
    table: tl.tensor,
    absmax: tl.tensor,
    absmax2: tl.tensor,
    table2: tl.tensor,
    offset: tl.tensor,
    out: tl.tensor,
    b: tl.tensor,
    out_stride: tl.tensor,
    b_stride: tl.tensor,
    rank: tl.tensor,
    first: tl.tensor,
    width: tl.tensor,
    columns: tl.constexpr,
    blocksize: tl.constexpr,
    blocksize2: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Rows of any length, element by element."""
    per_row = tl.cdiv(width, block)
    row = tl.program_id(0) // per_row
    column = (tl.program_id(0) % per_row) * block + tl.arange(0, block)
    kept = column < columns
    element = row.to(tl.int64) * columns + column
    byte = tl.load(packed.to(tl.pointer_type(tl.uint8)) + element // 2, kept, other=0).to(tl.int32)
    scale = block_constants(element // blocksize, kept, absmax, absmax2, table2, offset, blocksize2)
    value = tl.load(table + tl.where(element % 2 == 0, byte >> 4, byte & 15)) * scale
    value = tl.where(kept, value, behind(row, column - columns - first, column < width, b, b_stride, rank))
    tl.store(out + row.to(tl.int64) * out_stride + column, value.to(out.dtype.element_ty), column < width)
