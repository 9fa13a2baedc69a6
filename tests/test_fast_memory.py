"""What the fast engine takes is counted from its own code, and as many layers are kept as are sure to fit."""

import time
from dataclasses import replace
from typing import Any

import pytest

from qlora_tools.config.overrides import config_with
from qlora_tools.memory import MemoryEstimate, Workload, estimate_memory, estimate_training, fast_limits
from qlora_tools.memory.fast_batch import FastBatch, GroupSize
from qlora_tools.memory.fast_engine import FastTraining
from qlora_tools.memory.fast_layer import FastLayer
from qlora_tools.memory.kept_layers import most_kept
from qlora_tools.models.hardware import Hardware
from qlora_tools.models.known import find_model

LLAMA = "llama-3.1-8b-instruct"
SHAPE = find_model(LLAMA).shape
FAST = {
    "training.engine": "fast",
    "training.micro_batch_size": 4,
    "training.max_length_tokens": 2048,
    "training.gradient_accumulation_steps": 1,
}
GIB = 2**30


@pytest.fixture(autouse=True)
def _gpus_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted for GPUs is held here before the engine may run on them."""
    monkeypatch.setattr(fast_limits, "MEASURED_ON", ("cpu", "cuda"))


def estimate(model: str = LLAMA, workload: Workload | None = None, **settings: Any) -> MemoryEstimate:
    config = config_with({**FAST, **{name.replace("__", "."): value for name, value in settings.items()}})
    return estimate_training(config, find_model(model).shape, compute_dtype="bfloat16", workload=workload)


def with_kept(kept: int, **settings: Any) -> int:
    """Allocated bytes with so many layers kept."""
    config = config_with({**FAST, **settings})
    fast = FastTraining(config, SHAPE, "bfloat16", on_cpu=False)
    return fast.peak(kept=kept, workload=Workload()).allocated_bytes


def layer(**changes: Any) -> FastLayer:
    return FastLayer(SHAPE, FastBatch(**{"tokens": 8192, "width": 2, "rank": 16, "targets": frozenset(ALL), **changes}))


ALL = SHAPE.linear_shapes(sparse=False)


def test_a_layer_of_the_8b_shape_stores_what_a_sum_by_hand_says() -> None:
    recomputed = 8192 * 2 * (4096 + 16)
    assert layer().stored == recomputed
    attention = 8192 * (4 + 2 * 48 + 2 * 6144 + 4 * 32 + 2 * 4096 + 2 * 16)
    mlp = 8192 * (4 + 2 * 32 + 2 * (2 * 14336 + 32))
    assert layer().kept == recomputed + attention + 8192 * 2 * 4096 + mlp
    # Key and value heads repeated for every query head, where rows are not of one length.
    assert layer(equal=False).kept == layer().kept + 8192 * 2 * 2 * 4096
    assert layer(on_host=True).stored == 8192 * 2 * 16


def test_adapters_of_the_8b_shape_are_copied_and_decoded_weights_lie_beside_them() -> None:
    stacked_a = (48 + 16 + 32) * 4096 + 16 * 14336
    every_b = 16 * (4096 + 1024 + 1024 + 4096 + 2 * 14336 + 4096)
    assert layer().copies == 2 * (stacked_a + every_b)
    assert layer().gradients == 4 * (stacked_a + every_b)
    assert layer().decoded == 2 * 2 * 14336 * (4096 + 32)
    assert layer(in_4bit=False).decoded == layer(plain=True).decoded == 0


def test_ranks_of_a_group_are_padded_together() -> None:
    assert GroupSize(64, (64, 32, 32), (3, 3, 3)).rank == 16
    assert GroupSize(64, (64, 32, 32), (0, 4, 0)).rank == 8
    assert GroupSize(64, (64,), (0,)).rank == 0


@pytest.mark.parametrize("tokens", [512, 8192, 65536])
def test_memory_grows_with_every_layer_that_is_kept(tokens: int) -> None:
    peaks = [with_kept(kept, **{"training.max_length_tokens": tokens // 4}) for kept in range(SHAPE.layers + 1)]
    assert peaks[1:] == sorted(set(peaks[1:]))
    # The first one that is kept is not computed again beside the gradient that comes in: it may cost next to nothing.
    assert peaks[1] > 0.98 * peaks[0]


def test_the_last_layers_are_kept_since_nothing_of_them_is_left_when_the_first_one_is_computed_again() -> None:
    one = layer()
    # Were the first ones kept, all of them would live beside what the last layer computes again.
    saved = one.backward_again.total - one.backward.total
    assert saved > 0.75 * (one.kept - one.stored)


def test_all_and_none_are_what_checkpointing_off_and_on_mean() -> None:
    on, off = estimate(), estimate(training__gradient_checkpointing=False)
    assert (on.engine, off.engine) == ("fast", "fast")
    assert on.kept is not None
    assert off.kept is not None
    assert (on.kept.count, off.kept.count, off.kept.layers) == (0, 32, 32)
    assert on.kept_words() is off.kept_words() is None
    workspaces = on.parts["cuBLAS workspaces"]
    assert (on.mid_bytes, off.mid_bytes) == (with_kept(0) + workspaces, with_kept(32) + workspaces)


@pytest.mark.parametrize("limit", [13, 16, 24, 30, 80])
@pytest.mark.parametrize("workload", [None, Workload(), Workload(0.3, padded=True)])
def test_the_number_that_is_kept_is_the_largest_that_fits(limit: float, workload: Workload | None) -> None:
    found = estimate(workload=workload, training__memory_limit_gib=limit)
    assert found.kept is not None
    kept, all_kept = found.kept.count, limit >= 80
    assert kept == 0 or found.fits(round(limit * GIB))
    assert (kept == 32) is all_kept
    # One more would be over the limit: a layer, its share of doubt and fragments, and nothing else.
    one = layer(equal=workload is not None and not workload.padded)
    assert all_kept or found.needed_bytes + 1.1 * (one.kept - one.stored) > limit * GIB


def test_a_limit_that_nothing_meets_keeps_nothing_and_says_that_it_does_not_fit() -> None:
    found = estimate(training__memory_limit_gib=6)
    assert found.kept is not None
    assert (found.kept.count, found.kept.on_host, found.fits(6 * GIB)) == (0, True, False)


def test_inputs_wait_on_the_host_only_where_nothing_else_fits() -> None:
    found = {limit: estimate(workload=Workload(), training__memory_limit_gib=limit) for limit in (9, 9.6, 10, 11)}
    plans = [one.kept for one in found.values() if one.kept is not None]
    assert [plan.on_host for plan in plans] == [True, True, True, False]
    assert [plan.count for plan in plans[:3]] == sorted(plan.count for plan in plans[:3])
    assert all(one.fits(round(limit * GIB)) for limit, one in found.items())
    words = found[9].kept_words()
    assert words is not None
    assert " of 32 layers kept, inputs of the others on the host, " in words
    # Two GiB of inputs go; two of them are there at a time while they come back.
    step = 32 * 8192 * 2 * 4096
    assert estimate(workload=Workload()).mid_bytes - found[9].mid_bytes == pytest.approx(step, rel=0.2)


def test_a_cpu_has_no_host_to_wait_on() -> None:
    cpu = Hardware("cpu", "the CPU", 0, 0, computes_bfloat16=True)
    config = config_with({**FAST, "training.memory_limit_gib": 6})
    found = estimate_training(config, SHAPE, compute_dtype="bfloat16", hardware=cpu, workload=Workload())
    assert found.kept is not None
    assert not found.kept.on_host


def test_the_choice_is_right_where_the_first_layer_needs_less_than_none() -> None:
    needed = {0: 12, 1: 10, 2: 20, 3: 40}
    assert [most_kept(needed.__getitem__, 3, limit) for limit in (100, 40, 39, 11, 9)] == [3, 3, 2, 1, 0]


def test_what_is_free_on_the_card_counts_where_it_is_less_than_the_limit() -> None:
    config = config_with({**FAST, "training.memory_limit_gib": 24})
    card = Hardware("cuda", "a GPU", 80 * GIB, 15 * GIB, computes_bfloat16=True, compute_capability=(9, 0))

    def kept(hardware: Hardware) -> int:
        found = estimate_training(config, SHAPE, compute_dtype="bfloat16", hardware=hardware, workload=Workload())
        assert found.kept is not None
        return found.kept.count

    assert 0 < kept(card) < kept(replace(card, free_memory_bytes=70 * GIB))
    # A machine of which nothing is known has no say.
    assert kept(replace(card, free_memory_bytes=0)) == kept(replace(card, free_memory_bytes=70 * GIB))


def test_a_choice_of_80_layers_takes_less_than_20_milliseconds() -> None:
    shape = find_model("llama-2-70b-chat").shape
    config = config_with({**FAST, "training.memory_limit_gib": 53})
    times = []
    for _ in range(5):
        began = time.process_time()
        estimate_training(config, shape, compute_dtype="bfloat16")
        times.append(time.process_time() - began)
    assert min(times) < 0.020


def test_a_card_that_is_shared_and_the_words_for_it() -> None:
    words = estimate(workload=Workload(), training__memory_limit_gib=24).kept_words()
    assert words is not None
    assert words.startswith("2")
    assert words.endswith(" of 24.0 GiB")
    assert " of 32 layers kept, 2" in words


def test_the_fast_engine_takes_less_than_the_stock_one_in_every_setting() -> None:
    for settings in ({}, {"training__gradient_checkpointing": False}, {"training__packing": "bins"}):
        fast, stock = estimate(**settings), estimate(**settings, training__engine="stock")
        assert stock.kept is None
        assert fast.mid_bytes < stock.mid_bytes


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"lora.use_dora": True}, "it has no DoRA"),
        ({"lora.modules_to_save": ["lm_head"]}, "it trains no whole modules (lora.modules_to_save)"),
        ({"quantization.kind": "int8"}, "it knows bases in nf4, fp4 and none, and this one is int8"),
    ],
)
def test_where_the_fast_engine_falls_back_the_stock_one_is_counted_and_the_report_says_why(
    settings: dict[str, Any], reason: str
) -> None:
    fast, stock = (estimate_memory(LLAMA, settings={"training.engine": one, **settings}) for one in ("fast", "stock"))
    assert fast.parts == stock.parts
    said = f"training.engine is fast, and a run would use the stock engine, which is what is counted: {reason}."
    assert said in fast.notes
    assert said not in stock.notes


def test_a_report_says_how_many_layers_are_kept() -> None:
    notes = estimate_memory(LLAMA, settings={**FAST, "training.memory_limit_gib": 24}).notes
    assert "These are the figures of the fast engine." in notes
    assert [note for note in notes if note.startswith("fast engine: ") and note.endswith(" of 24.0 GiB.")]


def test_an_estimate_for_a_gpu_is_of_the_engine_that_would_run_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_limits, "MEASURED_ON", ("cpu",))
    assert estimate(training__memory_limit_gib=24).kept is None
    monkeypatch.setattr(fast_limits, "MEASURED_ON", ("cpu", "cuda"))
    assert estimate(training__memory_limit_gib=24).kept is not None
