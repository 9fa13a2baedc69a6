"""What is noticed in a run, and above all what is not: usual courses stay quiet."""

import time
from collections.abc import Callable
from math import exp
from typing import Any

import pytest

from qlora_tools.progress import CourseWatch, Notice, Pace, setup_notices

from .progress_courses import Record, course, falling

Level = Callable[[float], float]
USUAL: dict[str, tuple[Level, float, Level | None]] = {
    "instructions": (falling(1.4, 1.05), 0.12, None),
    "noisy": (falling(1.4, 1.1), 0.5, None),
    "known already": (falling(1.10, 1.02), 0.1, None),
    "learnt to zero": (falling(3.0, 0.02, 3), 0.3, None),
    "json": (falling(2.4, 0.15, 2), 0.2, falling(2.4, 0.25, 2)),
    "epochs": (lambda s: (1.3, 1.0, 0.75)[min(2, int(s * 3))] * (1 + 0.2 * exp(-30 * s)), 0.1, lambda s: 1.2 - 0.1 * s),
    "straight": (lambda s: 1.3 - 0.15 * s, 0.1, None),
}


def told(records: list[Record], planned_steps: int) -> list[Notice]:
    watch = CourseWatch(planned_steps)
    return [notice for record in records for notice in watch.feed(record)]


def kinds(records: list[Record], planned_steps: int) -> list[str]:
    return [notice.kind for notice in told(records, planned_steps)]


@pytest.mark.parametrize("name", USUAL)
@pytest.mark.parametrize("steps", [1, 10, 60, 300, 900, 2400])
def test_a_usual_course_is_quiet(name: str, steps: int) -> None:
    level, noise, evaluation = USUAL[name]
    for seed in range(1 if steps > 900 else 3):
        assert told(course(steps, level, noise=noise, seed=seed, evaluation=evaluation), steps) == []


@pytest.mark.parametrize("steps", [40, 120, 900])
def test_divergence_is_told_once_soon_after_it_begins(steps: int) -> None:
    records = course(steps, lambda s: 1.2 if s < 0.5 else 1.2 + min(6.0, 20 * (s - 0.5)))
    notices = [notice for notice in told(records, steps) if notice.kind == "divergence"]
    assert len(notices) == 1
    assert 0.5 * steps < notices[0].step < 0.55 * steps + 15
    assert "training.learning_rate" in notices[0].next_step


@pytest.mark.parametrize("steps", [30, 300, 3000])
def test_overfitting_is_told_when_training_falls_and_evaluation_rises(steps: int) -> None:
    records = course(steps, falling(1.4, 0.1, 3), evaluation=lambda s: 1.2 - s + 1.6 * s * s)
    (notice,) = told(records, steps)
    assert notice.kind == "overfitting"
    assert "1.0" in notice.message
    assert "early_stopping_patience" in notice.next_step


def test_an_evaluation_that_rises_with_training_is_no_overfitting() -> None:
    records = course(200, lambda s: 1.0 + 0.3 * s, noise=0.02, evaluation=lambda s: 1.0 + 0.3 * s)
    assert "overfitting" not in kinds(records, 200)


def test_three_epochs_with_a_sudden_rise_at_the_end_are_overfitting() -> None:
    records = course(90, lambda s: (1.2, 0.8, 0.4)[min(2, int(s * 2.999))], noise=0.05)
    for place, loss in ((90, 1.45), (60, 1.25), (30, 1.30)):
        records.insert(place, {"step": place, "evaluation_loss": loss})
    assert kinds(records, 90) == ["overfitting"]


def test_a_loss_that_stands_still_is_a_plateau() -> None:
    level: Level = lambda s: 1.0 + 0.5 * exp(-40 * s)  # noqa: E731
    for seed in range(2):
        assert kinds(course(12_000, level, noise=0.05, seed=seed), 12_000) == ["plateau"]


def test_a_low_loss_that_stands_still_is_learnt() -> None:
    assert kinds(course(6000, lambda s: 0.05 + 2 * exp(-40 * s), noise=0.02), 6000) == []


def test_a_loss_that_never_moved_is_told() -> None:
    notices = told(course(600, lambda s: 4.1, noise=0.03), 600)
    assert notices[0].kind == "not_learning"
    assert "at the start" in notices[0].message


def test_a_run_that_is_watched_from_its_middle_on_is_quiet() -> None:
    records = course(3000, falling(1.4, 1.05), noise=0.05, evaluation=falling(1.4, 1.1))
    for start in (100, 900, 2000):
        resumed = [{"event": "resumed", "step": start}, *(one for one in records if one["step"] > start)]
        assert kinds(resumed, 3000) == []


