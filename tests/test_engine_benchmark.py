"""The speed benchmark survives what its processes do, takes up where it stopped, and writes its tables itself."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from engine_cases import CASES, Case, Job, case_named, jobs_of  # noqa: E402 - benchmarks are scripts, not a package
from engine_profile import by_kind  # noqa: E402
from engine_report import FILES, PAGE, tables, with_tables  # noqa: E402
from engine_speed import Session, agreement, merged, with_checkpoints  # noqa: E402
from roofline import panels, picture  # noqa: E402

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY = Case(
    "smollm2-135m-instruct",
    rows=2,
    length=16,
    lengths="demo",
    steps=3,
    warm=1,
    engines=("stock",),
    changes={**SHAPE, "num_key_value_heads": 2, "vocab_size": 256},
)


def measured(seconds: float, loss: float = 12.5, tokens: int = 8192, **more: Any) -> dict[str, Any]:
    """What a process replies that took two steps."""
    samples = {
        "step_seconds": [seconds, 2 * seconds],
        "step_processor_seconds": [1.0, 1.0],
        "step_tokens": [tokens] * 2,
    }
    known = {"losses": [loss, 12.0], "gradient_norms": [1.0, 1.0], "first_tokens": tokens}
    peaks = {"peak_allocated_bytes": 8 * 2**30, "peak_reserved_bytes": 9 * 2**30}
    return {**samples, **known, **peaks, "kernel_milliseconds": None, **more}


def report_of(**engines: dict[str, Any]) -> dict[str, Any]:
    found = {name.replace("_", "-"): merged(None, one) for name, one in engines.items()}
    case = {"case": CASES["8b-4x2048"].values(), "dtype": "bfloat16", "engines": found, "agreement": agreement(found)}
    about = {"device": "a card", "threads": 1, "python": "3.12", "versions": {"torch": "2.11", "unsloth": None}}
    return {"date": "2026-11-23", "machine": about, "cases": {"8b-4x2048": case}}


def test_one_process_that_fails_or_hangs_does_not_stop_the_others_and_what_is_there_is_skipped(tmp_path: Path) -> None:
    target = tmp_path / "speed.json"
    jobs = [
        Job("crashing", TINY, "nonsense"),
        Job("hanging", replace(TINY, seconds=0.1), "stock"),
        Job("tiny", TINY, "stock"),
    ]
    Session(target, 300).run(jobs)
    cases = json.loads(target.read_text(encoding="utf-8"))["cases"]
    crashed, hung, one = (cases[job.name]["engines"][job.engine] for job in jobs)
    assert crashed["error"] == "exit code 1"
    assert crashed["last_line"].startswith("nonsense is no engine")
    assert hung["error"] == "not done after 0 s"
    assert len(one["step_seconds"]) == 2
    assert one["engine_used"] == "stock: asked for"
    assert one["tokens_per_second"] == pytest.approx(64 / sum(one["step_seconds"]), rel=1e-3)
    assert cases["tiny"]["case"] == TINY.values()

    before = target.read_bytes()
    Session(target, 300).run(jobs)
    assert target.read_bytes() == before


def test_no_process_begins_when_the_time_is_over(tmp_path: Path) -> None:
    Session(tmp_path / "speed.json", 1).run([Job("tiny", TINY, "stock")])
    assert not (tmp_path / "speed.json").exists()


def test_rounds_of_a_case_are_one_result() -> None:
    first = merged(None, measured(1.0))
    both = merged(first, measured(3.0))
    assert both["rounds"] == 2
    assert both["steps"] == 4
    assert both["tokens_per_second"] == pytest.approx(4 * 8192 / (1 + 2 + 3 + 6), rel=1e-3)


def test_a_case_can_be_spelled_out_and_nonsense_is_refused() -> None:
    spelled = case_named("qwen2.5-14b-instruct:3x1536:r24:kept:limit24")
    assert spelled == Case("qwen2.5-14b-instruct", 3, 1536, rank=24, kept=True, limit_gib=24)
    for name in ("8b", "qwen2.5-14b-instruct:3x1536:fast"):
        with pytest.raises(ValueError, match=name.rsplit(":", 1)[-1]):
            case_named(name)


def test_a_checkpoint_is_written_once_before_the_first_process_that_reads_it() -> None:
    jobs = list(jobs_of(["8b-4x2048", "8b-chat", "1b-2x512"], ["fast", "unsloth"]))
    wanted = [(job.name, job.engine) for job in with_checkpoints(jobs) if job.engine != "fast"]
    assert wanted == [
        ("8b-4x2048", "checkpoint"),
        ("8b-4x2048", "unsloth"),
        ("8b-chat", "unsloth"),
        ("1b-2x512", "checkpoint"),
        ("1b-2x512", "unsloth"),
    ]


def test_an_engine_that_computes_something_else_is_seen() -> None:
    found = report_of(trl=measured(1.0), fast=measured(0.5, loss=12.501), unsloth=measured(0.7, loss=12.6))
    compared = found["cases"]["8b-4x2048"]["agreement"]
    assert compared["reference"] == "trl"
    assert {name: one["within"] for name, one in compared["engines"].items()} == {"fast": True, "unsloth": False}


def test_the_tables_say_what_the_file_holds() -> None:
    failed = {"error": "out of memory", "last_line": "CUDA out of memory. Tried to <allocate> | 2 GiB"}
    text = "\n".join(tables(report_of(fast=measured(0.5), unsloth=measured(0.6), tutorial=failed)))
    assert (
        "| llama-3.1-8b-instruct, 4 x 2,048 | fast | 10,923 | 0.75 (0.5 to 1) | 1 | 8.00, 9.00 |  | 79%, 73% |" in text
    )
    assert "|  | unsloth | 9,102 | 0.9 (0.6 to 1.2) | 1 | 8.00, 9.00 | 1.20 | 66%, 61% |" in text
    assert "tutorial: out of memory (CUDA out of memory. Tried to  allocate    2 GiB)" in text


def test_the_page_holds_the_tables_of_the_committed_files() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in FILES:
        source = ROOT / "benchmarks" / "results" / name
        if source.exists():
            assert with_tables(page, name, tables(json.loads(source.read_text(encoding="utf-8")))) == page


def test_the_picture_has_a_panel_for_each_shape_of_work() -> None:
    milliseconds = by_kind({"nvjet_tst": 700.0, "_decode_rows": 50.0, "add_kernel{lambda()#1}": 50.0}, 1000.0)
    cases = report_of(fast=measured(0.5, kernel_milliseconds=milliseconds))["cases"]
    assert milliseconds["no kernel"] == pytest.approx(200)
    kept = {**cases["8b-4x2048"], "case": CASES["8b-4x2048-kept"].values()}
    both = {**cases, "8b-4x2048-kept": kept}
    assert panels(both) == {"llama-3.1-8b-instruct, 4 x 2,048": ["8b-4x2048", "8b-4x2048-kept"]}
    assert len(picture(both).axes) == 2
