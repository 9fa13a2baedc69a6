"""The cost of quantisation: errors of weights against theory and against bitsandbytes on whole tensors, and losses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit
from safetensors.torch import load_file, save_file

from qlora_tools.engine.device import host_hardware
from qlora_tools.errors import ModelError, UsageError, WorkStopped
from qlora_tools.evaluation import quantisation_cost_losses, quantisation_cost_weights
from qlora_tools.evaluation.quantisation_cost import KINDS, quantisation_cost
from qlora_tools.evaluation.quantisation_cost_grid import GridCount
from qlora_tools.events import RunEvent
from qlora_tools.guide import read_topic
from qlora_tools.models.hardware import Hardware
from qlora_tools.results.instruments import QuantisationCost

from .families import FAMILIES, make_model, make_tokenizer

WIDTH = 512


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One block of 512 wide, its linear weights drawn from a normal distribution and stored in fp32."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    directory = tmp_path_factory.mktemp("gaussian")
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "vocab_size": 64}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    make_tokenizer(FAMILIES["llama"]).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def measured(gaussian: Path) -> QuantisationCost:
    return quantisation_cost(gaussian, texts=[])


def maximum_density(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of the largest of `count` absolute standard normal draws, and their probabilities."""
    from math import erf

    largest = np.linspace(0.5, 7, 1500)
    below = np.array([erf(value / np.sqrt(2)) for value in largest])
    density = count * 2 * np.exp(-(largest**2) / 2) / np.sqrt(2 * np.pi) * below ** (count - 1)
    return largest, density / density.sum()


def expected_4bit_error(kind: str, block: int = 64) -> float:
    """Relative RMS error of normal weights in blocks, from the code book alone.

    The largest weight of a block is met exactly; the others are normal, cut off at it, and go to the nearest level.
    """
    levels = np.sort(np.unique(get_4bit_type(kind, device="cpu").double().numpy()))
    shares = np.linspace(-1, 1, 4001)
    nearest = np.abs(shares[:, None] - levels[None]).min(axis=1) ** 2
    largest, probability = maximum_density(block)
    density = np.exp(-((largest[:, None] * shares[None]) ** 2) / 2)
    squared = largest**2 * (density * nearest).sum(axis=1) / density.sum(axis=1)
    return float(np.sqrt((probability * squared).sum() * (block - 1) / block))


def expected_int8_error(width: int) -> float:
    """Steps of a 127th of the row's largest weight make errors that are evenly spread over a step."""
    largest, probability = maximum_density(width)
    return float(np.sqrt((probability * largest**2).sum() / 127**2 / 12))


def test_errors_of_normal_weights_are_those_of_theory(measured: QuantisationCost) -> None:
    found = {kind.kind: kind.relative_error for kind in measured.weights}
    assert found["nf4"] == pytest.approx(expected_4bit_error("nf4"), rel=0.01)
    assert found["fp4"] == pytest.approx(expected_4bit_error("fp4"), rel=0.01)
    assert found["int8"] == pytest.approx(expected_int8_error(WIDTH), rel=0.02)
    assert found["nf4"] < found["nf4-double"] < 1.01 * found["nf4"]
    assert 1.25 < found["fp4"] / found["nf4"] < 1.4


def test_bits_count_every_constant(measured: QuantisationCost) -> None:
    bits = {kind.kind: kind.bits_per_parameter for kind in measured.weights}
    assert bits["nf4"] == bits["fp4"] == 4.5
    assert bits["nf4-double"] == pytest.approx(4 + 8 / 64 + 32 / (64 * 256) + 32 / WIDTH**2)
    assert bits["int8"] == 8 + 32 / WIDTH


def test_every_linear_layer_is_measured_and_nothing_else(measured: QuantisationCost) -> None:
    names = {error.tensor for error in measured.tensors}
    assert len(names) == 7
    assert len(measured.tensors) == 7 * len(KINDS)
    assert all("proj.weight" in name for name in names)
    assert measured.unquantised_parameters == 2 * 64 * WIDTH + 3 * WIDTH
    assert measured.unquantised_bytes == 4 * measured.unquantised_parameters
    assert (measured.losses, measured.rows, measured.skipped) == ([], 0, [])
    assert not measured.grid.on_grid
    assert measured.notes == []


def test_slices_give_what_bitsandbytes_gives_for_whole_tensors(
    gaussian: Path, measured: QuantisationCost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation_cost_weights, "_SLICE_ELEMENTS", {"cpu": 128 * WIDTH})
    sliced = quantisation_cost(gaussian, texts=[])
    assert [e.relative_error for e in sliced.tensors] == pytest.approx([e.relative_error for e in measured.tensors])
    name = "model.layers.0.mlp.up_proj.weight"
    weight = load_file(gaussian / "model.safetensors")[name]
    for kind, settings in (("nf4", {}), ("nf4-double", {"compress_statistics": True}), ("fp4", {})):
        codes, state = quantize_4bit(weight, quant_type=kind[:3], **settings)
        error = dequantize_4bit(codes, state) - weight
        found = next(e for e in sliced.tensors if (e.tensor, e.kind) == (name, kind))
        assert found.relative_error == pytest.approx(float(error.norm() / weight.norm()), rel=1e-4)
        assert found.max_error == pytest.approx(float(error.abs().max()), rel=1e-4)