def test_exploding_gradients_are_told_and_single_long_ones_are_not() -> None:
    records = course(200, falling(1.4, 1.0))
    assert kinds(records, 200) == []
    for record in records[120:160:3]:
        record["gradient_norm"] = 40.0
    assert kinds(records, 200) == ["gradient_explosion"]
    for record in records[:5]:
        record["gradient_norm"] = None
    assert told(records, 200)[0].step == 5


def test_a_loss_of_zero_is_told_unless_the_task_was_learnt() -> None:
    assert kinds([{"step": step, "loss": 0.0} for step in range(1, 9)], 100) == ["loss_zero"]
    collapsed = [{"step": step, "loss": 1.2 if step < 5 else 0.0} for step in range(1, 9)]
    assert kinds(collapsed, 100) == ["loss_zero"]
    learnt = [{"step": step, "loss": max(0.0, 1 - 0.03 * step)} for step in range(1, 60)]
    assert kinds(learnt, 60) == []


def test_a_loss_that_is_no_number_is_told_at_once() -> None:
    assert kinds([{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "loss": None}], 9) == [
        "loss_not_a_number"
    ]


def test_numbers_that_are_none_may_come_as_floats() -> None:
    assert kinds([{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan"), "gradient_norm": float("inf")}], 9) == [
        "loss_not_a_number"
    ]


def test_waiting_for_rows_is_told_and_again_only_after_it_went_away() -> None:
    def steps(first: int, last: int, waiting: float) -> list[Record]:
        return [{"step": s, "step_seconds": 1.0, "data_seconds": waiting} for s in range(first, last)]

    assert kinds(steps(1, 100, 0.1), 1000) == []
    assert kinds(steps(1, 100, 0.5) + steps(100, 120, 0.25), 1000) == ["slow_data"]
    assert kinds(steps(1, 100, 0.5) + steps(100, 300, 0.0) + steps(300, 400, 0.5), 1000) == ["slow_data"] * 2
    assert "50%" in told(steps(1, 100, 0.5), 1000)[0].message


def test_steps_that_become_slow_are_told_unless_they_hold_more_tokens() -> None:
    def steps(first: int, last: int, seconds: float, tokens: float) -> list[Record]:
        return [{"step": s, "step_seconds": seconds, "tokens_per_second": tokens / seconds} for s in range(first, last)]

    usual = steps(1, 100, 1.0, 4000)
    assert kinds(usual + steps(100, 200, 2.0, 4000), 1000) == ["slow_steps"]
    assert kinds(usual + steps(100, 200, 2.0, 8000), 1000) == []
    assert kinds([*usual, {"step": 99, "event": "resumed"}, *steps(100, 200, 2.0, 4000)], 1000) == []


def test_a_look_at_a_record_costs_microseconds_even_in_a_long_run() -> None:
    records = course(20_000, falling(1.4, 1.05), evaluation=falling(1.4, 1.1), evaluations=100)
    watch, pace = CourseWatch(20_000), Pace(20_000)
    clock = began = time.perf_counter()
    slowest_thousand = 0.0
    for index, record in enumerate(records, start=1):
        watch.feed(record)
        pace.feed(record["step"], 0.5 * record["step"], step_seconds=record.get("step_seconds"))
        _ = pace.eta_seconds
        if index % 1000 == 0:
            now = time.perf_counter()
            slowest_thousand, clock = max(slowest_thousand, now - clock), now
    assert (clock - began) / len(records) < 0.2e-3
    assert slowest_thousand < 1.0


SETUP: dict[str, Any] = {
    "device": "cuda",
    "compute_dtype": "bfloat16",
    "computes_bfloat16": True,
    "frozen_dtypes": {"bfloat16": 10**9, "float32": 10**5},
    "offloaded_parameters": 0,
}


@pytest.mark.parametrize(
    ("change", "kinds_told"),
    [
        ({}, []),
        ({"device": "cpu", "compute_dtype": "float32", "offloaded_parameters": 9}, []),
        ({"offloaded_parameters": 10**9}, ["offload"]),
        ({"compute_dtype": "float32"}, ["dtype_mismatch"]),
        ({"compute_dtype": "float16"}, ["dtype_mismatch"]),
        ({"computes_bfloat16": False}, ["dtype_mismatch"]),
        ({"compute_dtype": "float16", "computes_bfloat16": False}, []),
        ({"frozen_dtypes": {"float32": 5 * 10**8, "bfloat16": 10**9}}, ["dtype_mismatch"]),
    ],
)
def test_what_makes_every_step_slow_is_told_before_the_first(change: dict[str, Any], kinds_told: list[str]) -> None:
    notices = setup_notices(**{**SETUP, **change})
    assert [notice.kind for notice in notices] == kinds_told
    assert all("quantization." in notice.next_step for notice in notices)
