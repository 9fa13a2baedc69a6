"""A plan fits or says what would, gives up as little as it can in the stated order, and has a reason for every value."""

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_tools.cli.main import run
from qlora_tools.cli.plan import command
from qlora_tools.config import RunConfig, load_config, parse_config
from qlora_tools.config.files import parse_config_text
from qlora_tools.config.overrides import config_with
from qlora_tools.config.schema import DataConfig
from qlora_tools.data.lengths import read_lengths
from qlora_tools.errors import DataError, ModelError, QloraError, UsageError
from qlora_tools.memory.estimate import estimate_training
from qlora_tools.memory.report import hardware_for
from qlora_tools.models.catalogue import CATALOGUE
from qlora_tools.models.hardware import Hardware
from qlora_tools.models.known import find_model
from qlora_tools.models.reference import ModelReference
from qlora_tools.models.shape import ModelShape
from qlora_tools.planning import (
    Plan,
    PlanRequest,
    RowLengths,
    commented_yaml,
    compare_strategies,
    create_config,
    largest_models,
    longest_row,
    plan_run,
)
from qlora_tools.planning.families import larger_model
from qlora_tools.planning.speed import SCALED, Card, Work, micro_batch_seconds

from .conftest import write_rows

GIB = 2**30
ROOT = Path(__file__).parent.parent
L1, L8, L70, L405 = (f"llama-3.{name}-instruct" for name in ("2-1b", "1-8b", "1-70b", "1-405b"))
LADDER = (
    "micro_batch",
    "checkpointing",
    "optimizer",
    "quantization",
    "length",
    "adapter",
    "offload",
    "smaller_model",
    "larger_gpu",
)
# 100 rows: 90 of at most 512 tokens, 5 of 1,000, 4 of 1,500 and one of 8,000.
TAILED = RowLengths.of([512] * 90 + [1000] * 5 + [1500] * 4 + [8000])
EVEN = RowLengths.of([900] * 5000)
Output = pytest.CaptureFixture[str]


def shape_of(model: str) -> ModelShape:
    return find_model(model).shape


def machine(target: str | float) -> Hardware:
    """A GPU by its name, or one of so many GiB."""
    found = hardware_for(target, None) if isinstance(target, str) else hardware_for(None, target)
    assert found is not None
    return found


def plan_of(
    model: str,
    target: str | float,
    *,
    lengths: RowLengths = EVEN,
    goal: Any = "instructions",
    rows: int = 16,
    **asked: Any,
) -> Plan:
    request = PlanRequest(
        model, "rows.jsonl", "out", goal, {name.replace("__", "."): asked[name] for name in asked}, rows
    )
    return plan_run(request, shape_of(model), lengths, machine(target))


def needed(plan: Plan, config: RunConfig, *, pages: bool | None = None) -> int:
    """What the estimator itself says that `config` needs on the plan's machine; `pages` as in the plan if not told."""
    estimate = estimate_training(
        config, shape_of(config.model.name), compute_dtype=config.quantization.compute_dtype, hardware=plan.hardware
    )
    freed = any(rung.key == "optimizer" for rung in plan.applied) if pages is None else pages
    return estimate.needed_bytes - (estimate.paged_bytes if freed else 0)


