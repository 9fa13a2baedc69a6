"""The memory ledger follows the tensors, and its public answers are true to it."""

from typing import Any

import pytest

from qlora_tools.config import LoraConfig, RunConfig, parse_config
from qlora_tools.memory import MemoryEstimate, estimate_training
from qlora_tools.memory.weights import adapter_tensors
from qlora_tools.models import ModelShape

GIB = 2**30
LLAMA_8B = ModelShape("llama", 32, 4096, 14336, 32, 8, 128, 128256, tied_embeddings=False)


def adapter_parameters(shape: ModelShape, lora: LoraConfig) -> int:
    return sum(sum(block) for block in adapter_tensors(shape, lora))


def config_of(**parts: dict[str, Any]) -> RunConfig:
    named = {"model": {"name": "o/m"}, "data": {"path": "rows.jsonl"}, "output": {"directory": "out"}}
    return parse_config({**named, **parts})


def estimate_of(**parts: dict[str, Any]) -> MemoryEstimate:
    return estimate_training(config_of(**parts), LLAMA_8B, compute_dtype="bfloat16")


def test_the_parts_of_an_estimate_sum_to_its_middle_and_lie_in_its_band() -> None:
    estimate = estimate_of()
    assert sum(estimate.parts.values()) == estimate.mid_bytes
    assert estimate.low_bytes < estimate.mid_bytes < estimate.high_bytes
    assert all(isinstance(part, int) and part >= 0 for part in estimate.parts.values())
    assert estimate.mid_bytes < estimate.reserved_bytes < estimate.device_bytes < estimate.needed_bytes
    assert estimate.fits(estimate.needed_bytes)
    assert not estimate.fits(estimate.needed_bytes - 1)


@pytest.mark.parametrize(
    ("part", "name", "values"),
    [
        ("lora", "rank", [1, 8, 64, 256]),
        ("training", "max_length_tokens", [64, 512, 2048, 8192]),
        ("training", "micro_batch_size", [1, 2, 8]),
        ("lora", "use_dora", [False, True]),
        ("lora", "target_modules", ["attention", "all-linear"]),
        ("training", "gradient_checkpointing", [True, False]),
        ("training", "optimizer", ["sgd", "lion_8bit", "adamw_8bit", "adamw_torch"]),
        ("quantization", "double_quantization", [True, False]),
        ("quantization", "kind", ["nf4", "int8", "none"]),
    ],
)
def test_memory_rises_with_each_setting_that_asks_for_more(part: str, name: str, values: list[Any]) -> None:
    mids = [estimate_of(**{part: {name: value}}).mid_bytes for value in values]
    assert mids == sorted(set(mids))


@pytest.mark.parametrize("field", [("lora", "alpha", 64.0), ("training", "epochs", 9.0)])
def test_settings_that_are_said_to_have_no_effect_on_memory_have_none(field: tuple[str, str, Any]) -> None:
    part, name, value = field
    assert estimate_of(**{part: {name: value}}) == estimate_of()


def test_float32_activations_take_twice_those_of_bfloat16() -> None:
    wide = estimate_training(config_of(), LLAMA_8B, compute_dtype="float32").parts
    assert wide["saved activations"] == 2 * estimate_of().parts["saved activations"]


def test_modules_trained_in_full_take_memory() -> None:
    head = LLAMA_8B.vocabulary * LLAMA_8B.hidden_size
    grown = estimate_of(lora={"modules_to_save": ["lm_head"]}).mid_bytes - estimate_of().mid_bytes
    assert grown >= 2 * head


def test_llama_8b_in_nf4_takes_5_31_gib_with_its_embeddings_and_head() -> None:
    parts = estimate_of().parts
    assert sum(
        parts[name] for name in ("base weights", "quantisation constants", "embeddings and head")
    ) / GIB == pytest.approx(5.31, rel=0.02)


@pytest.mark.parametrize(("bits_kind", "expected"), [("nf4", 3.25), ("int8", 6.5), ("none", 13.0)])
def test_linear_weights_take_the_bits_of_their_kind(bits_kind: str, expected: float) -> None:
    weights = estimate_of(quantization={"kind": bits_kind}).parts["base weights"] / GIB
    assert weights == pytest.approx(expected, rel=0.01)


def test_the_adapter_of_llama_8b_at_rank_16_has_41_943_040_parameters() -> None:
    assert adapter_parameters(LLAMA_8B, LoraConfig()) == 41_943_040
    assert adapter_parameters(LLAMA_8B, LoraConfig(rank=32)) == 2 * 41_943_040
    assert adapter_parameters(LLAMA_8B, LoraConfig(target_modules="attention")) == 13_631_488
    assert adapter_parameters(LLAMA_8B, LoraConfig(target_modules=("q_proj",))) == 32 * 16 * 8192


def test_a_target_named_by_its_path_counts_as_the_same_layer() -> None:
    by_path = adapter_parameters(LLAMA_8B, LoraConfig(target_modules=("self_attn.q_proj",)))
    assert by_path == adapter_parameters(LLAMA_8B, LoraConfig(target_modules=("q_proj",)))


def test_rows_joined_without_flash_attention_take_a_mask_of_all_their_tokens_squared() -> None:
    def mid(**training: Any) -> int:
        return estimate_of(training={"micro_batch_size": 4, "max_length_tokens": 2048, **training}).mid_bytes

    assert mid(packing="bins") - mid(packing="off") > (4 * 2048) ** 2
    assert mid(packing="bins") == mid(packing="padding_free")


def test_flash_attention_joins_rows_without_a_mask() -> None:
    settings = {"micro_batch_size": 4, "max_length_tokens": 2048}
    model = {"name": "o/m", "attention_implementation": "flash_attention_2"}
    joined = estimate_of(training=settings, model=model)
    assert joined.mid_bytes == pytest.approx(estimate_of(training=settings).mid_bytes, rel=1e-3)
    assert joined.high_bytes == pytest.approx(1.02 * joined.mid_bytes, rel=1e-3)
