"""What the candidate in benchmarks/read_ahead.py loads is what `from_pretrained` gives, bit for bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.errors import ModelError

from .families import FAMILIES

Models = Callable[[str], Path]


def arguments_of(directory: Path, compute_dtype: str, quantization: dict[str, Any]) -> dict[str, Any]:
    """What a run gives `from_pretrained`."""
    import torch
    from transformers import BitsAndBytesConfig

    from qlora_tools.config import QuantizationConfig
    from qlora_tools.config.library_arguments import quantization_arguments
    from qlora_tools.engine.loading import attention_name

    settings = quantization_arguments(QuantizationConfig(**quantization), compute_dtype) or {}
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return {
        "dtype": getattr(torch, compute_dtype),
        "quantization_config": BitsAndBytesConfig(**settings),
        "attn_implementation": attention_name("auto", values),
        "device_map": {"": 0 if torch.cuda.is_available() else "cpu"},
    }


def load_ahead(directory: Path, compute_dtype: str = "bfloat16", **quantization: Any) -> Any:
    """The base as the candidate loads it."""
    import torch
    from transformers import AutoConfig

    from benchmarks.read_ahead import can_be_read_ahead, load_read_ahead

    config = AutoConfig.from_pretrained(directory)
    assert can_be_read_ahead(directory, config)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    model, info = load_read_ahead(directory, config, device, arguments_of(directory, compute_dtype, quantization))
    assert not info["missing_keys"]
    return model


def load_stock(directory: Path, compute_dtype: str = "bfloat16", **quantization: Any) -> Any:
    """The base as Transformers alone loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(directory), **arguments_of(directory, compute_dtype, quantization))


def require_same(ours: Any, stock: Any) -> None:
    """Every tensor with its bits, dtype and class, and all that PEFT, TRL, generating and saving ask a model for."""
    import torch
    from transformers import PreTrainedModel

    for ask in (
        lambda model: list(model.state_dict().items()),  # with the constants of what is quantised
        lambda model: list(model.named_parameters(remove_duplicate=False)),
        lambda model: list(model.named_buffers()),
    ):
        for (name, tensor), (expected_name, expected) in zip(ask(ours), ask(stock), strict=True):
            assert name == expected_name
            assert type(tensor) is type(expected), name
            assert (tensor.dtype, tensor.device) == (expected.dtype, expected.device), name
            assert tensor.requires_grad == expected.requires_grad, name
            # Packed weights may be stored in a float type, in which some of them are NaN.
            bits = [one.detach().cpu().reshape(-1).view(torch.uint8) for one in (tensor, expected)]
            assert torch.equal(*bits), name
            assert vars(tensor).keys() == vars(expected).keys(), name
    for (name, module), (expected_name, expected) in zip(ours.named_modules(), stock.named_modules(), strict=True):
        assert name == expected_name
        assert type(module) is type(expected)
        assert module.training == expected.training
        assert vars(module).keys() == vars(expected).keys(), name
        if isinstance(module, PreTrainedModel):
            assert module.name_or_path == expected.name_or_path
            assert module.config.to_dict() == expected.config.to_dict()
            assert module.config._attn_implementation == expected.config._attn_implementation
    assert ours.generation_config.to_dict() == stock.generation_config.to_dict()
    assert vars(ours.hf_quantizer).keys() == vars(stock.hf_quantizer).keys()
    assert ours.hf_quantizer.quantization_config.to_dict() == stock.hf_quantizer.quantization_config.to_dict()
    for name in ("is_loaded_in_4bit", "is_quantized", "quantization_method", "hf_device_map"):
        assert getattr(ours, name, None) == getattr(stock, name, None), name
    tied = [model.get_input_embeddings().weight is model.get_output_embeddings().weight for model in (ours, stock)]
    assert tied[0] == tied[1]


def test_a_small_base_is_loaded_as_transformers_loads_it(tiny_model: Models) -> None:
    require_same(load_ahead(tiny_model("llama")), load_stock(tiny_model("llama")))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_loaded_as_transformers_loads_it(family: str, tiny_model: Models) -> None:
    require_same(load_ahead(tiny_model(family)), load_stock(tiny_model(family)))


OTHER_SETTINGS: dict[str, dict[str, Any]] = {
    "fp4 with plain constants": {"kind": "fp4", "double_quantization": False},
    "storage as for sharding": {"storage_dtype": "bfloat16"},
    "converted while it is loaded": {"compute_dtype": "float16"},
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
def test_other_settings_are_loaded_as_transformers_loads_them(settings: dict[str, Any], tiny_model: Models) -> None:
    require_same(load_ahead(tiny_model("qwen2"), **settings), load_stock(tiny_model("qwen2"), **settings))


@pytest.mark.slow
def test_a_run_begins_with_the_loss_and_the_gradients_of_the_base_from_transformers(tiny_model: Models) -> None:
    import torch

    from qlora_tools.config import LoraConfig
    from qlora_tools.engine.adapters import attach_adapter
    from qlora_tools.engine.loading import keep_autograd
    from qlora_tools.models.reference import ModelReference, ResolvedModel

    directory, found = tiny_model("llama"), []
    resolved = ResolvedModel(ModelReference(str(directory), "local"), str(directory), None)
    tokens = torch.arange(8, 40)[None]
    for base in (load_ahead(directory), load_stock(directory)):
        keep_autograd(base)
        with torch.no_grad():
            base(tokens)  # a forward pass in eval mode comes before, as that of a smoke generation does
        torch.manual_seed(0)
        model = attach_adapter(base, LoraConfig(rank=4), resolved).train()
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
        found.append((loss.item(), gradients))
    (loss, gradients), (expected_loss, expected) = found
    assert loss == expected_loss
    assert gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)