def test_weights_that_were_quantised_before_are_told(gaussian: Path, tmp_path: Path) -> None:
    shutil.copytree(gaussian, tmp_path, dirs_exist_ok=True)
    tensors = load_file(gaussian / "model.safetensors")
    for name, tensor in tensors.items():
        if "proj" in name:
            codes, state = quantize_4bit(tensor, quant_type="nf4")
            tensors[name] = dequantize_4bit(codes, state).to(torch.bfloat16)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    found = quantisation_cost(tmp_path, texts=[], kinds=["nf4"])
    assert found.grid.on_grid
    assert found.grid.share_of_blocks == 1
    assert "do not quote them" in found.notes[0]
    assert found.weights[0].relative_error < 0.01


def test_pruned_and_plain_weights_lie_on_no_grid() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 100).to(torch.bfloat16)
    half = torch.where(torch.rand_like(weight.float()) < 0.5, 0, weight.float())
    for values in (weight, half, torch.zeros(4, 64)):
        count = GridCount()
        count.add(values)
        assert not count.finding().on_grid
    # Asymmetric grids of 32 weights too, as GGUF's Q4_1 has them.
    grid = GridCount()
    grid.add((torch.randint(0, 16, (64, 3, 32)) * torch.rand(64, 3, 1) - torch.rand(64, 3, 1)).reshape(64, 96))
    assert grid.finding().on_grid


def test_losses_of_each_kind_stand_beside_those_of_16_bits(tmp_path: Path) -> None:
    make_model("llama", tmp_path / "base")
    texts = ["say number one two three", "what is the capital of Japan? Tokyo.", "it is ten very eight five four"] * 3
    row = ([9, 10, 11, 12], [-100, -100, 11, 12])
    events: list[RunEvent] = []
    found = quantisation_cost(
        tmp_path / "base", texts=texts, rows=[row, ([5], [5])], kinds=["nf4", "int8"], on_event=events.append
    )
    assert [loss.kind for loss in found.losses] == ["16-bit", "nf4", "int8"]
    assert found.rows == 10
    assert found.tokens > 50
    reference, nf4, int8 = found.losses
    assert reference.difference is None
    assert nf4.difference == pytest.approx(nf4.loss - reference.loss)
    assert nf4.difference_interval is not None
    assert nf4.difference_interval.low <= nf4.difference <= nf4.difference_interval.high
    assert int8.perplexity == pytest.approx(np.exp(int8.loss))
    assert next(event.message for event in events if event.kind == "phase") == "Measuring the weights"
    assert QuantisationCost.model_validate_json(found.model_dump_json()) == found


def test_a_kind_that_the_machine_cannot_run_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model("llama", tmp_path / "base")
    here = host_hardware()
    old = Hardware("cpu", "An old card", here.memory_bytes, here.free_memory_bytes, False, compute_capability=(7, 0))
    monkeypatch.setattr(quantisation_cost_losses, "detect_hardware", lambda: old)
    found = quantisation_cost(tmp_path / "base", texts=["it is one two three"], kinds=["int8"])
    assert [loss.kind for loss in found.losses] == ["16-bit"]
    assert [one.kind for one in found.skipped] == ["int8"]
    assert "7.5" in found.skipped[0].reason
    assert any("An old card" in note for note in found.notes)


def test_what_cannot_be_measured_is_refused(gaussian: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'int4'"):
        quantisation_cost(gaussian, texts=[], kinds=["nf4", "int4"])
    with pytest.raises(UsageError, match="No kind"):
        quantisation_cost(gaussian, texts=[], kinds=[])
    with pytest.raises(UsageError, match="as many labels"):
        quantisation_cost(gaussian, texts=[], rows=[([5, 6], [5])])
    with pytest.raises(WorkStopped, match="after 0 of 7 tensors"):
        quantisation_cost(gaussian, texts=[], stop=lambda: True)
    shutil.copytree(gaussian, tmp_path, dirs_exist_ok=True)
    integers = {"model.layers.0.mlp.up_proj.weight": torch.zeros(4, 4, dtype=torch.int8)}
    save_file(integers, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="No tensor"):
        quantisation_cost(tmp_path, texts=[])


def test_the_committed_result_is_what_theory_and_the_guide_say() -> None:
    path = Path(__file__).parent.parent / "benchmarks/results/quantisation_cost.json"
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    assert not any(model["grid"]["on_grid"] for model in models)
    (random,) = (model for model in models if model["weights_are"] == "normal random")
    found = {kind["kind"]: kind["relative_error"] for kind in random["weights"]}
    for kind in ("nf4", "fp4"):
        assert found[kind] == pytest.approx(expected_4bit_error(kind), rel=0.01)
    said = " ".join(read_topic("quantization").split())
    shares = {kind: f"{100 * error:.2f} %" for kind, error in found.items()}
    assert f"NF4 {shares['nf4']}, with double quantisation {shares['nf4-double']}, FP4 {shares['fp4']}" in said
    assert f"int8 {shares['int8']}" in said
