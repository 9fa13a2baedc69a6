"""The estimator stays within its promises on every row that was measured on a GPU."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from memory_cases import BLIND, CASES, Case  # noqa: E402 - benchmarks are scripts, not a package
from memory_table import GRID, PAGE, SUMMARY, Compared, compared_rows, summary  # noqa: E402

ROWS = compared_rows()
TRAINING = [row for row in ROWS if row.row["task"] == "training"]
PARTS = {
    "all": TRAINING,
    "fitted": [row for row in TRAINING if not row.row["held_out"] and not row.row["blind"]],
    "held out": [row for row in TRAINING if row.row["held_out"]],
    "blind": [row for row in TRAINING if row.row["blind"]],
}


def key(row: Compared) -> str:
    return Case(row.row["model"], row.row["values"], row.row["padded"], row.row["task"]).key


def median(values: Iterator[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def test_every_case_was_measured_once_and_without_an_error() -> None:
    assert sorted(key(row) for row in ROWS) == sorted(case.key for case in (*CASES, *BLIND))
    assert [row.row for row in ROWS if "error" in row.row] == []


def test_the_grid_is_as_wide_as_it_says() -> None:
    assert len(TRAINING) >= 60
    values = [row.row["values"] for row in TRAINING]
    lengths = {value["training.max_length_tokens"] for value in values}
    assert min(lengths) <= 512
    assert max(lengths) >= 16384
    assert {1, 2, 4, 8} <= {value["training.micro_batch_size"] for value in values}
    assert {8, 16, 32, 64, 128} <= {value["lora.rank"] for value in values}
    assert {"int8", "none", "fp4"} <= {value.get("quantization.kind") for value in values}
    families = {re.split(r"[-.\d]", row.row["model"])[0] for row in TRAINING}
    assert {"llama", "qwen", "mistral", "gemma", "phi", "olmo", "granite"} <= families


def test_held_out_rows_are_those_that_the_hash_chose() -> None:
    chosen = {case.key for case in CASES if case.held_out}
    assert {key(row) for row in ROWS if row.row["held_out"]} == chosen
    assert 0.25 < len(chosen) / len(CASES) < 0.45


@pytest.mark.parametrize("part", PARTS)
def test_the_middle_figure_is_within_2_percent_in_the_median_and_5_at_worst(part: str) -> None:
    rows = PARTS[part]
    assert median(abs(row.error) for row in rows) <= 0.02
    assert max(abs(row.error) for row in rows if not row.by_data) <= 0.05


def test_where_the_peak_depends_on_the_data_it_is_within_10_percent() -> None:
    rows = [row for row in TRAINING if row.by_data]
    assert len(rows) >= 5
    assert max(abs(row.error) for row in rows) <= 0.10


@pytest.mark.parametrize("part", PARTS)
def test_what_is_reserved_is_within_4_percent_in_the_median(part: str) -> None:
    assert median(abs(row.reserved_error) for row in PARTS[part]) <= 0.04


def test_the_high_figure_is_never_below_what_was_measured_and_close_to_it() -> None:
    assert min(row.headroom for row in ROWS) >= 0
    assert median(row.headroom for row in ROWS) <= 0.10


def test_the_low_figure_is_never_above_what_was_measured() -> None:
    assert [key(row) for row in ROWS if row.estimate.low_bytes > row.allocated] == []


def test_what_is_needed_covers_what_the_allocator_reserved() -> None:
    outside = [row.estimate.context_bytes + row.estimate.paged_bytes for row in ROWS]
    over = [
        key(row)
        for row, beside in zip(ROWS, outside, strict=True)
        if row.estimate.needed_bytes - beside < row.reserved * 0.99
    ]
    assert over == []


def test_weights_are_counted_to_a_thousandth() -> None:
    parts = (
        "base weights",
        "quantisation constants",
        "experts (not quantised)",
        "embeddings and head",
        "norms and biases",
    )
    for row in TRAINING:
        counted = sum(row.estimate.parts.get(part, 0) for part in parts)
        assert counted == pytest.approx(row.row["weights_bytes"], rel=1e-3), key(row)


def test_inference_is_within_2_percent_where_no_window_slides() -> None:
    rows = [row for row in ROWS if row.row["task"] == "inference" and not row.row["model"].startswith("gemma")]
    assert len(rows) >= 4
    assert max(abs(row.error) for row in rows) <= 0.02


def test_the_committed_summary_and_page_are_those_of_the_committed_grid() -> None:
    found, written = summary(ROWS), json.loads(SUMMARY.read_text(encoding="utf-8"))
    assert {name: written[name] for name in found} == found
    assert json.loads(GRID.read_text(encoding="utf-8"))["date"] == written["date"]
    page = PAGE.read_text(encoding="utf-8")
    assert f"| all | {found['all']['rows']} | {found['all']['median_error']:.2%} |" in page
    assert page.count("\n| ") == len(ROWS) + len(found) + 2
