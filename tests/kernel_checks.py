"""Checks of the Triton kernels on a device, and a program that runs them on a CPU through Triton's interpreter.

    TRITON_INTERPRET=1 python -m tests.kernel_checks

prints a line for each check, JSON of its name and its failure or null. The interpreter must be chosen before any library
imports Triton; hence a process of its own. Every check draws fresh inputs; outputs lie in rooms full of NaN.
"""

import json
import math
import os
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

Check = Callable[[ModuleType, torch.device], None]
CHECKS: dict[str, Check] = {}
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Relative errors of a tensor after up to three roundings to the dtype, and some fp32 arithmetic.
BOUNDS = {torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float32: 2e-6}
EPS = 1e-5


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


class Room:
    """A view with `rows` and `columns` inside a wider tensor of NaN, which must stay as it is around the view."""

    def __init__(self, *shape: int, dtype: torch.dtype, device: torch.device, margin: int = 3) -> None:
        *rows, columns = shape
        self.whole = torch.full((rows[0] + 2, *rows[1:], columns + 2 * margin), math.nan, dtype=dtype, device=device)
        self.view = self.whole[1:-1, ..., margin : margin + columns]

    def filled(self, values: Tensor) -> Tensor:
        self.view.copy_(values)
        return self.view

    def check_written(self) -> None:
        assert self.view.isfinite().all()
        inside = self.view.clone()
        self.view.fill_(math.nan)
        assert self.whole.isnan().all()
        self.view.copy_(inside)


def drawn(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device=device).to(dtype)


