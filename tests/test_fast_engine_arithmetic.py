"""The functions of the fast engine, against autograd through the plain formulas and against fp64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, silu

from qlora_tools.engine.fast import kernels, loss
from qlora_tools.engine.fast.attention import attend
from qlora_tools.engine.fast.rows import Rows

ODD = [(1, 3), (7, 33), (130, 65)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=made).requires_grad_()


def differ(found: Tensor, expected: Tensor) -> float:
    wide = expected.detach().double()
    return float((found.detach().double() - wide).norm() / wide.norm())


def gradients(formula: Callable[..., Tensor], inputs: tuple[Tensor, ...], above: Tensor) -> tuple[Tensor, ...]:
    exact = [one.detach().double().requires_grad_() for one in inputs]
    return torch.autograd.grad(formula(*exact), exact, above.double())


@pytest.mark.parametrize("shape", ODD)
def test_the_norm_and_its_gradient_are_those_of_the_formula(shape: tuple[int, int]) -> None:
    x, weight, above = drawn(*shape), drawn(shape[1], seed=1).detach(), drawn(*shape, seed=2).detach()

    def formula(wide: Tensor) -> Tensor:
        return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * weight.double()

    found, inverse = kernels.rms_norm(x.detach(), weight, 1e-6)
    assert differ(found, formula(x.detach().double())) < 1e-6
    (expected,) = gradients(formula, (x,), above)
    assert differ(kernels.rms_norm_backward(above, x.detach(), weight, inverse), expected) < 2e-6
    around = drawn(*shape, seed=3).detach()
    with_residual = kernels.rms_norm_backward(above, x.detach(), weight, inverse, around)
    assert differ(with_residual, expected + around.double()) < 2e-6


@pytest.mark.parametrize("shape", ODD)
def test_the_gated_activation_and_its_gradients_are_those_of_the_formula(shape: tuple[int, int]) -> None:
    gate, up, above = drawn(*shape), drawn(*shape, seed=1), drawn(*shape, seed=2).detach()
    expected = gradients(lambda one, other: silu(one) * other, (gate, up), above)
    found = kernels.swiglu_backward(above, gate.detach(), up.detach())
    assert differ(kernels.swiglu(gate, up), silu(gate.double()) * up.double()) < 1e-6
    assert [differ(one, other) < 2e-6 for one, other in zip(found, expected, strict=True)] == [True, True]


def test_the_gated_activation_has_finite_gradients_at_large_values() -> None:
    gate = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])
    found = kernels.swiglu_backward(torch.ones(5), gate, torch.ones(5))
    assert all(bool(one.isfinite().all()) for one in found)


def test_a_rotation_is_undone_by_its_gradient() -> None:
    angles = drawn(9, 6).detach().repeat(1, 2)
    heads = drawn(9, 5, 12, seed=1).detach()
    turned = kernels.rotate(heads, angles.cos(), angles.sin())
    assert differ(turned.norm(dim=-1), heads.norm(dim=-1)) < 1e-6
    assert differ(kernels.rotate_backward(turned, angles.cos(), angles.sin()), heads) < 1e-6
    first, second = heads[..., :6], heads[..., 6:]
    cosine, sine = angles[:, None, :6].cos(), angles[:, None, :6].sin()
    assert differ(turned, torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk", [17, 17 * 4, 17 * 1000])
def test_the_loss_and_its_gradient_are_those_of_cross_entropy_whatever_the_chunks(
    dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_CHUNK_ELEMENTS", chunk)
    hidden = drawn(11, 8).detach().to(dtype).requires_grad_()
    head, targets = drawn(17, 8, seed=1).detach().to(dtype), torch.arange(11) % 17
    total, likeliest = loss.SummedCrossEntropy.apply(hidden, head, targets)
    (found,) = torch.autograd.grad(total * 0.25, hidden)
    exact = hidden.detach().double().requires_grad_()
    logits = exact @ head.double().t()
    expected = cross_entropy(logits, targets, reduction="sum")
    (wanted,) = torch.autograd.grad(expected * 0.25, exact)
    rounding = 4 * torch.finfo(dtype).eps
    assert differ(total, expected) < rounding
    assert differ(found, wanted) < rounding
    assert likeliest == (logits.argmax(-1) == targets).sum()


def rows_of_lengths(*lengths: int) -> Rows:
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    nothing = torch.zeros(0, dtype=torch.long)
    return Rows(nothing, nothing, nothing, nothing, starts, lengths)


@pytest.mark.parametrize("window", [None, 3, 50])
def test_tokens_see_the_earlier_ones_of_their_own_row_within_the_window(window: int | None) -> None:
    rows = rows_of_lengths(1, 9, 4)
    query, key, value = drawn(14, 4, 8), drawn(14, 2, 8, seed=1), drawn(14, 2, 8, seed=2)
    row = torch.repeat_interleave(torch.arange(3), torch.tensor(rows.lengths))
    place = torch.arange(14)
    seen = (row[:, None] == row) & (place[:, None] >= place)
    if window is not None:
        seen &= place[:, None] - place < window
    wide = [one.repeat_interleave(2, 1) for one in (key, value)]
    scores = torch.einsum("qhd,khd->hqk", query, wide[0]) / 8**0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    expected = torch.einsum("hqk,khd->qhd", weights, wide[1]).flatten(1)
    found = attend(query, key, value, rows, window)
    assert differ(found, expected) < 1e-6
    above = drawn(14, 32, seed=3).detach()
    both: list[Any] = [torch.autograd.grad(one, (query, key, value), above) for one in (found, expected)]
    assert max(differ(one, other) for one, other in zip(*both, strict=True)) < 2e-6
