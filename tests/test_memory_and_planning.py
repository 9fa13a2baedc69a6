"""The memory ledger follows the tensors, and the plan keeps what decides quality while it makes a run fit."""

from typing import Any

import pytest

from qlora_tools.config import LoraConfig, RunConfig, parse_config
from qlora_tools.errors import UsageError
from qlora_tools.memory import MemoryEstimate, estimate_memory
from qlora_tools.memory.estimate import adapter_parameters
from qlora_tools.models import Hardware, ModelShape
from qlora_tools.planning import Plan, create_config

GIB = 2**30
LLAMA_8B = ModelShape("llama", 32, 4096, 14336, 32, 8, 128, 128256, tied_embeddings=False)


def config_of(**parts: dict[str, Any]) -> RunConfig:
    named = {"model": {"name": "o/m"}, "data": {"path": "rows.jsonl"}, "output": {"directory": "out"}}
    return parse_config({**named, **parts})


def estimate_of(**parts: dict[str, Any]) -> MemoryEstimate:
    return estimate_memory(config_of(**parts), LLAMA_8B, compute_dtype="bfloat16")


def gpu(free_bytes: float, *, bfloat16: bool = True) -> Hardware:
    return Hardware("cuda", "Test GPU", 80 * GIB, round(free_bytes), bfloat16, (8, 0))


def plan_for(hardware: Hardware, *, rows_per_step: int = 16, lengths: tuple[int, ...] = (120, 700)) -> Plan:
    return create_config(
        model="o/m",
        data="rows.jsonl",
        output="out",
        shape=LLAMA_8B,
        row_lengths=lengths,
        hardware=hardware,
        rows_per_step=rows_per_step,
    )


def test_the_parts_of_an_estimate_sum_to_its_middle_and_lie_in_its_band() -> None:
    estimate = estimate_of()
    assert sum(estimate.parts.values()) == estimate.mid_bytes
    assert estimate.low_bytes < estimate.mid_bytes < estimate.high_bytes
    assert all(isinstance(part, int) and part >= 0 for part in estimate.parts.values())
    assert estimate.fits(estimate.high_bytes)
    assert not estimate.fits(estimate.high_bytes - 1)


@pytest.mark.parametrize(
    ("part", "name", "values"),
    [
        ("lora", "rank", [1, 8, 64, 256]),
        ("training", "max_length_tokens", [64, 512, 2048, 8192]),
        ("training", "micro_batch_size", [1, 2, 8]),
        ("lora", "use_dora", [False, True]),
        ("lora", "target_modules", ["attention", "all-linear"]),
        ("training", "gradient_checkpointing", [True, False]),
        ("training", "optimizer", ["sgd", "lion_8bit", "paged_adamw_8bit", "adamw_torch"]),
        ("quantization", "double_quantization", [True, False]),
        ("quantization", "kind", ["nf4", "int8", "none"]),
    ],
)
def test_memory_rises_with_each_setting_that_asks_for_more(part: str, name: str, values: list[Any]) -> None:
    mids = [estimate_of(**{part: {name: value}}).mid_bytes for value in values]
    assert mids == sorted(set(mids))


@pytest.mark.parametrize(
    "field", [("lora", "alpha", 64.0), ("training", "gradient_accumulation_steps", 64), ("training", "epochs", 9.0)]
)
def test_settings_that_are_said_to_have_no_effect_on_memory_have_none(field: tuple[str, str, Any]) -> None:
    part, name, value = field
    assert estimate_of(**{part: {name: value}}) == estimate_of()


def test_float32_activations_take_twice_those_of_bfloat16() -> None:
    wide = estimate_memory(config_of(), LLAMA_8B, compute_dtype="float32").parts
    assert wide["saved activations"] == 2 * estimate_of().parts["saved activations"]


def test_modules_trained_in_full_take_memory() -> None:
    head = LLAMA_8B.vocabulary * LLAMA_8B.hidden_size
    grown = estimate_of(lora={"modules_to_save": ["lm_head"]}).mid_bytes - estimate_of().mid_bytes
    assert grown >= 2 * head