def differ(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def agree(found: Tensor, twin: Tensor, exact: Tensor) -> None:
    """The kernel is within the rounding of its dtype, and no further from the truth than plain torch is."""
    error, of_twin = differ(found, exact), differ(twin, exact)
    assert error < BOUNDS[found.dtype], error
    assert error <= 1.05 * of_twin + 1e-6, (error, of_twin)


def gradients(formula: Callable[..., Tensor], above: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    exact = [one.double().requires_grad_() for one in inputs]
    return torch.autograd.grad(formula(*exact), exact, above.double())


def plain() -> ModuleType:
    from qlora_tools.engine.fast import plain as twin

    return twin


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight.double()


# Rows of a program: several, one in one tile, one with a masked tail. A margin of 8 keeps accesses of 16 bytes possible.
NORMS = [(5, 33, 3), (9, 128, 8), (2, 1100, 4), (1, 576, 1)]


@check
def norm_forward(kernels: ModuleType, device: torch.device) -> None:
    for dtype in DTYPES:
        for rows, columns, margin in NORMS:
            weight = drawn(columns, device=device, dtype=dtype if rows > 1 else torch.float32)
            x, out = (Room(rows, columns, dtype=dtype, device=device, margin=margin) for _ in range(2))
            x.filled(drawn(rows, columns, device=device) * 3)
            twin = torch.empty_like(x.view)
            inverse = plain().rms_norm(x.view, weight, EPS, twin)
            found = kernels.rms_norm(x.view, weight, EPS, out.view)
            out.check_written()
            agree(out.view, twin, norm(x.view.double(), weight))
            assert found.shape == inverse.shape and differ(found, inverse.double()) < 1e-6
            again = Room(rows, columns, dtype=dtype, device=device, margin=margin)
            kernels.rms_normed(x.view, weight, found, again.view)
            again.check_written()
            assert torch.equal(again.view, out.view)


@check
def norm_backward(kernels: ModuleType, device: torch.device) -> None:
    for dtype in DTYPES:
        for rows, columns, margin in NORMS:
            weight = drawn(columns, device=device, dtype=dtype)
            x, above, around, out = (Room(rows, columns, dtype=dtype, device=device, margin=margin) for _ in range(4))
            for room in (x, above, around):
                room.filled(drawn(rows, columns, device=device) * 2)
            inverse = torch.rsqrt(x.view.float().square().mean(-1, keepdim=True) + EPS)
            (exact,) = gradients(lambda wide, weight=weight: norm(wide, weight), above.view, x.view)
            for residual in (None, around.view):
                twin = torch.empty_like(x.view)
                plain().rms_norm_backward(above.view, x.view, weight, inverse, twin, residual)
                truth = exact if residual is None else exact + residual.double()
                kernels.rms_norm_backward(above.view, x.view, weight, inverse, out.view, residual)
                out.check_written()
                agree(out.view, twin, truth)
            kernels.rms_norm_backward(above.view, x.view, weight, inverse, above.view, around.view)
            above.check_written()
            assert torch.equal(above.view, out.view)


def angles(tokens: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    half = torch.rand(tokens, size // 2, device=device) * 50
    return half.cos().repeat(1, 2), half.sin().repeat(1, 2)


def turned(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = heads.chunk(2, -1)
    return heads * cosine[:, None].double() + torch.cat([-second, first], -1) * sine[:, None].double()


# Tokens, heads, size; the last has more heads than one program takes.
HEADS = [(2, 5, 64), (9, 1, 6), (1, 3, 80), (1, 21, 128)]


def heads_in_a_room(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> tuple[Room, Tensor]:
    tokens, heads, size = shape
    room = Room(tokens, heads * size, dtype=dtype, device=device, margin=8)
    return room, room.view.unflatten(-1, (heads, size))


@check
def rotation(kernels: ModuleType, device: torch.device) -> None:
    for dtype in DTYPES:
        for shape in HEADS:
            cosine, sine = angles(shape[0], shape[2], device)
            (room, heads), (other, out) = (heads_in_a_room(shape, dtype, device) for _ in range(2))
            heads.copy_(drawn(*shape, device=device))
            for back in (False, True):
                twin = torch.empty_like(heads)
                plain().rotate(heads, cosine, sine, twin, back=back)
                kernels.rotate(heads, cosine, sine, out, back=back)
                other.check_written()
                agree(out, twin, turned(heads.double(), cosine, -sine if back else sine))
            kernels.rotate(heads, cosine, sine, heads, back=True)
            room.check_written()
            assert torch.equal(heads, out)
            # Positions on a part of each head, as in partial rotary embeddings.
            part, untouched = heads[..., : shape[2] // 2 // 2 * 2], heads[..., shape[2] // 2 // 2 * 2 :].clone()
            cosine, sine = angles(shape[0], part.shape[2], device)
            before = part.double()
            kernels.rotate(part, cosine, sine, part, back=False)
            assert differ(part, turned(before, cosine, sine)) < BOUNDS[dtype]
            assert torch.equal(heads[..., part.shape[2] :], untouched)


@check
def rotation_with_norm(kernels: ModuleType, device: torch.device) -> None:
    for dtype in DTYPES:
        for shape in HEADS:
            cosine, sine = angles(shape[0], shape[2], device)
            weight = drawn(shape[2], device=device, dtype=dtype)
            (_, heads), (other, out), (third, above) = (heads_in_a_room(shape, dtype, device) for _ in range(3))
            heads.copy_(drawn(*shape, device=device))
            above.copy_(drawn(*shape, device=device))
            formula = lambda wide: turned(norm(wide, weight), cosine, sine)  # noqa: B023, E731
            twin = torch.empty_like(heads)
            inverse = plain().rotate_normed(heads, weight, EPS, cosine, sine, twin)
            found = kernels.rotate_normed(heads, weight, EPS, cosine, sine, out)
            other.check_written()
            agree(out, twin, formula(heads.double()))
            assert found.shape == inverse.shape and differ(found, inverse.double()) < 1e-6
            (exact,) = gradients(formula, above, heads)
            plain().rotate_normed_backward(above, heads, weight, inverse, cosine, sine, twin)
            kernels.rotate_normed_backward(above, heads, weight, found, cosine, sine, out)
            other.check_written()
            agree(out, twin, exact)
            kernels.rotate_normed_backward(above, heads, weight, found, cosine, sine, above)
            third.check_written()
            assert torch.equal(above, out)


GATES = [(3, 33, 3), (2, 2056, 8), (1, 1, 1)]


@check
def gate_forward(kernels: ModuleType, device: torch.device) -> None:
    for dtype in DTYPES:
        for rows, columns, margin in GATES:
            gate, up, out = (Room(rows, columns, dtype=dtype, device=device, margin=margin) for _ in range(3))
            gate.filled(drawn(rows, columns, device=device) * 4)
            up.filled(drawn(rows, columns, device=device))
            twin = torch.empty_like(gate.view)
            plain().swiglu(gate.view, up.view, twin)
            kernels.swiglu(gate.view, up.view, out.view)
            out.check_written()
            agree(out.view, twin, silu(gate.view.double()) * up.view.double())


@check
def gate_backward(kernels: ModuleType, device: torch.device) -> None:
    for dtype in DTYPES:
        for rows, columns, margin in GATES:
            rooms = [Room(rows, columns, dtype=dtype, device=device, margin=margin) for _ in range(3)]
            above, gate, up = (room.filled(drawn(rows, columns, device=device) * 3) for room in rooms)
            exact = gradients(lambda one, other: silu(one) * other, above, gate, up)
            exact = (silu(gate.double()) * up.double(), *exact)
            twins = [one.clone() for one in (above, gate, up)]
            plain().swiglu_backward(*twins)
            kernels.swiglu_backward(above, gate, up)
            for room, twin, truth in zip(rooms, twins, exact, strict=True):
                room.check_written()
                agree(room.view, twin, truth)


@check
def gate_at_large_values(kernels: ModuleType, device: torch.device) -> None:
    gate = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4]], device=device)
    above, up = torch.ones_like(gate), torch.ones_like(gate)
    kernels.swiglu_backward(above, gate, up)
    assert all(bool(one.isfinite().all()) for one in (above, gate, up))


@check
def loss(kernels: ModuleType, device: torch.device) -> None:
    for dtype in DTYPES:
        for rows, vocabulary, margin in [(5, 33, 3), (3, 2053, 8), (2, 4104, 8), (6, 7, 1)]:
            room = Room(rows, vocabulary, dtype=dtype, device=device, margin=margin)
            # Few distinct values: ties for the first place.
            logits = room.filled((drawn(rows, vocabulary, device=device) * 2).round() * 2)
            targets = torch.randint(vocabulary, (rows,), device=device)
            targets[0] = logits[0].float().argmax()
            wide = logits.double().requires_grad_()
            losses = torch.nn.functional.cross_entropy(wide, targets, reduction="sum")
            (truth,) = torch.autograd.grad(losses, wide)
            exact = float(losses.detach())
            twin = logits.clone()
            expected, hits = plain().cross_entropy(twin, targets)
            largest = logits == logits.amax(-1, keepdim=True)
            first = largest.int().argmax(-1)
            found, found_hits = kernels.cross_entropy(logits, targets)
            room.check_written()
            assert found.dtype == found_hits.dtype == torch.float32 and found.shape == found_hits.shape == ()
            assert abs(float(found) - exact) < 2e-6 * exact + 1e-6
            assert abs(float(found - expected)) < 2e-6 * exact + 1e-6
            assert float(found_hits) == float((first == targets).sum()) >= 1
            assert device.type != "cpu" or float(found_hits) == float(hits)
            # Where a target is almost certain, its error is a small difference: fp32 counts in absolute terms.
            assert float((logits.double() - truth).abs().max()) < max(2e-6, BOUNDS[dtype])
            if dtype != torch.float32:
                agree(logits, twin, truth)


@check
def loss_of_unusual_logits(kernels: ModuleType, device: torch.device) -> None:
    logits = torch.tensor([[-math.inf, 3e4, -3e4, 0.0, -math.inf], [0.0] * 5, [-1e30] * 5], device=device)
    found, hits = kernels.cross_entropy(logits, torch.tensor([1, 3, 0], device=device))
    assert abs(float(found) - 2 * math.log(5)) < 1e-5
    assert float(hits) == 2
    assert logits.isfinite().all() and float(logits.sum(-1).abs().max()) < 1e-6
    broken = torch.tensor([[0.0, math.nan, 1.0]], device=device)
    assert kernels.cross_entropy(broken, torch.tensor([2], device=device))[0].isnan()


def quantised(rows: int, columns: int, dtype: torch.dtype, device: torch.device, **kind: Any) -> tuple[Tensor, Any]:
    from bitsandbytes.functional import quantize_4bit

    return quantize_4bit(drawn(rows, columns, device=device, dtype=dtype), **kind)


# Rows, columns, margin, rank of b (0: none), its first column, columns behind the weight.
WEIGHTS = [
    (33, 192, 8, 4, 0, 8),
    (3, 64, 0, 0, 0, 0),
    (70, 72, 1, 2, 1, 5),
    (9, 136, 4, 0, 0, 4),
    (5, 100, 3, 3, 2, 9),
    (7, 33, 0, 0, 0, 0),
    (1, 1, 1, 1, 0, 1),
]


@check
def decoding(kernels: ModuleType, device: torch.device) -> None:
    from bitsandbytes.functional import dequantize_4bit

    for dtype in DTYPES:
        for rows, columns, margin, rank, first, behind in WEIGHTS:
            for kind, nested, blocksize in [("nf4", True, 64), ("fp4", False, 64), ("nf4", False, 128)]:
                packed, state = quantised(
                    *(rows, columns, dtype, device), quant_type=kind, compress_statistics=nested, blocksize=blocksize
                )
                b = drawn(rows, rank, device=device, dtype=dtype if first else torch.float32) if rank else None
                room = Room(rows, columns + behind, dtype=dtype, device=device, margin=margin)
                kernels.decode_4bit(packed, state, room.view, b, first)
                room.check_written()
                assert torch.equal(room.view[:, :columns], dequantize_4bit(packed, state))
                twin = torch.empty_like(room.view)
                plain().decode_4bit(packed, state, twin, b, first)
                assert torch.equal(room.view, twin)


@check
def decoding_of_many_blocks(kernels: ModuleType, device: torch.device) -> None:
    """More blocks than one nested constant holds, and packed bytes stored as another dtype."""
    packed, state = quantised(40, 1024, torch.bfloat16, device, quant_type="nf4", compress_statistics=True)
    twin = torch.empty((40, 1024), dtype=torch.bfloat16, device=device)
    plain().decode_4bit(packed, state, twin, None, 0)
    for storage in (torch.uint8, torch.float32):
        out = torch.full_like(twin, math.nan)
        kernels.decode_4bit(packed.flatten().view(storage), state, out, None, 0)
        assert torch.equal(out, twin)


@check
def a_whole_layer(kernels: ModuleType, device: torch.device) -> None:
    """Forward and backward with the weights of a group decoded together, beside plain operations one by one."""
    for norms_heads in (False, True):
        results = []
        for chosen, stacked in ((kernels, True), (plain(), False)):
            torch.manual_seed(7)
            layer, x, place = layer_of(chosen, device, stacked=stacked, norms_heads=norms_heads)
            output = layer(x.requires_grad_(), place, keep=stacked)
            of_x, *of_adapters = torch.autograd.grad(output, [x, *layer.adapters()], torch.ones_like(output))
            results.append([output, of_x, *of_adapters])
        for found, expected in zip(*results, strict=True):
            assert differ(found.detach(), expected.detach().double()) < 5e-6


def layer_of(kernels: Any, device: torch.device, *, stacked: bool, norms_heads: bool) -> tuple[Any, Tensor, Any]:
    """A decoder layer in NF4 with 4 query heads and 2 of keys, its input, and where its 11 tokens stand."""
    from qlora_tools.engine.fast.layer import Layer
    from qlora_tools.engine.fast.mlp import Mlp
    from qlora_tools.engine.fast.norm import Norm
    from qlora_tools.engine.fast.rows import Rows
    from qlora_tools.engine.fast.self_attention import Place, SelfAttention
    from qlora_tools.engine.fast.weights import Scratch

    hidden, inner, size, scratch = 64, 160, 16, Scratch(device, torch.float32) if stacked else None

    def norm(width: int) -> Norm:
        return Norm(1 + 0.1 * torch.randn(width, device=device), EPS)

    def group(inputs: int, *outputs: int) -> Any:
        return adapted_group(inputs, outputs, kernels, scratch, device)

    attention = SelfAttention(
        *(norm(hidden), group(hidden, 64, 32, 32), *((norm(size), norm(size)) if norms_heads else (None, None))),
        *(group(64, hidden), (4, 2), size, None, kernels),
    )
    layer = Layer(0, attention, Mlp(norm(hidden), group(hidden, inner, inner), group(inner, hidden), kernels))
    angles = torch.rand(11, size // 2, device=device).repeat(1, 2)
    nothing = torch.zeros(0, dtype=torch.long, device=device)
    starts = torch.tensor([0, 4, 11], dtype=torch.int32, device=device)
    rows = Rows(nothing, nothing, nothing, nothing, starts, (4, 7))
    return layer, torch.randn(11, hidden, device=device), Place(angles.cos(), angles.sin(), rows)


def adapted_group(inputs: int, outputs: tuple[int, ...], kernels: Any, scratch: Any, device: torch.device) -> Any:
    """Projections in NF4 with LoRA of rank 3 that does something already."""
    from bitsandbytes.nn import Linear4bit

    from qlora_tools.engine.fast.projections import Group
    from qlora_tools.engine.fast.weights import Adapter, Projection

    made = []
    for width in outputs:
        base = Linear4bit(inputs, width, bias=False, quant_type="nf4", compute_dtype=torch.float32).to(device)
        a, b = (0.2 * torch.randn(shape, device=device) for shape in ((3, inputs), (width, 3)))
        made.append(Projection(base, Adapter(a.requires_grad_(), b.requires_grad_(), 0.5)))
    group = Group(made, torch.empty(0, device=device), kernels, scratch)
    for copy, trained, scale in group.copies():
        copy.copy_(trained.detach() * scale)
    return group


@check
def nothing(kernels: ModuleType, device: torch.device) -> None:
    """No rows: no launch, and no error."""
    empty, weight = torch.empty((0, 64), device=device), torch.ones(64, device=device)
    inverse = kernels.rms_norm(empty, weight, EPS, empty)
    kernels.rms_norm_backward(empty, empty, weight, inverse, empty, None)
    kernels.swiglu(empty, empty, empty)
    found, hits = kernels.cross_entropy(empty, torch.empty(0, dtype=torch.int64, device=device))
    assert float(found) == float(hits) == 0


def round_to_even() -> None:
    """The interpreter rounds fp32 to bf16 half up and loses the carry into the exponent; a GPU rounds to nearest even."""
    import triton.language as tl
    from triton.runtime import interpreter

    original = interpreter._convert_float

    def convert(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) != (tl.float32, tl.bfloat16):
            return original(values, source, target, mode)
        rounded = torch.tensor(values.astype("float32")).bfloat16()
        return rounded.view(torch.int16).numpy().view("uint16").reshape(values.shape)

    interpreter._convert_float = convert


def main() -> None:
    assert os.environ.get("TRITON_INTERPRET") == "1"
    round_to_even()
    from qlora_tools.engine.fast import gpu

    for name, function in CHECKS.items():
        failure = None
        try:
            function(gpu, torch.device("cpu"))
        except AssertionError:
            failure = traceback.format_exc()
        print(json.dumps([name, failure]), flush=True)


if __name__ == "__main__":
    main()