def with_settings(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    raw = config.model_dump(mode="json", exclude_unset=True)
    for field, value in changes.items():
        part, name = field.split(".")
        raw.setdefault(part, {})[name] = value
    return parse_config(raw)


# The plan and its values


@pytest.mark.parametrize("rows", [1, 20, 33])
@pytest.mark.parametrize("target", [6.0, 24.0])
def test_the_effective_batch_stays_whatever_the_memory(rows: int, target: float) -> None:
    training = plan_of(L8, target, rows=rows).config.training
    assert training.micro_batch_size * training.gradient_accumulation_steps == rows


@pytest.mark.parametrize(("model", "target"), [(L1, 4.0), (L8, 8.0), (L8, "t4"), ("qwen3-14b", 8.0), (L8, "4090")])
def test_what_is_said_to_fit_fits_by_the_estimator_and_what_is_not_does_not(model: str, target: str | float) -> None:
    plan = plan_of(model, target)
    assert plan.needed_bytes == needed(plan, plan.config)
    assert plan.fits == (plan.needed_bytes <= plan.hardware.free_memory_bytes)


def test_an_8b_model_on_a_24_gb_card_gets_a_sensible_plan() -> None:
    plan = plan_of(L8, "4090")
    config = plan.config
    assert plan.fits and plan.lossless
    assert config.quantization.kind == "nf4" and config.quantization.double_quantization
    assert config.quantization.compute_dtype == "bfloat16"
    assert (config.lora.rank, config.lora.alpha, config.lora.target_modules) == (32, 64.0, "all-linear")
    assert config.training.learning_rate == 2e-4
    assert config.training.max_length_tokens == 960
    assert plan.schedule.steps == 938
    assert plan.schedule.seconds and 0.5 < plan.schedule.seconds / 3600 < 6
    assert plan.schedule.basis == SCALED


def test_with_plenty_of_memory_nothing_is_given_up_and_there_is_no_ladder() -> None:
    plan = plan_of(L1, "h200")
    assert plan.fits and plan.ladder == () and plan.smaller_model is None and plan.larger_gpu is None
    assert plan.config.training.micro_batch_size == 16
    assert plan.config.training.gradient_checkpointing is False


@pytest.mark.parametrize(("target", "dtype"), [("t4", "float16"), ("v100-32gb", "float16"), ("4090", "bfloat16")])
def test_the_compute_dtype_is_the_one_that_the_gpu_has(target: str, dtype: str) -> None:
    assert plan_of(L1, target).config.quantization.compute_dtype == dtype


def test_a_cpu_without_bf16_computes_in_float32_and_its_time_is_rough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    cpu = Hardware("cpu", "Test CPU", 64 * GIB, 64 * GIB, computes_bfloat16=False)
    plan = plan_run(PlanRequest("smollm2-135m-instruct", "d", "o"), shape_of("smollm2-135m-instruct"), TAILED, cpu)
    assert plan.config.quantization.compute_dtype == "float32"
    measured = json.loads((ROOT / "benchmarks" / "results" / "demo_cpu.json").read_text(encoding="utf-8"))
    rate = plan.schedule.tokens_per_second
    assert rate is not None and 1 / 3 < rate / measured["training"]["tokens_per_second"] < 3
    assert "rough" in plan.schedule.basis


@pytest.mark.parametrize(("goal", "rank"), [("style", 16), ("instructions", 32), ("hard", 128)])
def test_the_goal_decides_the_rank_and_alpha_is_twice_the_rank(goal: str, rank: int) -> None:
    lora = plan_of(L1, "h100", goal=goal).config.lora
    assert (lora.rank, lora.alpha) == (rank, 2.0 * rank)


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        ("smollm2-135m-instruct", 3e-4),
        (L8, 2e-4),
        ("llama-2-13b-chat", 2e-4),
        ("qwen2.5-32b-instruct", 1e-4),
        (L70, 1e-4),
    ],
)
def test_the_learning_rate_falls_with_the_size_of_the_model_as_in_the_qlora_paper(model: str, rate: float) -> None:
    assert plan_of(model, "h200").config.training.learning_rate == rate


@pytest.mark.parametrize(("target", "goal"), [("t4", "style"), ("4090", "hard"), (6.0, "instructions")])
def test_every_value_that_a_plan_sets_has_a_reason_a_source_and_an_effect(target: str | float, goal: str) -> None:
    plan = plan_of(L8, target, lengths=TAILED, goal=goal, training__weight_decay=0.01)
    raw = plan.config.model_dump(mode="json", exclude_unset=True)
    written = {f"{part}.{name}": value for part, fields in raw.items() for name, value in fields.items()}
    planned = {value.field: value for value in plan.values}
    assert len(planned) == len(plan.values)
    assert written == {field: value.value for field, value in planned.items()}
    assert all(value.reason and value.source and len(value.effect) > 10 for value in planned.values())
    assert planned["training.weight_decay"].reason == "asked for"


def test_settings_that_were_asked_for_stay_and_the_plan_works_around_them() -> None:
    asked = {
        "lora__rank": 64,
        "training__max_length_tokens": 4096,
        "training__micro_batch_size": 2,
        "data__loss_on": "all",
    }
    plan = plan_of(L8, "4090", **asked)
    assert plan.fits
    assert (plan.config.lora.rank, plan.config.lora.alpha) == (64, 128.0)
    assert plan.config.training.max_length_tokens == 4096
    assert plan.config.training.micro_batch_size * plan.config.training.gradient_accumulation_steps == 16
    assert plan.config.training.micro_batch_size == 2
    marked = {value.field for value in plan.values if value.source == "asked for"}
    assert {name.replace("__", ".") for name in asked} <= marked
    assert {rung.key: rung.status for rung in plan.ladder}["micro_batch"] == "asked for"


