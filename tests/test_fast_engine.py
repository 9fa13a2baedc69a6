"""The fast engine trains as the stock one does: gradients, losses, resuming, and when it leaves the run to the other."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.config import parse_config
from qlora_tools.data.rows import IGNORED
from qlora_tools.errors import RunStopped
from qlora_tools.events import RunEvent

Raw = Callable[..., dict[str, Any]]
Models = Callable[[str], Path]
FAMILIES = ("llama", "mistral", "phi3", "qwen2", "qwen3")
# Odd, of one token, and longer than the sliding window of the tiny Mistral (32).
LENGTHS = (5, 41, 37, 1)


def adapted(
    directory: Path,
    *,
    compute_dtype: str = "float32",
    kind: str = "nf4",
    seed: int = 0,
    hardware: Any = None,
    **lora: Any,
) -> Any:
    """A tiny model with an adapter that already does something, or half of the gradients would be zero."""
    import torch

    from qlora_tools.config import LoraConfig, QuantizationConfig
    from qlora_tools.engine.adapters import attach_adapter
    from qlora_tools.engine.device import host_hardware
    from qlora_tools.engine.loading import load_model
    from qlora_tools.models import ModelReference, resolve_model

    resolved = resolve_model(ModelReference(str(directory), "local"))
    loaded = load_model(
        resolved,
        QuantizationConfig(kind=kind),
        compute_dtype=compute_dtype,
        attention_implementation="auto",
        hardware=hardware or host_hardware(),
    )
    torch.manual_seed(seed)
    model = attach_adapter(loaded.model, LoraConfig(**{"rank": 4, **lora}), resolved)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    return model


def batch_of(layout: str, seed: int = 0) -> dict[str, Any]:
    """The rows as the collator of a layout lays them out, with what the fast engine reads beside them."""
    import random

    from qlora_tools.data.collate import FlatCollator, PaddedCollator
    from qlora_tools.engine.fast.rows import RowsCollator

    source = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for length in LENGTHS:
        ids = [source.randrange(8, 512) for _ in range(length)]
        prompt = length // 3
        rows.append({"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]})
    if layout == "bins":
        both = {name: [value for row in rows[:2] for value in row[name]] for name in ("input_ids", "labels")}
        rows = [{**both, "lengths": list(LENGTHS[:2])}, *({**row, "lengths": [len(row["labels"])]} for row in rows[2:])]
    return RowsCollator(PaddedCollator(0) if layout == "off" else FlatCollator())(rows)


@dataclass(frozen=True)
class Found:
    loss: Any
    gradients: dict[str, Any]


def stock(model: Any, batch: dict[str, Any], dtype: str) -> Found:
    """Loss and gradients as the stock path computes them: Transformers' forward, under autocast in 16 bits."""
    import torch
    from torch.nn.functional import cross_entropy

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
    with torch.autocast(model.device.type, dtype=getattr(torch, dtype), enabled=dtype in ("bfloat16", "float16")):
        logits = model(**inputs, use_cache=False).logits
    wide = logits if logits.dtype == torch.float64 else logits.float()
    loss = cross_entropy(wide[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
    return found_of(model, loss)


def fast(
    model: Any,
    batch: dict[str, Any],
    *,
    keep: bool = True,
    stacked: bool | None = False,
    seed: int = 0,
    on_host: bool = False,
) -> Found:
    """`stacked` is how weights are decoded on a GPU: a group at once, its LoRA within the same product."""
    import torch

    from qlora_tools.engine.fast.model import FastModel
    from qlora_tools.engine.fast.rows import rows_of

    torch.manual_seed(seed)
    keep_all = [keep] * model.config.num_hidden_layers
    engine = FastModel(model, keep=keep_all, stacked=stacked, on_host=on_host)
    return found_of(model, engine.summed_loss(rows_of(batch))[0])


def found_of(model: Any, loss: Any) -> Found:
    import torch

    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()))
    return Found(loss.detach(), dict(zip(trained, gradients, strict=True)))