def save_random(target: Path, config: Any, dtype: Any, **saving: Any) -> Path:
    """A random model of `config` in `target`, without a tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(target, **saving)
    return target


@pytest.mark.slow
def test_shards_tied_embeddings_and_settings_of_generation_are_loaded_as_transformers_loads_them(
    tmp_path: Path,
) -> None:
    import torch
    from transformers import Qwen2Config

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 11, "num_attention_heads": 4}
    config = Qwen2Config(vocab_size=512, num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    model = save_random(tmp_path / "model", config, torch.bfloat16, max_shard_size="200KB")
    assert len(list(model.glob("*.safetensors"))) > 3
    settings = json.loads((model / "generation_config.json").read_text()) | {"temperature": 0.6, "do_sample": True}
    (model / "generation_config.json").write_text(json.dumps(settings))
    ours = load_ahead(model)
    assert ours.generation_config.temperature == 0.6
    require_same(ours, load_stock(model))


@pytest.mark.slow
def test_merged_experts_and_transposed_weights_are_loaded_as_transformers_loads_them(tmp_path: Path) -> None:
    import torch
    from transformers import GPT2Config, MixtralConfig

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = MixtralConfig(vocab_size=512, num_key_value_heads=2, num_local_experts=4, **sizes)
    transposed = GPT2Config(vocab_size=512, n_positions=64, n_embd=64, n_layer=2, n_head=4)
    for name, config, dtype in (("experts", experts, torch.bfloat16), ("transposed", transposed, torch.float32)):
        model = save_random(tmp_path / name, config, dtype)
        require_same(load_ahead(model), load_stock(model))


@pytest.mark.slow
def test_weights_that_the_model_has_no_use_for_are_left_out(tiny_model: Models, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model("llama"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file) | {"model.layers.0.further.weight": torch.zeros(300, 300, dtype=torch.bfloat16)}
    save_file(weights, file, {"format": "pt"})
    require_same(load_ahead(tmp_path / "model"), load_stock(tmp_path / "model"))


@pytest.mark.slow
def test_a_file_that_is_cut_off_is_refused_before_anything_is_loaded(tiny_model: Models, tmp_path: Path) -> None:
    shutil.copytree(tiny_model("llama"), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="its header describes"):
        load_ahead(tmp_path / "model")


@pytest.mark.slow
def test_what_from_pretrained_alone_understands_is_left_to_it(tiny_model: Models, tmp_path: Path) -> None:
    from transformers import AutoConfig, Gemma3Config, LlamaConfig

    from benchmarks.read_ahead import can_be_read_ahead

    assert can_be_read_ahead(tiny_model("llama"), AutoConfig.from_pretrained(tiny_model("llama")))
    assert not can_be_read_ahead(tmp_path, Gemma3Config())
    assert not can_be_read_ahead(tmp_path, LlamaConfig(transformers_weights="other.safetensors"))
    (tmp_path / "adapter_config.json").write_text("{}")
    assert not can_be_read_ahead(tmp_path, LlamaConfig())


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A file with tensors of 0 to 40 MiB, and what they are."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    shapes = {"layers.10.a": (20_000, 1024), "layers.2.a": (9_000, 1024), "layers.2.b": (7,), "none": (0, 4), "one": ()}
    tensors = {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
    file = tmp_path_factory.mktemp("stored") / "model.safetensors"
    save_file(tensors, file)
    return file, tensors


ORDERS = {
    "in the order of layers": ["layers.2.a", "layers.2.b", "layers.10.a", "none", "one"],
    "backwards": ["one", "none", "layers.10.a", "layers.2.b", "layers.2.a"],
    "with some left out and one twice": ["layers.10.a", "one", "layers.10.a"],
}


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_tensors_are_read_whole_in_any_order(
    order: list[str], device: str, stored: tuple[Path, dict[str, Any]]
) -> None:
    import torch

    from benchmarks.read_ahead import WeightReader
    from qlora_tools.models.stored_tensors import file_tensors

    file, tensors = stored
    with WeightReader(list(file_tensors(file).values()), torch.device(device), 2**26) as reader:
        for name in order:
            read = reader.take(name)
            assert read.device.type == device
            assert read.dtype == torch.bfloat16
            assert torch.equal(read.cpu(), tensors[name])


@pytest.mark.slow
def test_a_file_that_shrinks_while_it_is_read_is_an_error(stored: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    import torch

    from benchmarks.read_ahead import WeightReader
    from qlora_tools.models.stored_tensors import file_tensors

    file = Path(shutil.copy(stored[0], tmp_path))
    found = list(file_tensors(file).values())
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    with (
        WeightReader(found, torch.device("cpu"), 2**26) as reader,
        pytest.raises(OSError, match="ends before its last tensor"),
    ):
        for tensor in found:
            reader.take(tensor.name)


@pytest.mark.gpu
def test_loading_onto_a_gpu_takes_at_most_one_gib_more_than_the_base(tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig

    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 4, "num_attention_heads": 32}
    model = save_random(tmp_path / "model", LlamaConfig(num_key_value_heads=8, **sizes), torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    ours = load_ahead(model)
    assert torch.cuda.max_memory_allocated() <= torch.cuda.memory_allocated() + 2**30
    require_same(ours, load_stock(model))