@pytest.mark.parametrize(
    ("asked", "size", "accumulation"),
    [
        ({"micro_batch_size": 3}, 3, 5),
        ({"gradient_accumulation_steps": 4}, 4, 4),
        ({"micro_batch_size": 2, "gradient_accumulation_steps": 3}, 2, 3),
    ],
)
def test_batches_follow_what_was_asked_for(asked: dict[str, int], size: int, accumulation: int) -> None:
    training = plan_of(L1, "h100", **{f"training__{name}": value for name, value in asked.items()}).config.training
    assert (training.micro_batch_size, training.gradient_accumulation_steps) == (size, accumulation)


def test_rslora_gets_an_alpha_that_keeps_the_usual_scale() -> None:
    assert plan_of(L1, "h100", lora__use_rslora=True, lora__rank=64).config.lora.alpha == 16.0


def test_a_16_bit_base_gets_no_double_quantisation() -> None:
    plan = plan_of(L1, "h100", quantization__kind="none")
    assert "quantization.double_quantization" not in {value.field for value in plan.values}


@pytest.mark.parametrize(
    ("tokens", "length"),
    [
        ([10], 64),
        ([64], 64),
        ([65], 128),
        ([500] * 99 + [8000], 512),
        ([500] * 99 + [600], 640),
        ([50] * 99 + [150], 192),
        ([9000] * 10, 2048),
    ],
)
def test_the_length_covers_the_99th_percentile_and_never_exceeds_the_models_own(tokens: list[int], length: int) -> None:
    plan = plan_of("tinyllama-1.1b-chat", "h100", lengths=RowLengths.of(tokens))
    assert plan.config.training.max_length_tokens == length


def test_rows_that_would_be_cut_are_counted() -> None:
    plan = plan_of(L1, "h100", lengths=TAILED)
    reason = {value.field: value.reason for value in plan.values}["training.max_length_tokens"]
    assert "99.0% of 100 rows" in reason and "1 would be cut" in reason
    assert any("long_rows=drop" in note for note in plan.notes)


