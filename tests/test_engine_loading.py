"""A base is loaded whole, in every form, and files that do not fit are refused by name."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.errors import ModelError

Models = Callable[[str], Path]


def load(directory: Path, **quantization: Any) -> Any:
    """The base as a run loads it."""
    from qlora_tools.config import QuantizationConfig
    from qlora_tools.engine.device import detect_hardware
    from qlora_tools.engine.loading import load_model
    from qlora_tools.models.reference import ModelReference, ResolvedModel

    return load_model(
        ResolvedModel(ModelReference(str(directory), "local"), str(directory), None),
        QuantizationConfig(**quantization),
        compute_dtype="bfloat16",
        attention_implementation="auto",
        hardware=detect_hardware(),
    ).model


def test_no_layer_of_a_loaded_base_may_be_repacked(tiny_model: Models) -> None:
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in load(tiny_model("llama")).modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def _changed(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


def _narrower(name: str) -> Callable[[dict[str, Any]], None]:
    def cut(weights: dict[str, Any]) -> None:
        weights[name] = weights[name][:-64].clone()

    return cut


_GATE, _EMBEDDING = "model.layers.1.mlp.gate_proj.weight", "model.embed_tokens.weight"
MISFITS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a missing weight": (
        lambda weights: weights.pop(_GATE),
        f"1 tensors are missing and 0 have another shape .{_GATE}",
    ),
    "a quantised weight of another shape": (
        _narrower(_GATE),
        f"0 tensors are missing and 1 have another shape .{_GATE}",
    ),
    "an embedding of another shape": (_narrower(_EMBEDDING), f"0 .* 1 have another shape .{_EMBEDDING}"),
}


@pytest.mark.parametrize(("change", "said"), MISFITS.values(), ids=MISFITS)
def test_weights_that_do_not_fit_the_config_are_refused_by_name(
    change: Callable[[dict[str, Any]], None], said: str, tiny_model: Models, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=said):
        load(_changed(tiny_model("llama"), tmp_path / "model", change))


@pytest.mark.parametrize("kind", ["fp4", "int8", "none"])
def test_a_layer_of_another_shape_is_refused_in_every_form_of_the_base(
    kind: str, tiny_model: Models, tmp_path: Path
) -> None:
    load(tiny_model("llama"), kind=kind)
    with pytest.raises(ModelError, match=f"0 tensors are missing and 1 have another shape .{_GATE}"):
        load(_changed(tiny_model("llama"), tmp_path / "model", _narrower(_GATE)), kind=kind)


def test_merged_experts_and_transposed_weights_have_the_shapes_of_their_layers(
    tiny_model: Models, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    experts = MixtralConfig(vocab_size=512, num_key_value_heads=2, num_local_experts=4, **sizes)
    transposed = GPT2Config(vocab_size=512, n_positions=64, n_embd=64, n_layer=1, n_head=4)
    for config in (experts, transposed):
        model = tmp_path / config.model_type
        shutil.copytree(tiny_model("llama"), model)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(model)
        assert load(model).config.model_type == config.model_type


def test_weights_that_the_model_has_no_use_for_are_left_out(tiny_model: Models, tmp_path: Path) -> None:
    import torch

    def add(weights: dict[str, Any]) -> None:
        weights["model.layers.0.further.weight"] = torch.zeros(300, 300, dtype=torch.bfloat16)

    expected = load(tiny_model("llama")).state_dict()
    found = load(_changed(tiny_model("llama"), tmp_path / "model", add)).state_dict()
    assert found.keys() == expected.keys()


def test_a_file_that_is_cut_off_is_refused(tiny_model: Models, tmp_path: Path) -> None:
    shutil.copytree(tiny_model("llama"), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path / "model")
