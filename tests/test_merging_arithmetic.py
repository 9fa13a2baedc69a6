"""What is merged equals what PEFT computes, to the last bit in fp32, for every family and every kind of adapter."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .families import FAMILIES

Models = Callable[[str], Path]


def save_adapter(model: Path, target: Path, *, resize: int | None = None, seed: int = 1, **settings: Any) -> Path:
    """An adapter of plain PEFT with random weights on the model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if resize:
        base.resize_token_embeddings(resize, mean_resizing=False)
    wanted = {"target_modules": "all-linear", "r": 4, "lora_alpha": 7, "init_lora_weights": False, **settings}
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **wanted))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.02 if "magnitude" in name else 0.05))
    adapted.save_pretrained(target)
    return target


def merged_by_us(adapter: Any, target: Path, **wanted: Any) -> dict[str, Any]:
    from safetensors.torch import load_file

    from qlora_tools import merge

    merge(adapter, target, dtype="float32", check=False, **{"base": "original", **wanted})
    return {name: tensor for file in sorted(target.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def merged_by_peft(model: Path, *adapters: Path, resize: int | None = None) -> dict[str, Any]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if resize:
        base.resize_token_embeddings(resize, mean_resizing=False)
    for number, adapter in enumerate(adapters):
        base = PeftModel.from_pretrained(base, adapter, adapter_name=str(number)).merge_and_unload(safe_merge=True)
    return dict(base.state_dict())


def require_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    import torch

    # A tied head is one tensor with the embedding, which files hold once.
    assert theirs.keys() - ours.keys() <= {"lm_head.weight"}
    assert ours.keys() <= theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_merged_to_the_last_bit_as_peft_does(family: str, tiny_model: Models, tmp_path: Path) -> None:
    model = tiny_model(family)
    # A power of two as the scaling goes another way than other scalings.
    adapter = save_adapter(model, tmp_path / "adapter", lora_alpha=8 if "q" in family else 7)
    require_equal(merged_by_us(adapter, tmp_path / "merged"), merged_by_peft(model, adapter))


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]},
        {"use_rslora": True, "rank_pattern": {"layers.1.self_attn.q_proj": 8}, "alpha_pattern": {"v_proj": 3}},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"trainable_token_indices": {"embed_tokens": [3, 5]}},
    ],
    ids=["dora", "dora-of-embedding", "rslora", "embedding-and-head", "modules-to-save", "tokens"],
)
def test_every_kind_of_adapter_is_merged_to_the_last_bit_as_peft_does(
    settings: Any, tiny_model: Models, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    adapter = save_adapter(model, tmp_path / "adapter", **settings)
    require_equal(merged_by_us(adapter, tmp_path / "merged"), merged_by_peft(model, adapter))


def test_biases_of_the_adapter_are_merged(tiny_model: Models, tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    adapter = save_adapter(model, tmp_path / "adapter", target_modules=["q_proj", "v_proj"], lora_bias=True)
    require_equal(merged_by_us(adapter, tmp_path / "merged"), merged_by_peft(model, adapter))


def test_a_vocabulary_that_grew_is_merged_with_its_rows(tiny_model: Models, tmp_path: Path) -> None:
    model = tiny_model("llama")
    rows = json.loads((model / "config.json").read_text())["vocab_size"] + 8
    adapter = save_adapter(model, tmp_path / "adapter", resize=rows)
    ours = merged_by_us(adapter, tmp_path / "merged")
    assert ours["model.embed_tokens.weight"].shape[0] == ours["lm_head.weight"].shape[0] == rows
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["vocab_size"] == rows
    require_equal(ours, merged_by_peft(model, adapter, resize=rows))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"target_modules": ["q_proj"], "trainable_token_indices": [513, 519]}], ids=["rows", "tokens"]
)
def test_a_vocabulary_that_grew_is_compared_too(
    settings: Any, mapped: bool, tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlora_tools import merge

    if mapped:
        out_of_its_files(monkeypatch)
    adapter = save_adapter(tiny_model("qwen2"), tmp_path / "adapter", resize=520, **settings)
    result = merge(adapter, tmp_path / "merged", base="original", dtype="float32", prompts=["say two"])
    assert result.parity is not None
    assert result.parity.mean_kl < 1e-7
    assert not result.untied


def test_several_adapters_are_added_each_with_its_weight(tiny_model: Models, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model = tiny_model("llama")
    first = save_adapter(model, tmp_path / "first", seed=1)
    second = save_adapter(model, tmp_path / "second", seed=2, r=8, target_modules=["q_proj"])
    ours = merged_by_us({str(first): 1.0, str(second): 1.0}, tmp_path / "both")
    require_equal(ours, merged_by_peft(model, first, second))
    halved = merged_by_us({str(first): 0.5, str(second): -2.0}, tmp_path / "halved")
    base = load_file(model / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    one, other = (merged_by_us(adapter, tmp_path / adapter.name[:1])[name] for adapter in (first, second))
    plain = base[name].float()
    assert torch.allclose(halved[name], plain + 0.5 * (one - plain) - 2 * (other - plain), atol=1e-6)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_the_dequantised_base_is_that_of_bitsandbytes_to_the_last_bit(
    kind: str, tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from qlora_tools.merging import arithmetic

    # Slices so small that blocks and rows are cut where large tensors are cut.
    monkeypatch.setattr(arithmetic, "SLICE_ELEMENTS", 512)
    model = tiny_model("qwen3")
    adapter = save_adapter(model, tmp_path / "adapter")
    settings = (
        {"load_in_8bit": True}
        if kind == "int8"
        else {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": True}
    )
    base = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.bfloat16, quantization_config=BitsAndBytesConfig(**settings), device_map={"": "cpu"}
    )
    plain = base.dequantize(dtype=torch.float32).float()
    theirs = PeftModel.from_pretrained(plain, adapter).merge_and_unload().state_dict()
    ours = merged_by_us(adapter, tmp_path / "merged", base=kind)
    require_equal(ours, dict(theirs))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_table_of_levels_finds_what_a_search_among_them_finds(kind: str) -> None:
    import torch

    from qlora_tools.merging.dequantized import levels
    from qlora_tools.merging.reading import Scratch

    table, edges = levels(kind), torch.arange(-(2**14), 2**14 + 1) / 2**14
    # Boundaries, edges of cells, and the numbers right beside them.
    hard = torch.cat(
        [table.boundaries, table.values, edges, torch.rand(2**16) * 2 - 1, torch.tensor([0.0, -0.0, 1e-38])]
    )
    up, down = (torch.nextafter(hard, torch.tensor(to)).clamp(-1, 1) for to in (2.0, -2.0))
    numbers = torch.cat([hard, up, down])
    assert torch.equal(table.nearest(numbers, Scratch()), table.searched(numbers))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_round_trip_of_any_dtype_is_that_of_bitsandbytes_to_the_last_bit(dtype: str) -> None:
    import torch
    from bitsandbytes import functional

    from qlora_tools.config.schema import QuantizationConfig
    from qlora_tools.merging.dequantized import round_trip
    from qlora_tools.merging.reading import Scratch

    torch.manual_seed(0)
    # Blocks of zeros, one of outliers and a short one at the end.
    weight = (torch.randn(333, 200) * 0.02).to(getattr(torch, dtype))
    weight[7:9], weight[11, 3] = 0, 30
    parts, scratch = [(0, 128), (128, 256), (256, 333)], Scratch()

    def spread(function: Callable[[tuple[int, int]], None], given: Any) -> None:
        for part in given:
            function(part)

    def read(first: int, last: int) -> torch.Tensor:
        return weight[first:last]

    trip = round_trip(QuantizationConfig(), read, (333, 200), parts, spread, scratch)
    ours = torch.cat([trip.of(read(*part).float(), weight.dtype, part[0], scratch).clone() for part in parts])
    codes, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    assert torch.equal(ours, functional.dequantize_4bit(codes, state).float())


def test_a_part_that_fails_ends_the_work_on_all_others() -> None:
    from qlora_tools.merging.writing import Crew

    begun, done = [], []

    def work(part: tuple[int, int]) -> None:
        begun.append(part)
        if part[0] == 50:
            raise ZeroDivisionError
        done.append(part)

    with Crew() as crew:
        with pytest.raises(ZeroDivisionError):
            crew.each(work, [(number, number + 1) for number in range(100)])
        assert sorted(begun) == sorted([*done, (50, 51)])


def test_large_numbers_that_are_finite_are_merged_and_those_that_are_not_are_refused() -> None:
    import torch

    from qlora_tools.errors import ModelError
    from qlora_tools.merging.plan import OutputTensor
    from qlora_tools.merging.writing import _require_finite
    from qlora_tools.models.stored_tensors import StoredTensor

    tensor = OutputTensor("w", "F32", StoredTensor("w", Path("none"), "F32", (8,), 0, 32))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        # Their sum is not finite, but they are.
        large = torch.full((4096,), torch.finfo(dtype).max, dtype=dtype)
        _require_finite(large, tensor)
        for bad in ("nan", "inf", "-inf"):
            large[7] = float(bad)
            with pytest.raises(ModelError, match="not finite"):
                _require_finite(large, tensor)


def test_a_file_that_becomes_shorter_while_it_is_copied_is_said(tmp_path: Path) -> None:
    from qlora_tools.errors import ModelError
    from qlora_tools.merging.reading import pieces
    from qlora_tools.models.stored_tensors import StoredTensor

    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(range(100)))
    stored = StoredTensor("weight", file, "U8", (200,), 10, 210)
    taken = pieces(stored)
    begin, piece = next(taken)
    assert (begin, bytes(piece)) == (0, bytes(range(10, 100)))
    with pytest.raises(ModelError, match="has become shorter"):
        next(taken)


def test_a_head_that_was_tied_gets_its_own_weight_where_only_the_embedding_was_adapted(
    tiny_model: Models, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from qlora_tools import merge

    model = tiny_model("qwen2")
    adapter = save_adapter(model, tmp_path / "adapter", target_modules=["q_proj", "embed_tokens"])
    result = merge(adapter, tmp_path / "merged", base="original", dtype="float32", prompts=["say two"])
    assert result.untied
    assert result.parity is not None
    assert result.parity.mean_kl < 1e-7
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert not merged.config.tie_word_embeddings
    ids = torch.arange(12)[None]
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(base, adapter).eval()(ids).logits
        assert torch.allclose(merged.eval()(ids).logits, wanted, atol=1e-5)


def out_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even tiny models be compared, sliced and mapped as those are that do not fit in memory."""
    from qlora_tools.merging import arithmetic, mapped_model, parity

    monkeypatch.setattr(parity, "_MOST_HOST_BYTES", 0)
    monkeypatch.setattr(mapped_model, "_SMALL_ELEMENTS", 100)
    monkeypatch.setattr(arithmetic, "SLICE_ELEMENTS", 1024)


@pytest.mark.parametrize(
    ("family", "base", "settings"),
    [
        ("gemma2", "nf4", {}),
        ("llama", "original", {"use_dora": True}),
        ("qwen2", "original", {"target_modules": ["q_proj", "embed_tokens"]}),
        pytest.param("llama", "fp4", {"trainable_token_indices": {"embed_tokens": [3, 5]}}, marks=pytest.mark.slow),
        pytest.param(
            "mistral",
            "original",
            {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_models_that_do_not_fit_are_compared_out_of_their_files(
    family: str, base: Any, settings: Any, tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlora_tools import merge

    out_of_its_files(monkeypatch)
    adapter = save_adapter(tiny_model(family), tmp_path / "adapter", **settings)
    parity = merge(adapter, tmp_path / "merged", base=base, dtype="float32", prompts=["say two", "one"]).parity
    assert parity is not None
    assert parity.method.startswith("out of its files")
    assert parity.same_answers == 2
    assert parity.mean_kl < 1e-7


@pytest.mark.parametrize("mapped", [False, True])
def test_a_wrong_scaling_does_not_pass_for_a_merge(
    mapped: bool, tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlora_tools import merge
    from qlora_tools.errors import CheckFailed
    from qlora_tools.merging import writing

    if mapped:
        out_of_its_files(monkeypatch)
    adapter = save_adapter(tiny_model("llama"), tmp_path / "adapter")
    applied = writing.Factors.applied
    monkeypatch.setattr(writing.Factors, "applied", lambda *given: applied(given[0], applied(*given), *given[2:]))
    if mapped:
        monkeypatch.setattr("qlora_tools.merging.mapped_model.Factors", writing.Factors)
    with pytest.raises(CheckFailed, match="does not answer as base plus adapter"):
        merge(adapter, tmp_path / "merged", base="original", dtype="float32")
    assert not (tmp_path / "merged").exists()


def test_weights_of_transposed_layers_are_merged(tmp_path: Path, tiny_model: Models) -> None:
    import shutil

    from transformers import GPT2Config, GPT2LMHeadModel

    shutil.copytree(
        tiny_model("llama"), tmp_path / "gpt2", ignore=shutil.ignore_patterns("*.safetensors", "config.json")
    )
    rows = json.loads((tiny_model("llama") / "config.json").read_text())["vocab_size"]
    GPT2LMHeadModel(GPT2Config(vocab_size=rows, n_embd=64, n_layer=2, n_head=2, n_positions=64)).save_pretrained(
        tmp_path / "gpt2"
    )
    for number, dora in enumerate((False, True)):
        adapter = save_adapter(
            tmp_path / "gpt2",
            tmp_path / f"adapter-{number}",
            target_modules=["c_attn"],
            fan_in_fan_out=True,
            use_dora=dora,
        )
        ours = merged_by_us(adapter, tmp_path / f"merged-{number}")
        require_equal(ours, merged_by_peft(tmp_path / "gpt2", adapter))
    # One config tells of a transposed layer and of the head, which is not.
    adapter = save_adapter(
        tmp_path / "gpt2", tmp_path / "head", target_modules=["c_attn", "lm_head"], fan_in_fan_out=True
    )
    ours, theirs = merged_by_us(adapter, tmp_path / "with-head"), merged_by_peft(tmp_path / "gpt2", adapter)
    # PEFT's own merge writes a tied head into the embedding as well.
    require_equal(ours, {**theirs, "transformer.wte.weight": ours["transformer.wte.weight"]})


def test_a_tied_head_takes_the_adapter_of_its_embedding_where_peft_ties_them(
    tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlora_tools import merge
    from qlora_tools.errors import ModelError

    out_of_its_files(monkeypatch)
    wanted = {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "ensure_weight_tying": True}
    adapter = save_adapter(tiny_model("qwen2"), tmp_path / "adapter", **wanted)
    result = merge(adapter, tmp_path / "merged", base="original", dtype="float32", prompts=["say two"])
    assert result.parity is not None
    assert not result.untied
    decomposed = save_adapter(tiny_model("qwen2"), tmp_path / "dora", use_dora=True, **wanted)
    with pytest.raises(ModelError, match="a DoRA on a head that is tied"):
        merge(decomposed, tmp_path / "other", base="original")


def test_the_language_model_in_one_that_reads_images_is_merged(tiny_model: Models, tmp_path: Path) -> None:
    import shutil

    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    from qlora_tools import merge

    base = tmp_path / "base"
    text = json.loads((tiny_model("gemma3") / "config.json").read_text())
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Gemma3Config(text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    shutil.copytree(tiny_model("gemma3"), base, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    Gemma3ForConditionalGeneration(config).save_pretrained(base)
    (base / "processor_config.json").write_text("{}")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=r".*language_model.*\.q_proj")
    result = merge(adapter, tmp_path / "merged", base="original", dtype="float32", prompts=["say two"])
    assert result.parity is not None
    assert (tmp_path / "merged" / "processor_config.json").is_file()
    ours = merged_by_us(adapter, tmp_path / "again")
    theirs = {
        name.replace("model.language_model.", ""): tensor for name, tensor in merged_by_peft(base, adapter).items()
    }
    name = "layers.1.self_attn.q_proj.weight"
    assert bool((ours[f"language_model.model.{name}"] == theirs[name]).all())


def test_no_slice_is_a_single_row_that_is_left_over() -> None:
    from qlora_tools.merging.arithmetic import SLICE_ELEMENTS, row_slices
    from qlora_tools.merging.plan import OutputTensor
    from qlora_tools.models.stored_tensors import StoredTensor

    step = SLICE_ELEMENTS // 1024
    stored = StoredTensor("w", Path("none"), "F32", (2 * step + 1, 1024), 0, 0)
    assert list(row_slices(OutputTensor("w", "F32", stored))) == [(0, step), (step, 2 * step + 1)]