def test_steps_and_tokens_are_those_of_the_dataset() -> None:
    times = plan_of(L1, "h100", lengths=RowLengths.of([100] * 1000), training__epochs=2.0).schedule
    assert (times.steps, times.rows_per_step, times.tokens) == (125, 16, 200_000)
    assert times.seconds and times.tokens_per_second
    assert times.tokens / times.seconds == pytest.approx(times.tokens_per_second)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (PlanRequest("o/m", "d", "o", goal="fun"), "not a goal"),  # type: ignore[arg-type]
        (PlanRequest("o/m", "d", "o", rows_per_step=0), "rows a step"),
        (PlanRequest("o/m", "d", "o", settings={"model.name": "x"}), "may not name the model again"),
        (PlanRequest("o/m", "d", "o", settings={"lora.rnk": 3}), "did you mean lora.rank"),
        (PlanRequest("o/m", "d", "o", settings={"lora.rank": -3}), "lora.rank"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_words(request_: PlanRequest, said: str) -> None:
    with pytest.raises(QloraError) as caught:
        plan_run(request_, shape_of(L1), TAILED, machine("4090"))
    assert said in caught.value.message
    assert caught.value.next_step


def test_no_rows_are_refused_in_words() -> None:
    with pytest.raises(UsageError):
        RowLengths.of([])


def test_the_demos_own_values_take_the_place_of_the_planned_ones() -> None:
    from qlora_tools.demo.run import _with_demo_values

    planned = plan_of("smollm2-135m-instruct", "t4", rows=8)
    plan = _with_demo_values(planned, planned.hardware, steps=5)
    values = {value.field: value.value for value in plan.values}
    assert len(values) == len(plan.values)
    assert (plan.config.training.max_steps, plan.config.training.learning_rate) == (5, 1e-3)
    assert values["training.learning_rate"] == 1e-3
    assert plan.config.training.micro_batch_size * plan.config.training.gradient_accumulation_steps == 8


# The ladder


@pytest.mark.parametrize("target", [4.0, 7.0, 9.0, 24.0])
def test_rungs_stand_in_the_order_of_what_they_cost_the_result(target: float) -> None:
    keys = [rung.key for rung in plan_of(L8, target, lengths=TAILED).ladder]
    assert keys == sorted(set(keys), key=LADDER.index)


@pytest.mark.parametrize(("target", "goal"), [(7.0, "style"), (8.0, "hard"), (9.0, "instructions"), (24.0, "style")])
def test_no_applied_rung_could_be_left_out(target: float, goal: str) -> None:
    plan = plan_of(L8, target, lengths=TAILED, goal=goal)
    start = {value.field: value.value for value in plan_of(L8, 4096.0, lengths=TAILED, goal=goal).values}
    for rung in plan.applied if plan.fits else ():
        without = with_settings(plan.config, {name: start[name] for name in rung.settings})
        pages = False if rung.key == "optimizer" else None
        assert needed(plan, without, pages=pages) > plan.hardware.free_memory_bytes, rung.key


def test_as_memory_shrinks_what_is_given_up_costs_the_result_more_and_more() -> None:
    dearest = []
    for target in (120.0, 24.0, 11.0, 8.0, 7.0, 6.0):
        plan = plan_of(L8, target, lengths=TAILED)
        dearest.append(max((LADDER.index(rung.key) for rung in plan.applied), default=-1) if plan.fits else len(LADDER))
    assert dearest == sorted(dearest)
    assert dearest[0] <= 0 and dearest[-1] >= LADDER.index("length")


@pytest.mark.parametrize("target", [4.0, 7.0, 9.0, 24.0])
def test_what_a_rung_saves_is_what_the_estimator_says(target: float) -> None:
    plan = plan_of(L8, target, lengths=TAILED)
    start = {value.field: value.value for value in plan_of(L8, 4096.0, lengths=TAILED).values}
    assert all(rung.saved_bytes > 0 for rung in plan.ladder if rung.key != "larger_gpu")
    for rung in plan.ladder:
        if rung.key in ("offload", "smaller_model", "larger_gpu"):
            continue
        if rung.key == "optimizer":
            assert rung.saved_bytes == plan.estimate.paged_bytes
            continue
        back = {name: start[name] for name in rung.settings}
        other = with_settings(plan.config, back if rung.status == "applied" else rung.settings)
        assert abs(needed(plan, other) - needed(plan, plan.config)) == rung.saved_bytes


def test_paged_state_counts_as_freed_only_where_its_rung_is_climbed() -> None:
    whole = plan_of(L8, 12.0, goal="hard")
    assert "optimizer" not in {rung.key for rung in whole.applied}
    # A little less than the cheapest run without that rung needs.
    config = with_settings(
        whole.config,
        {
            "training.micro_batch_size": 1,
            "training.gradient_accumulation_steps": 16,
            "training.gradient_checkpointing": True,
        },
    )
    least = needed(whole, config)
    tight = replace(machine(12.0), free_memory_bytes=least - 20 * 2**20)
    plan = plan_run(PlanRequest(L8, "rows.jsonl", "out", "hard"), shape_of(L8), EVEN, tight)
    assert plan.fits
    assert [rung.key for rung in plan.applied] == ["micro_batch", "checkpointing", "optimizer"]
    assert plan.needed_bytes == plan.estimate.needed_bytes - plan.estimate.paged_bytes
    assert plan.needed_bytes <= tight.free_memory_bytes < plan.estimate.needed_bytes


def test_checkpointing_stays_off_where_the_run_fits_without_it() -> None:
    plan = plan_of(L8, "4090", lengths=RowLengths.of([2000] * 1000))
    assert [rung.key for rung in plan.applied] == ["micro_batch"]
    assert plan.config.training.gradient_checkpointing is False


def test_short_rows_one_by_one_are_avoided_where_recomputing_is_much_quicker() -> None:
    plan = plan_of("smollm2-135m-instruct", "3070", lengths=RowLengths.of([300] * 98 + [1400] * 2))
    reason = {value.field: value.reason for value in plan.values}["training.gradient_checkpointing"]
    assert plan.config.training.gradient_checkpointing
    assert "rows at once" in reason and "x the time" in reason


def test_shorter_rows_name_the_share_that_is_cut() -> None:
    applied = [rung for target in (6.8, 7.0, 7.2, 7.4) for rung in plan_of(L8, target, lengths=TAILED).applied]
    shortened = [rung for rung in applied if rung.key == "length"]
    assert shortened
    assert all("% of the rows are cut" in rung.quality for rung in shortened)


def test_a_rung_that_was_ruled_out_by_what_was_asked_for_says_what_it_would_save() -> None:
    plan = plan_of(L8, "t4", quantization__kind="none")
    assert not plan.fits
    assert plan.config.quantization.kind == "none"
    rung = next(rung for rung in plan.ladder if rung.key == "quantization")
    assert rung.status == "asked for" and rung.saved_bytes > 9 * GIB


def test_rungs_that_do_not_go_with_what_was_asked_for_are_left_out() -> None:
    plan = plan_of(L8, "t4", quantization__kind="none", lora__initialization="pissa")
    assert "quantization" not in {rung.key for rung in plan.ladder}


def test_another_model_and_another_gpu_are_proposed_and_never_taken() -> None:
    plan = plan_of(L8, 6.0, lengths=EVEN)
    assert plan.config.model.name == L8
    assert plan.smaller_model is not None and plan.larger_gpu is not None
    proposed = [rung.key for rung in plan.ladder if rung.status == "proposed"]
    assert proposed == ["smaller_model", "larger_gpu"]
    assert plan_of(plan.smaller_model.name, 6.0, lengths=EVEN).lossless
    assert plan_of(L8, plan.larger_gpu.name, lengths=EVEN).lossless
    assert plan.smaller_model.name.startswith("llama-3")


def test_a_405b_model_on_4_gib_is_no_error_but_a_plan_that_does_not_fit_with_a_model_that_does() -> None:
    plan = plan_of(L405, 4.0)
    assert not plan.fits
    assert plan.smaller_model is not None and plan_of(plan.smaller_model.name, 4.0).fits
    assert plan.larger_gpu is None
    assert plan.config.training.micro_batch_size == 1
    offload = next(rung for rung in plan.ladder if rung.key == "offload")
    assert offload.status == "not available" and offload.saved_bytes > 0


def test_checkpointing_costs_time_and_larger_micro_batches_save_it() -> None:
    factors = {rung.key: rung.time_factor for rung in plan_of(L8, "t4").ladder}
    assert factors["checkpointing"] is not None and 1.2 < factors["checkpointing"] < 1.6
    assert factors["micro_batch"] is not None and factors["micro_batch"] >= 1.0


# The written config


@pytest.mark.parametrize("target", ["t4", "4090", 4.0])
def test_the_written_config_loads_back_equal_with_a_comment_above_every_value(
    target: str | float, tmp_path: Path
) -> None:
    plan = plan_of(L8, target, lengths=TAILED, lora__modules_to_save=["lm_head"], data__format="messages")
    text = commented_yaml(plan)
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "run.yaml") == plan.config
    lines = text.splitlines()
    fields = [number for number, line in enumerate(lines) if line.startswith("  ") and line[2].isalpha()]
    assert len(fields) == len(plan.values)
    assert all(lines[number - 1].startswith("  # ") for number in fields)


