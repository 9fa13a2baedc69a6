# mypy: allow-untyped-decorators
"""Cross-entropy with its gradient in place, as a Triton kernel: a row a program, two passes over it."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["step", "rows"])
def cross_entropy_kernel(
    logits: tl.tensor,
    targets: tl.tensor,
    sums: tl.tensor,
    step: tl.tensor,
    rows: tl.tensor,
    vocabulary: tl.constexpr,
    unit: tl.constexpr,
    lanes: tl.constexpr,
) -> None:
    """`sums` `[2, rows]` become loss and hit of each row, `logits` the gradient; `unit * lanes` columns a turn.

    The second pass runs backwards, so that it finds in the L2 cache what the first read last.
    """
    row = tl.program_id(0)
    logits += row.to(tl.int64) * step * unit
    target = tl.load(targets + row)
    chosen = tl.load(logits + target).to(tl.float32)
    lane = tl.arange(0, lanes)
    inside = tl.arange(0, unit)
    # Eight neighbours of a thread share one running maximum: 1.1 exponentials an element, and no exchange between threads.
    top = tl.full([lanes], -3.4028234e38, tl.float32)
    mass = tl.zeros([lanes], tl.float32)
    place = tl.zeros([lanes], tl.int32)
    for begin in range(0, vocabulary, unit * lanes):
        column = begin + lane[:, None] * unit + inside[None, :]
        values = tl.load(logits + column, column < vocabulary, other=-float("inf")).to(tl.float32)
        highest = tl.maximum(top, tl.max(values, 1))
        place = tl.where(highest > top, begin + lane * unit, place)
        mass = mass * tl.exp(top - highest) + tl.sum(tl.exp(values - highest[:, None]), 1)
        top = highest
    maximum = tl.max(top, 0)
    total = tl.sum(mass * tl.exp(top - maximum), 0)
    # The first of the largest logits counts as the prediction, as argmax has it.
    first = tl.min(tl.where(top == maximum, place, vocabulary), 0) + inside
    near = tl.load(logits + first, first < vocabulary, other=-float("inf")).to(tl.float32)
    predicted = tl.min(tl.where(near == maximum, first, vocabulary), 0)
    tl.store(sums + row, tl.log(total) + (maximum - chosen))
    tl.store(sums + rows + row, (predicted == target).to(tl.float32))
    # Every thread has read `chosen` and `near` before any of them is overwritten.
    tl.debug_barrier()
    share = 1.0 / total
    turns: tl.constexpr = (vocabulary + unit * lanes - 1) // (unit * lanes)
    for turn in range(turns):
        column = (turns - 1 - turn) * unit * lanes + lane[:, None] * unit + inside[None, :]
        values = tl.load(logits + column, column < vocabulary, other=-float("inf")).to(tl.float32)
        error = tl.exp(values - maximum) * share - (column == target).to(tl.float32)
        tl.store(logits + column, error.to(logits.dtype.element_ty), column < vocabulary)