def test_llama_8b_in_nf4_takes_5_31_gib_with_its_embeddings_and_head() -> None:
    parts = estimate_of().parts
    assert (parts["base weights"] + parts["embeddings and head"]) / GIB == pytest.approx(5.31, rel=0.02)


@pytest.mark.parametrize(("bits_kind", "expected"), [("nf4", 3.35), ("int8", 6.5), ("none", 13.0)])
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


@pytest.mark.parametrize("rows_per_step", [1, 12, 16, 20, 33])
@pytest.mark.parametrize("free_gib", [1, 8, 12, 24, 80])
def test_the_plan_keeps_the_rows_per_step_whatever_the_memory(rows_per_step: int, free_gib: int) -> None:
    training = plan_for(gpu(free_gib * GIB), rows_per_step=rows_per_step).config.training
    assert training.micro_batch_size * training.gradient_accumulation_steps == rows_per_step


def test_as_memory_shrinks_the_micro_batch_shrinks_then_checkpointing_comes_on_then_nothing_fits() -> None:
    plans = [plan_for(gpu(free * GIB / 4)) for free in range(4 * 120, 0, -1)]
    seen = [(p.config.training.gradient_checkpointing, p.config.training.micro_batch_size, p.fits) for p in plans]
    distinct = list(dict.fromkeys(seen))
    off, on = [(False, size, True) for size in (16, 8, 4, 2, 1)], [(True, size, True) for size in (16, 8, 4, 2, 1)]
    assert distinct[0] == off[0]
    assert distinct[-2:] == [on[-1], (True, 1, False)]
    order = [*off, *on, (True, 1, False)]
    assert [order.index(item) for item in distinct] == sorted(order.index(item) for item in distinct)


@pytest.mark.parametrize("free_gib", [1, 8, 16, 40, 120])
def test_a_plan_says_whether_its_own_estimate_fits(free_gib: int) -> None:
    plan = plan_for(gpu(free_gib * GIB))
    assert plan.estimate == estimate_memory(plan.config, LLAMA_8B, compute_dtype="bfloat16")
    assert plan.fits == plan.estimate.fits(free_gib * GIB)


@pytest.mark.parametrize(
    ("lengths", "expected"), [((1,), 32), ((32,), 32), ((33, 5), 64), ((700,), 704), ((2048,), 2048), ((9000,), 2048)]
)
def test_the_length_is_that_of_the_longest_row_rounded_up_and_at_most_2048(
    lengths: tuple[int, ...], expected: int
) -> None:
    assert plan_for(gpu(80 * GIB), lengths=lengths).config.training.max_length_tokens == expected


def test_every_planned_value_stands_in_the_config_and_has_a_reason() -> None:
    plan = plan_for(gpu(24 * GIB))
    planned = {value.field: value for value in plan.values}
    assert set(planned) == {
        "training.max_length_tokens",
        "training.micro_batch_size",
        "training.gradient_accumulation_steps",
        "training.gradient_checkpointing",
        "quantization.compute_dtype",
    }
    for field, value in planned.items():
        assert len(value.reason) > 20
        if field.startswith("training."):
            assert getattr(plan.config.training, field.removeprefix("training.")) == value.value
    assert "24.0 GiB free" in planned["training.micro_batch_size"].reason


@pytest.mark.parametrize(
    ("hardware", "dtype"),
    [
        (gpu(24 * GIB), "bfloat16"),
        (gpu(24 * GIB, bfloat16=False), "float16"),
        (Hardware("cpu", "Test CPU", 64 * GIB, 64 * GIB, computes_bfloat16=False), "float32"),
    ],
)
def test_the_plan_says_which_dtype_auto_means_here(hardware: Hardware, dtype: str) -> None:
    planned = plan_for(hardware).values[-1]
    assert planned.value == f"auto ({dtype})"
    assert hardware.name in planned.reason
    assert dtype in planned.reason


def test_a_plan_without_rows_is_refused_in_words() -> None:
    with pytest.raises(UsageError):
        plan_for(gpu(24 * GIB), lengths=())