SMALL = ModelShape("llama", 2, 64, 128, 4, 2, 16, 1000, tied_embeddings=True)
PLAN = plan_run(PlanRequest("#: x\\", "!!python/x: {}", "a: # b"), SMALL, EVEN, machine(80.0))
names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=60).filter(
    lambda name: not name.startswith("-")
)


@settings(max_examples=60, deadline=None)
@given(model=names, data=names)
def test_no_name_breaks_the_file(model: str, data: str) -> None:
    config = with_settings(PLAN.config, {"model.name": f"{model} {data}", "data.path": f"{data} # {model}: "})
    text = commented_yaml(replace(PLAN, config=config))
    assert parse_config(parse_config_text(text, source="written")) == config


def test_no_text_of_a_user_gets_into_a_comment() -> None:
    usual = plan_run(PlanRequest("m", "d", "o"), SMALL, EVEN, machine(80.0))
    ours, theirs = (
        [line for line in commented_yaml(plan).splitlines() if line.lstrip().startswith("#")] for plan in (usual, PLAN)
    )
    assert ours == theirs


# Lengths of a dataset


def chats(path: Path, words: list[int]) -> Path:
    turns = [
        [{"role": "user", "content": "word " * count}, {"role": "assistant", "content": "done"}] for count in words
    ]
    return write_rows(path, [{"messages": row} for row in turns])


def test_without_a_tokenizer_lengths_are_estimated_from_characters_and_it_is_said(tmp_path: Path) -> None:
    rows = chats(tmp_path / "rows.jsonl", [7, 70])
    lengths = read_lengths(DataConfig(path=str(rows)), ModelReference("nobody/has-this", "hub"))
    assert lengths.tokens == (12, 102)
    assert lengths.how == "characters" and "3.5" in lengths.note


def test_with_the_models_tokenizer_rows_are_rendered_and_counted_as_training_does(tmp_path: Path) -> None:
    from .families import FAMILIES, make_tokenizer

    tokenizer = make_tokenizer(FAMILIES["llama"])
    tokenizer.save_pretrained(tmp_path / "model")
    rows = chats(tmp_path / "rows.jsonl", [3, 30])
    lengths = read_lengths(DataConfig(path=str(rows)), ModelReference(str(tmp_path / "model"), "local"))
    turns = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
    rendered = [tokenizer.apply_chat_template(row, tokenize=False) for row in turns]
    assert lengths.how == "tokenizer"
    assert list(lengths.tokens) == [len(ids) for ids in tokenizer(rendered, add_special_tokens=False)["input_ids"]]