def exactly(model: Any) -> Any:
    """The same function in fp64: dense layers of what the 4-bit ones stand for."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora import LoraLayer

    wide = copy.deepcopy(model)
    for module in wide.modules():
        if not isinstance(module, LoraLayer):
            continue
        base = module.base_layer
        dense = torch.nn.Linear(base.in_features, base.out_features, bias=base.bias is not None)
        dense.weight.data = dequantize_4bit(base.weight.data, base.weight.quant_state)
        if base.bias is not None:
            dense.bias.data = base.bias.data
        module.base_layer = dense.requires_grad_(False)
    return wide.double()


def error(found: Found, exact: Found) -> float:
    """Mean over the tensors of what each gradient is off, as a share of its norm."""
    shares = [
        float((found.gradients[name].double() - gradient).norm() / gradient.norm())
        for name, gradient in exact.gradients.items()
    ]
    return sum(shares) / len(shares)


@pytest.mark.parametrize("layout", ["off", "padding_free", "bins"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_gradient_is_that_of_the_stock_engine_in_fp32(family: str, layout: str, tiny_model: Models) -> None:
    model, batch = adapted(tiny_model(family)), batch_of(layout)
    expected = stock(model, batch, "float32")
    for stacked in (False, True):
        found = fast(model, batch, stacked=stacked)
        assert abs(found.loss / expected.loss - 1) < 1e-6
        for name, gradient in expected.gradients.items():
            assert (found.gradients[name] - gradient).norm() <= 5e-6 * gradient.norm(), name


@pytest.mark.parametrize(("family", "dtype"), [*((family, "bfloat16") for family in FAMILIES), ("llama", "float16")])
def test_rounding_is_no_worse_than_in_the_stock_engine(family: str, dtype: str, tiny_model: Models) -> None:
    errors = {"stock": 0.0, "fast": 0.0, "stacked": 0.0}
    for seed in range(3):
        model, batch = adapted(tiny_model(family), compute_dtype=dtype, seed=seed), batch_of("off", seed)
        exact = stock(exactly(model), batch, "float64")
        errors["stock"] += error(stock(model, batch, dtype), exact)
        errors["fast"] += error(fast(model, batch), exact)
        errors["stacked"] += error(fast(model, batch, stacked=True), exact)
    assert 0 < errors["fast"] <= 1.05 * errors["stock"]
    assert 0 < errors["stacked"] <= 1.05 * errors["stock"], errors


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "fp4"},
        {"kind": "none"},
        {"use_rslora": True, "rank": 3},
        {"target_modules": "attention"},
        {"target_modules": ["v_proj"]},
        {"target_modules": ["down_proj"]},
        {"target_modules": ["k_proj", "up_proj", "o_proj"]},
    ],
    ids=str,
)
def test_bases_and_adapters_of_all_kinds_have_the_gradients_of_the_stock_engine(
    settings: dict[str, Any], tiny_model: Models
) -> None:
    from qlora_tools.engine.fast.choosing import choose_engine

    model, batch = adapted(tiny_model("qwen2"), **settings), batch_of("off")
    assert choose_engine("fast", model).name == "fast"
    expected = stock(model, batch, "float32")
    for keep in (True, False):
        found = fast(model, batch, keep=keep, stacked=not keep)
        assert found.gradients.keys() == expected.gradients.keys()
        for name, gradient in expected.gradients.items():
            assert (found.gradients[name] - gradient).norm() <= 5e-6 * gradient.norm(), name


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_layers_that_are_computed_again_have_the_gradients_of_kept_ones(family: str, tiny_model: Models) -> None:
    import torch

    model, batch = adapted(tiny_model(family), compute_dtype="bfloat16"), batch_of("off")
    for stacked in (False, True):
        kept, again = (fast(model, batch, keep=keep, stacked=stacked) for keep in (True, False))
        assert torch.equal(kept.loss, again.loss)
        assert all(torch.equal(again.gradients[name], gradient) for name, gradient in kept.gradients.items())


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.3}], ids=str)
@pytest.mark.parametrize("keep", [True, False])
def test_tokens_in_slices_have_the_gradients_of_all_at_once(
    keep: bool, settings: dict[str, Any], tiny_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from qlora_tools.engine.fast import mlp

    model, batch = adapted(tiny_model("llama"), **settings).eval(), batch_of("off")
    whole = fast(model, batch, keep=keep)
    monkeypatch.setattr(mlp, "_TOKENS_AT_ONCE", 30)  # 84 tokens: three slices
    parts = fast(model, batch, keep=keep)
    for name, gradient in whole.gradients.items():
        assert (parts.gradients[name] - gradient).norm() <= 2e-6 * gradient.norm(), name
    again = [fast(model.train(), batch, keep=keep, seed=3) for keep in (True, False)]
    assert all(
        torch.equal(one, other)
        for one, other in zip(again[0].gradients.values(), again[1].gradients.values(), strict=True)
    )


@pytest.mark.parametrize("keep", [True, False])
def test_dropout_has_the_gradients_of_its_masks(keep: bool, tiny_model: Models) -> None:
    """Against differences of the loss, in the direction of the gradient, with the masks held still."""
    import torch

    model, batch = adapted(tiny_model("qwen2"), dropout=0.4).train(), batch_of("off")
    plain = fast(model.eval(), batch)
    found = fast(model.train(), batch, keep=keep, stacked=not keep, seed=1)
    assert fast(model, batch, keep=keep, seed=1).loss == pytest.approx(found.loss.item(), rel=1e-6)
    assert len({fast(model, batch, seed=seed).loss.item() for seed in range(3)} | {plain.loss.item()}) == 4
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        gradient, size = found.gradients[name], 1e-3 / float(found.gradients[name].norm())
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(gradient, alpha=sign * size)
            losses.append(fast(model, batch, keep=keep, seed=1).loss.double().item())
            with torch.no_grad():
                parameter.add_(gradient, alpha=-sign * size)
        slope = (losses[0] - losses[1]) / (2 * size)
        assert slope == pytest.approx(float(gradient.square().sum()), rel=0.05), name


@pytest.mark.parametrize("keep", [True, False])
def test_a_second_backward_pass_gives_the_gradients_of_the_first(keep: bool, tiny_model: Models) -> None:
    import torch

    from qlora_tools.engine.fast.model import FastModel
    from qlora_tools.engine.fast.rows import rows_of

    model = adapted(tiny_model("llama"))
    engine = FastModel(model, keep=[keep] * model.config.num_hidden_layers)
    loss, adapters = engine.summed_loss(rows_of(batch_of("off")))[0], engine.adapters()
    first = torch.autograd.grad(loss, adapters, retain_graph=True)
    assert all(torch.equal(one, other) for one, other in zip(first, torch.autograd.grad(loss, adapters), strict=True))


def test_a_layer_that_is_computed_again_keeps_less(tiny_model: Models) -> None:
    import torch

    from qlora_tools.engine.fast.model import FastModel
    from qlora_tools.engine.fast.rows import rows_of

    model, rows = adapted(tiny_model("llama")), rows_of(batch_of("off"))
    held = {}
    for keep in ([True, True], [False, True], [False, False]):
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            FastModel(model, keep=keep).summed_loss(rows)
        held[sum(keep)] = sum(kept.values())
    assert held[0] < held[1] < held[2]


def test_a_micro_batch_without_learnt_tokens_has_no_loss_and_no_gradient(tiny_model: Models) -> None:
    from qlora_tools.data.collate import PaddedCollator
    from qlora_tools.engine.fast.rows import RowsCollator

    batch = RowsCollator(PaddedCollator(0))([{"input_ids": [9, 10, 11], "labels": [IGNORED] * 3}])
    found = fast(adapted(tiny_model("llama")), batch, keep=False)
    assert found.loss == 0
    assert not any(gradient.any() for gradient in found.gradients.values())


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("llama", {"use_dora": True}, "it has no DoRA"),
        ("llama", {"modules_to_save": ["embed_tokens"]}, "it trains no whole modules (lora.modules_to_save)"),
        ("llama", {"kind": "int8"}, "it knows bases in nf4, fp4 and none, and this one has Linear8bitLt"),
        ("gemma2", {}, "it knows llama, mistral, phi3, qwen2, qwen3, and this model is gemma2"),
    ],
)
def test_what_the_fast_engine_cannot_do_is_left_to_the_stock_one_with_a_reason(
    family: str, settings: dict[str, Any], reason: str, tiny_model: Models
) -> None:
    from qlora_tools.engine.fast.choosing import EngineChoice, choose_engine

    model = adapted(tiny_model(family), **settings)
    assert choose_engine("fast", model) == EngineChoice("stock", f"not fast: {reason}")


def test_a_model_that_trains_more_than_the_seven_projections_is_left_to_the_stock_engine(tiny_model: Models) -> None:
    from qlora_tools.engine.fast.choosing import choose_engine

    model = adapted(tiny_model("llama"))
    model.get_base_model().model.norm.weight.requires_grad_(True)
    assert choose_engine("fast", model).reason.startswith(
        "not fast: it trains the seven projections of a layer, and not"
    )


@pytest.fixture
def llama(tiny_model: Models) -> Path:
    return tiny_model("llama")


def train(raw: dict[str, Any], **arguments: Any) -> Any:
    from qlora_tools import train as train_from_config

    return train_from_config(parse_config(raw), **arguments)


def curve(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from qlora_tools.progress.metrics import read_course

    return iter(read_course(Path(raw["output"]["directory"]) / "metrics.jsonl").records)


def test_losses_of_thirty_steps_are_those_of_the_stock_engine(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    runs = {
        engine: config_for(
            llama,
            chat_rows,
            data={"evaluation_fraction": 0.2},
            training={"engine": engine, "max_steps": 30, "gradient_accumulation_steps": 1, "evaluation_samples": 1},
        )
        for engine in ("stock", "fast")
    }
    results = {engine: train(raw) for engine, raw in runs.items()}
    ours, theirs = results["fast"], results["stock"]
    assert (ours.engine, ours.engine_reason, theirs.engine) == ("fast", "asked for", "stock")
    assert ours.losses == pytest.approx(theirs.losses, rel=2e-5)
    assert ours.losses[-1] < 0.9 * ours.losses[0]
    assert ours.evaluation_losses == pytest.approx(theirs.evaluation_losses, rel=2e-5)
    for one, other in zip(*(list(curve(raw)) for raw in runs.values()), strict=True):
        same = ("step", "tokens", "token_accuracy", "learning_rate")
        assert [one.get(name) for name in same] == [other.get(name) for name in same]


@pytest.mark.parametrize("packing", [pytest.param("off", marks=pytest.mark.slow), "bins"])
def test_a_resumed_fast_run_has_the_losses_of_an_uninterrupted_one(
    packing: str, llama: Path, chat_rows: Path, config_for: Raw
) -> None:
    training = {"engine": "fast", "packing": packing, "max_steps": 5}
    whole = train(config_for(llama, chat_rows, training=training))
    raw = config_for(llama, chat_rows, training=training)
    seen: list[int] = []

    def listen(event: RunEvent) -> None:
        if event.kind == "metrics":
            seen.append(event.values["step"])

    with pytest.raises(RunStopped) as stopped:
        train(raw, stop=lambda: bool(seen) and seen[-1] >= 2, on_event=listen)
    resumed = train(raw, resume_from=stopped.value.checkpoint)
    assert (resumed.engine, resumed.resumed_from_step) == ("fast", 2)
    assert resumed.losses == whole.losses


def test_a_run_that_falls_back_says_so_and_trains(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    raw = config_for(llama, chat_rows, lora={"use_dora": True}, training={"engine": "fast", "max_steps": 1})
    result = train(raw)
    assert result.engine == "stock"
    assert result.warnings == [
        "training.engine is fast, and this run uses the stock engine (not fast: it has no DoRA)."
    ]


def test_auto_takes_the_stock_engine_and_says_why(tiny_model: Models) -> None:
    from qlora_tools.engine.fast.choosing import EngineChoice, choose_engine

    expected = EngineChoice("stock", "auto takes the fast engine once its gain is measured on a GPU")
    assert choose_engine("auto", adapted(tiny_model("llama"))) == expected
