"""The functions of the fast engine, against autograd through the plain formulas and against fp64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, silu

from qlora_tools.engine.fast import loss, plain
from qlora_tools.engine.fast.attention import attend
from qlora_tools.engine.fast.norm import Norm
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

    found, again = torch.empty(shape), torch.empty(shape)
    inverse = plain.rms_norm(x.detach(), weight, 1e-6, found)
    plain.rms_normed(x.detach(), weight, inverse, again)
    assert differ(found, formula(x.detach().double())) < 1e-6
    assert torch.equal(found, again)
    (expected,) = gradients(formula, (x,), above)
    around = drawn(*shape, seed=3).detach()
    plain.rms_norm_backward(above, x.detach(), weight, inverse, found, None)
    plain.rms_norm_backward(above, x.detach(), weight, inverse, above, around)
    assert differ(found, expected) < 2e-6
    assert differ(above, expected + around.double()) < 2e-6


@pytest.mark.parametrize("shape", ODD)
def test_the_gated_activation_and_its_gradients_are_those_of_the_formula(shape: tuple[int, int]) -> None:
    gate, up, above = (drawn(*shape, seed=seed).detach() for seed in range(3))
    expected = gradients(lambda one, other: silu(one) * other, (gate, up), above)
    inner, activated = torch.empty(shape), silu(gate.double()) * up.double()
    plain.swiglu(gate, up, inner)
    plain.swiglu_backward(above, gate, up)
    assert differ(inner, activated) < 1e-6
    assert differ(above, activated) < 1e-6
    assert [differ(one, other) < 2e-6 for one, other in zip((gate, up), expected, strict=True)] == [True, True]


def test_the_gated_activation_has_finite_gradients_at_large_values() -> None:
    gate, up, gradient = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4]), torch.ones(5), torch.ones(5)
    plain.swiglu_backward(gradient, gate, up)
    assert all(bool(one.isfinite().all()) for one in (gradient, gate, up))


def test_a_rotation_is_undone_by_its_gradient() -> None:
    angles = drawn(9, 6).detach().repeat(1, 2)
    heads, turned = drawn(9, 5, 12, seed=1).detach(), torch.empty(9, 5, 12)
    plain.rotate(heads, angles.cos(), angles.sin(), turned, back=False)
    assert differ(turned.norm(dim=-1), heads.norm(dim=-1)) < 1e-6
    first, second = heads[..., :6], heads[..., 6:]
    cosine, sine = angles[:, None, :6].cos(), angles[:, None, :6].sin()
    assert differ(turned, torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)) < 1e-6
    plain.rotate(turned, angles.cos(), angles.sin(), turned, back=True)
    assert differ(turned, heads) < 1e-6


def test_normed_heads_are_turned_and_their_gradient_is_that_of_the_formula() -> None:
    angles, heads = drawn(9, 6).detach().repeat(1, 2), drawn(9, 5, 12, seed=1)
    weight, above = drawn(12, seed=2).detach(), drawn(9, 5, 12, seed=3).detach()

    def formula(wide: Tensor) -> Tensor:
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * weight.double()
        other = torch.cat([-normed[..., 6:], normed[..., :6]], -1)
        return normed * angles.double().cos()[:, None] + other * angles.double().sin()[:, None]

    found = torch.empty(9, 5, 12)
    inverse = plain.rotate_normed(heads.detach(), weight, 1e-6, angles.cos(), angles.sin(), found)
    assert differ(found, formula(heads.detach().double())) < 1e-6
    (expected,) = gradients(formula, (heads,), above)
    plain.rotate_normed_backward(above, heads.detach(), weight, inverse, angles.cos(), angles.sin(), above)
    assert differ(above, expected) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk", [17, 17 * 4, 17 * 1000])
def test_the_loss_and_its_gradient_are_those_of_cross_entropy_whatever_the_chunks(
    dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_CHUNK_ELEMENTS", chunk)
    hidden = drawn(11, 8).detach().to(dtype).requires_grad_()
    head, targets = drawn(17, 8, seed=1).detach().to(dtype), torch.arange(11) % 17
    norm = Norm(drawn(8, seed=2).detach().to(dtype), 1e-6)
    total, likeliest = loss.SummedCrossEntropy.apply(hidden, norm, head, targets, plain)
    (found,) = torch.autograd.grad(total * 0.25, hidden)
    exact = hidden.detach().double().requires_grad_()
    normed = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-6) * norm.weight.double()
    logits = normed @ head.double().t()
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