def test_of_a_large_file_2000_rows_are_counted_spread_evenly(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "x" * (7 if i < 5000 else 700)} for i in range(10_000)])
    lengths = read_lengths(DataConfig(path=str(rows)), ModelReference("nobody/has-this", "hub"))
    assert (len(lengths.tokens), lengths.rows) == (2000, 10_000)
    assert lengths.tokens.count(2) == lengths.tokens.count(200) == 1000
    assert lengths.rows_over(100) == 5000
    assert "2,000 of 10,000 rows" in lengths.note


def test_a_missing_dataset_and_unknown_rows_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no dataset"):
        create_config(L8, str(tmp_path / "none.jsonl"), gpu="4090")
    strange = write_rows(tmp_path / "rows.jsonl", [{"text": "good"}, {"text": 3}])
    with pytest.raises(DataError, match="No known format fits the columns"):
        create_config(L8, str(strange), gpu="4090")


def test_rows_of_like_length_share_a_micro_batch_so_padding_stays_small() -> None:
    lengths = RowLengths.of([100, 100, 1000, 1000])
    assert lengths.padded(2, 4096) == 550
    assert lengths.padded(4, 4096) == 1000
    assert lengths.padded(4, 512) == 512


# Speed


def card_of(name: str) -> Card:
    found = Card.for_hardware(machine(name))
    assert found is not None
    return found


def test_the_speed_model_is_within_15_percent_at_the_median_of_runs_that_it_was_not_fitted_on() -> None:
    grid = json.loads((ROOT / "benchmarks" / "results" / "memory_grid.json").read_text(encoding="utf-8"))
    held_out = [row for row in grid["rows"] if row["held_out"] and "seconds_per_step" in row]
    errors = []
    for row in held_out:
        config = config_with(row["values"], model=row["model"])
        if config.quantization.kind != "nf4" or config.lora.use_dora:
            continue
        training = config.training
        work = Work(
            training.micro_batch_size,
            training.max_length_tokens,
            training.gradient_checkpointing,
            lora=config.lora,
        )
        first, second = row["seconds_per_step"]
        expected = training.gradient_accumulation_steps * micro_batch_seconds(
            shape_of(row["model"]), card_of("h100-sxm"), work
        )
        errors.append(abs(expected / (second - first) - 1))
    assert len(errors) >= 20
    assert statistics.median(errors) < 0.15
    assert max(errors) < 0.5


def test_time_grows_with_rows_length_checkpointing_and_bits_and_falls_with_a_faster_card() -> None:
    shape = shape_of(L8)

    def seconds(card: str, *work: Any) -> float:
        return micro_batch_seconds(shape, card_of(card), Work(*work))

    assert seconds("4090", 1, 2048, False) < seconds("4090", 2, 2048, False) < seconds("4090", 1, 8192, False)
    assert seconds("4090", 1, 2048, False) < seconds("4090", 1, 2048, True)
    assert seconds("4090", 1, 2048, True, "nf4") < seconds("4090", 1, 2048, True, "int8")
    assert seconds("h100", 4, 2048, True) < seconds("4090", 4, 2048, True) < seconds("t4", 4, 2048, True)


def test_short_rows_wait_for_the_cpu_so_more_of_them_cost_next_to_nothing() -> None:
    one, four = (micro_batch_seconds(shape_of(L1), card_of("h100"), Work(rows, 64, False)) for rows in (1, 4))
    assert four < 1.05 * one


def test_cards_without_a_published_peak_get_a_time_too() -> None:
    assert card_of("p100").tflops > 100
    assert plan_of(L1, "p100").schedule.seconds


# Comparing strategies, and the other way round


def test_three_strategies_are_compared_on_the_same_rows() -> None:
    found = compare_strategies(L8, gpu="t4")
    small, sixteen, larger = found.strategies
    assert [way.bits for way in found.strategies] == [4, 16, 4]
    assert (small.model, small.gpu) == (L8, "T4") and sixteen.model == L8 and larger.model == "llama-3.3-70b-instruct"
    assert all(way.fits and way.needed_bytes <= way.free_bytes for way in found.strategies)
    assert all(
        way.tokens_per_second and way.hours and way.quality and "arXiv" in way.source for way in found.strategies
    )
    assert sixteen.free_bytes > small.free_bytes < larger.free_bytes
    assert "53.1" in small.quality


def test_a_card_and_a_larger_model_may_be_named_for_the_comparison() -> None:
    found = compare_strategies("qwen3-4b", gpu="4090", other_gpu="a100-80gb", larger="qwen3-14b")
    assert [way.gpu for way in found.strategies] == ["RTX 4090", "A100 80GB", "RTX 4090"]
    assert found.strategies[2].model == "qwen3-14b"


