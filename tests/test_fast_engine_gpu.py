"""The fast engine on a CUDA GPU: gradients, attention of packed rows, inputs on the host, whole runs. `make test-gpu`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .test_fast_engine import Found, adapted, batch_of, error, exactly, fast, stock, train

Raw = Callable[..., dict[str, Any]]
Models = Callable[[str], Path]
pytestmark = pytest.mark.gpu
# `stacked` None is how the engine decodes on a GPU by itself.
WAYS: dict[str, dict[str, Any]] = {
    "kept": {"stacked": None},
    "recomputed": {"stacked": None, "keep": False},
    "on the host": {"stacked": None, "keep": False, "on_host": True},
    "one by one": {"stacked": False},
}


@pytest.fixture
def open_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """`choose_engine` refuses GPUs until the engine has been measured on one."""
    from qlora_tools.memory import fast_limits

    monkeypatch.setattr(fast_limits, "MEASURED_ON", ("cpu", "cuda"))


def on_card(directory: Path, **settings: Any) -> Any:
    from qlora_tools.engine.device import detect_hardware

    return adapted(directory, hardware=detect_hardware(), **settings)


def batch_on_card(layout: str, seed: int = 0) -> dict[str, Any]:
    """Moved as the trainer moves it."""
    import torch
    from accelerate.utils import send_to_device

    moved: dict[str, Any] = send_to_device(batch_of(layout, seed), torch.device("cuda"))
    return moved


def furthest(found: Found, expected: Found) -> float:
    """The largest difference of a gradient, as a share of its norm."""
    return max(
        float((found.gradients[name].double() - gradient.double()).norm() / gradient.double().norm())
        for name, gradient in expected.gradients.items()
    )


@pytest.mark.parametrize("layout", ["off", "bins"])
@pytest.mark.parametrize("family", ["llama", "mistral", "phi3", "qwen2", "qwen3"])
def test_every_gradient_is_that_of_the_stock_engine_in_fp32(family: str, layout: str, tiny_model: Models) -> None:
    model, batch = on_card(tiny_model(family)), batch_on_card(layout)
    expected = stock(model, batch, "float32")
    for way, settings in WAYS.items():
        found = fast(model, batch, **settings)
        assert abs(found.loss / expected.loss - 1) < 2e-6, way
        assert furthest(found, expected) < 2e-5, way


@pytest.mark.parametrize("layout", ["off", "bins"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "mistral", "phi3", "qwen3"])
def test_rounding_is_no_worse_than_in_the_stock_engine(
    family: str, dtype: str, layout: str, tiny_model: Models
) -> None:
    errors = dict.fromkeys(("stock", *WAYS), 0.0)
    for seed in range(3):
        model = on_card(tiny_model(family), compute_dtype=dtype, seed=seed)
        batch = batch_on_card(layout, seed)
        exact = stock(exactly(model), batch, "float64")
        errors["stock"] += error(stock(model, batch, dtype), exact)
        for way, settings in WAYS.items():
            errors[way] += error(fast(model, batch, **settings), exact)
    assert all(0 < errors[way] <= 1.1 * errors["stock"] for way in WAYS), errors


@pytest.mark.parametrize("kind", ["fp4", "none"])
def test_other_bases_have_the_gradients_of_the_stock_engine(kind: str, tiny_model: Models) -> None:
    model, batch = on_card(tiny_model("qwen2"), kind=kind, rank=3), batch_on_card("off")
    expected = stock(model, batch, "float32")
    assert max(furthest(fast(model, batch, **settings), expected) for settings in WAYS.values()) < 2e-5


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_dropout_has_the_same_masks_however_layers_are_computed(family: str, tiny_model: Models) -> None:
    model = on_card(tiny_model(family), compute_dtype="bfloat16", dropout=0.3).train()
    batch = batch_on_card("off")
    found = {way: fast(model, batch, seed=1, **settings) for way, settings in WAYS.items()}
    assert furthest(found["recomputed"], found["kept"]) < 1e-2
    assert furthest(found["on the host"], found["kept"]) < 1e-2
    assert furthest(found["one by one"], found["kept"]) < 5e-2
    assert furthest(fast(model, batch, seed=2, stacked=None), found["kept"]) > 0.2


def test_inputs_on_the_host_serve_micro_batches_of_all_sizes(tiny_model: Models) -> None:
    import torch

    from qlora_tools.engine.fast.model import FastModel
    from qlora_tools.engine.fast.rows import rows_of

    model = on_card(tiny_model("llama"))
    engine = FastModel(model, keep=[False] * model.config.num_hidden_layers, on_host=True)
    for turn in range(6):
        batch = batch_on_card(("off", "bins")[turn % 2], turn)
        engine.summed_loss(rows_of(batch_on_card("off", 9)))  # a pass that broke off before its backward pass
        loss = engine.summed_loss(rows_of(batch))[0]
        found = torch.autograd.grad(loss, engine.adapters())
        plain = FastModel(model, keep=[True] * model.config.num_hidden_layers)
        expected = torch.autograd.grad(plain.summed_loss(rows_of(batch))[0], plain.adapters())
        for one, other in zip(found, expected, strict=True):
            assert float((one - other).norm()) <= 1e-5 * float(other.norm())


def test_a_micro_batch_without_learnt_tokens_has_no_loss_and_no_gradient(tiny_model: Models) -> None:
    import torch
    from accelerate.utils import send_to_device

    from qlora_tools.data.collate import PaddedCollator
    from qlora_tools.data.rows import IGNORED
    from qlora_tools.engine.fast.rows import RowsCollator

    rows = [{"input_ids": [9, 10, 11], "labels": [IGNORED] * 3}]
    batch = send_to_device(RowsCollator(PaddedCollator(0))(rows), torch.device("cuda"))
    model = on_card(tiny_model("llama"), compute_dtype="bfloat16")
    for settings in WAYS.values():
        found = fast(model, batch, **settings)
        assert found.loss == 0
        assert not any(gradient.any() for gradient in found.gradients.values())


def test_pinned_batches_read_as_the_same_rows() -> None:
    import torch
    from torch.utils.data import DataLoader

    from qlora_tools.engine.fast.rows import rows_of

    (batch,) = DataLoader([0], batch_size=1, collate_fn=lambda _: batch_of("bins"), pin_memory=True)
    pinned, plain = rows_of(batch), rows_of(batch_of("bins"))
    assert pinned.tokens.is_pinned()
    assert list(pinned.lengths) == list(plain.lengths)
    assert torch.equal(pinned.starts, plain.starts)


def exact_attention(parts: tuple[Any, ...], lengths: tuple[int, ...], window: int | None) -> Any:
    """Attention within rows by its formula, fp64."""
    import torch

    query, key, value = parts
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).cuda()
    place = torch.arange(sum(lengths), device="cuda")
    seen = (row[:, None] == row) & (place[:, None] >= place)
    if window is not None:
        seen &= place[:, None] - place < window
    key, value = (one.repeat_interleave(query.shape[1] // key.shape[1], 1) for one in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[2] ** 0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value).flatten(1)


@pytest.mark.parametrize("window", [None, 40, 1000])
@pytest.mark.parametrize("lengths", [(300, 1, 77), (256, 256), (129,)], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_attention_on_views_of_a_wider_tensor_is_that_of_the_formula(
    dtype: str, lengths: tuple[int, ...], window: int | None
) -> None:
    import torch

    from qlora_tools.engine.fast.attention import attention
    from qlora_tools.engine.fast.rows import Rows

    nothing = torch.zeros(0, dtype=torch.long)
    starts = torch.tensor([0, *lengths]).cumsum(0).int().cuda()
    rows = Rows(nothing, nothing, nothing, nothing, starts, lengths)
    made = torch.Generator("cuda").manual_seed(0)
    wide = torch.randn(sum(lengths), 8, 64, generator=made, device="cuda", dtype=getattr(torch, dtype))
    above = torch.randn(sum(lengths), 4 * 64, generator=made, device="cuda", dtype=wide.dtype)
    parts = wide.split([4, 2, 2], dim=1)
    exact = tuple(part.double().requires_grad_() for part in parts)
    expected = exact_attention(exact, lengths, window)
    wanted = torch.autograd.grad(expected, exact, above.double())
    kept = attention(*parts, rows, window, keep=True)
    dropped = attention(*parts, rows, window, keep=False)
    found = (kept.seen, dropped.seen, *kept.gradients(above))
    bound = 4 * torch.finfo(wide.dtype).eps
    for one, other in zip(found, (expected, expected, *wanted), strict=True):
        assert one.shape == other.shape
        assert one.stride(-1) == 1
        assert float((one.double() - other).norm() / other.norm()) < bound


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("packing", "family"), [("off", "llama"), ("bins", "llama"), ("bins", "qwen3")])
@pytest.mark.usefixtures("open_gate")
def test_a_run_has_the_losses_of_the_stock_engine(
    packing: str, family: str, dtype: str, tiny_model: Models, chat_rows: Path, config_for: Raw
) -> None:
    results = {
        engine: train(
            config_for(
                tiny_model(family),
                chat_rows,
                data={"evaluation_fraction": 0.2},
                quantization={"compute_dtype": dtype},
                training={"engine": engine, "packing": packing, "max_steps": 10, "evaluation_samples": 1},
            )
        )
        for engine in ("stock", "fast")
    }
    ours, theirs = results["fast"], results["stock"]
    assert (ours.engine, ours.device, theirs.engine) == ("fast", theirs.device, "stock")
    assert ours.losses == pytest.approx(theirs.losses, abs=0.03)
    assert ours.losses[-1] < ours.losses[0]
    assert ours.evaluation_losses == pytest.approx(theirs.evaluation_losses, abs=0.03)


@pytest.mark.usefixtures("open_gate")
def test_a_run_within_a_memory_limit_keeps_layers(tiny_model: Models, chat_rows: Path, config_for: Raw) -> None:
    training = {"engine": "fast", "max_steps": 4, "memory_limit_gib": 8}
    result = train(config_for(tiny_model("llama"), chat_rows, training=training))
    assert result.engine == "fast"
    assert result.losses[-1] < result.losses[0]