def test_the_next_larger_model_is_of_the_same_family_and_newest_generation() -> None:
    for name, expected in (
        (L8, "llama-3.3-70b-instruct"),
        ("qwen3-8b", "qwen3-14b"),
        ("gemma-2-2b-it", "gemma-2-9b-it"),
    ):
        found = larger_model(name, shape_of(name))
        assert found is not None and found.name == expected
    assert larger_model("deepseek-v3", shape_of("deepseek-v3")) is None


def test_the_longest_row_is_the_last_that_fits() -> None:
    hardware = machine("4090")
    config = config_with({"training.micro_batch_size": 1, "lora.rank": 32})
    for model in (L8, "gemma-2-2b-it", "qwen3-14b"):
        row = longest_row(shape_of(model), config, hardware)
        assert row.fitting_tokens % 64 == 0
        assert row.tokens == min(row.fitting_tokens, row.model_tokens or row.fitting_tokens)
        at, beyond = (
            estimate_training(
                with_settings(config, {"training.max_length_tokens": row.fitting_tokens + more}),
                shape_of(model),
                compute_dtype="bfloat16",
                hardware=hardware,
            )
            for more in (0, 64)
        )
        assert at.needed_bytes <= hardware.free_memory_bytes < beyond.needed_bytes
    assert longest_row(shape_of(L70), config, hardware).fitting_tokens == 0


def test_the_largest_models_grow_with_the_memory_and_none_is_named_twice() -> None:
    began = time.monotonic()
    small, large = largest_models(machine(4.0)), largest_models(machine(9.0))
    seconds = (time.monotonic() - began) / 2
    rows = {model.name: model.longest_row for model in large}
    assert {model.name for model in small} < rows.keys()
    assert all(model.longest_row.fitting_tokens < rows[model.name].fitting_tokens for model in small)
    for models in (small, large):
        named = [name for model in models for name in (model.name, *model.also)]
        assert len(set(named)) == len(named) and set(named) <= CATALOGUE.keys()
        assert [model.parameters for model in models] == sorted((m.parameters for m in models), reverse=True)
    # Three seconds are promised; a busy machine gets some more here.
    assert seconds < 10
    assert largest_models(machine(0.5)) == ()


def test_a_higher_rank_leaves_less_room_for_rows() -> None:
    low, high = (longest_row(shape_of(L8), config_with({"lora.rank": rank}), machine(12.0)) for rank in (8, 64))
    assert 0 < high.fitting_tokens < low.fitting_tokens


# The command


@pytest.fixture
def rows(tmp_path: Path) -> str:
    return str(chats(tmp_path / "rows.jsonl", [10 + i % 50 for i in range(200)]))


def plan_command(*arguments: str) -> tuple[int, Any]:
    """Exit code and JSON document of the command itself, through click."""
    result = CliRunner().invoke(command, [*arguments, "--json"], standalone_mode=False, catch_exceptions=False)
    return result.return_value, json.loads(result.stdout)


def test_the_command_writes_a_config_that_loads_and_prints_one_document(rows: str, tmp_path: Path) -> None:
    target = tmp_path / "run.yaml"
    code, document = plan_command("--model", L8, "--data", rows, "--gpu", "4090", "-o", str(target), "rank=8")
    assert code == 0
    config = load_config(target)
    assert config.lora.rank == 8
    assert config == parse_config(document["config"])
    assert target.read_text() == document["config_yaml"]
    assert document["fits"] and document["written_to"] == str(target)
    assert document["memory"]["needed_bytes"] <= document["memory"]["free_bytes"]
    assert {"value", "reason", "source", "effect", "field"} == document["values"][0].keys()
    assert config.output.directory == f"runs/{L8}-rows"


def test_a_run_that_does_not_fit_is_code_3_with_the_best_plan_and_the_ladder(rows: str) -> None:
    code, document = plan_command("--model", L405, "--data", rows, "--memory-limit-gib", "4")
    assert code == 3
    assert not document["fits"] and document["config"] and document["ladder"]
    assert document["smaller_model"]["name"] in document["next_step"]


def test_the_command_compares_and_lists_the_largest_models(rows: str) -> None:
    code, document = plan_command("--compare", "--model", "qwen3-4b", "--data", rows, "--gpu", "t4")
    assert code == 0 and len(document["strategies"]) == 3 and document["rows"] == 200
    code, document = plan_command("--largest", "--memory-limit-gib", "3")
    assert code == 0 and document["models"][0]["longest_row"]["tokens"] >= 512
    code, document = plan_command("--largest", "--memory-limit-gib", "0.5")
    assert code == 3 and document["models"] == []


@pytest.mark.parametrize("width", ["80", "170"])
def test_the_terminal_shows_values_memory_ladder_and_time(
    width: str, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    result = CliRunner().invoke(
        command, ["--model", L8, "--data", rows, "--memory-limit-gib", "6.6"], standalone_mode=False
    )
    for words in ("lora.rank", "Memory:", "Ladder", "applied", "Time:", "Next:", "measured:"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--gpu", "4090"], 2, "needs --model"),
        (["--model", L8, "--gpu", "4090"], 2, "needs --data"),
        (["--model", "nope", "--data", "{rows}", "--gpu", "4090"], 2, "no model 'nope'"),
        (["--model", L8, "--data", "{rows}", "--gpu", "4099"], 2, "No GPU called"),
        (["--model", L8, "--data", "{rows}", "--gpu", "mi300x"], 4, "not supported"),
        (["--model", L8, "--data", "{rows}", "--memory-limit-gib", "0"], 2, "memory-limit-gib"),
        (["--model", L8, "--data", "{rows}", "--gpu", "4090", "rnk=3"], 2, "did you mean lora.rank"),
        (["--model", L8, "--data", "{rows}", "--gpu", "4090", "rank=many"], 2, "lora.rank"),
        (["--model", L8, "--data", "{rows}", "--gpu", "4090", "rank"], 2, "name=value"),
        (["--model", L8, "--data", "{rows}", "--gpu", "4090", "output.directory=x"], 2, "may not name the output"),
        (["--model", L8, "--data", "{rows}x", "--gpu", "4090"], 2, "There is no dataset"),
        (["--model", L8, "--data", "{rows}", "--gpu", "4090", "--goal", "fun"], 2, "--goal"),
        (["--model", L8, "--data", "{rows}", "--gpu", "4090", "-o", "{rows}"], 2, "exists"),
        (["--model", L8, "--data", "{rows}", "--gpu", "4090", "-o", "/nowhere/x.yaml"], 2, "no directory"),
        (["--largest", "--gpu", "4090", "-o", "x.yaml"], 2, "no config to write"),
    ],
)
def test_bad_input_is_one_json_error_with_the_next_step(
    arguments: list[str], code: int, said: str, rows: str, capsys: Output
) -> None:
    assert run(["plan", *(word.replace("{rows}", rows) for word in arguments), "--json"]) == code
    error = json.loads(capsys.readouterr().out)
    assert said in error["message"]
    assert error["next_step"]


def test_without_a_gpu_named_or_found_the_error_says_what_to_give(
    rows: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert run(["plan", "--model", L8, "--data", rows]) == 2
    error = capsys.readouterr().err
    assert "--gpu" in error and "--memory-limit-gib" in error


def test_an_unknown_model_is_a_model_error(rows: str) -> None:
    with pytest.raises(ModelError):
        create_config("nobody-knows-it", rows, gpu="4090")


def test_a_plan_is_made_for_the_gpu_of_this_machine_where_none_is_named(
    rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "NVIDIA GeForce RTX 4090, 24564, 20000"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    plan = create_config(L8, rows)
    assert plan.hardware.name == "RTX 4090"
    assert plan.hardware.free_memory_bytes == 20000 * 2**20


def test_a_rung_that_takes_more_memory_is_not_climbed_and_what_fits_is_said_to_fit(tmp_path: Path) -> None:
    # With a head that is trained in full, accumulation keeps its gradient: smaller micro-batches take more.
    rows = write(tmp_path / "rows.jsonl", ["hi there you"])
    settings = {"lora.modules_to_save": ["lm_head"], "training.max_length_tokens": 64}
    for limit in (2.7, 2.9, 3.0, 3.05, 3.2, 4.0):
        plan = create_config("qwen3-0.6b", rows, memory_limit_gib=limit, settings=settings)
        assert plan.fits == (plan.needed_bytes <= plan.hardware.free_memory_bytes)


def test_the_default_compute_dtype_may_be_asked_for(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", ["hi there you"])
    plan = create_config("qwen3-0.6b", rows, gpu="t4", settings={"quantization.compute_dtype": "auto"})
    assert plan.fits


def test_a_bin_holds_no_more_rows_than_go_into_it(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", ["word " * 4000] * 100)
    plan = create_config("llama-3.1-8b-instruct", rows, gpu="h100", settings={"training.packing": "bins"})
    assert plan.schedule.rows == 100


def test_a_batch_that_settings_change_is_named(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", ["hi there you"])
    plan = create_config("qwen3-0.6b", rows, gpu="4090", settings={"training.micro_batch_size": 5})
    assert any("15 rows a step instead of 16" in note for note in plan.notes)


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)
