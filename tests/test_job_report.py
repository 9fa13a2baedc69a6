"""The report of a run: from its directory, while it goes, after a kill, as page, picture and JSON."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from qlora_tools.cli.report import command
from qlora_tools.config import dump_config, parse_config
from qlora_tools.errors import UsageError
from qlora_tools.progress.summary import JobFacts, read_run
from qlora_tools.report.job_page import job_page
from qlora_tools.report.loss_curve import CURVE_COLOURS, Curve, course_svg, smoothed, thinned, write_loss_curve
from qlora_tools.results import RowCounts, TrainResult
from qlora_tools.results.training import Recovery

from .progress_courses import course, falling

EVIL = '<script>alert("x")</script>\x1b[31m\u202e{{ 7 * 7 }}'


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A run of 100 steps that was resumed once and has no result yet."""
    directory = tmp_path / "out"
    directory.mkdir()
    lines = []
    for record in course(100, falling(2.0, 0.4, 3), evaluation=lambda share: 1.5 - share + share**2, evaluations=4):
        values = {"seconds": record["step"] * 2.0, "time": 1.7e9, "peak_allocated_bytes": 2**30, "host_bytes": 2**31}
        lines.append(json.dumps({**record, **values}))
        if record["step"] == 60:
            lines += [json.dumps({"step": 61, "loss": 99.0}), '{"step": 62, "lo', '{"event": "resumed", "step": 60}']
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    settings = {"model": {"name": "smollm2-135m-instruct"}, "data": {"path": "rows.jsonl"}, "lora": {"rank": 32}}
    config = parse_config({**settings, "output": {"directory": str(directory)}, "training": {"max_steps": 200}})
    (directory / "config.yaml").write_text(dump_config(config, complete=True))
    samples = [
        {"step": s, "prompt": EVIL, "reference": "yes", "answer": f"answer {s} {EVIL}"} for s in (25, 50, 75, 100)
    ]
    text = "".join(json.dumps(sample) + "\n" for sample in samples)
    (directory / "samples.jsonl").write_text(text + '{"step": 100, "prompt": "torn')
    (directory / "checkpoints" / "step-50").mkdir(parents=True)
    (directory / "checkpoints" / "step-50" / "COMPLETE.json").write_text("{}")
    (directory / "data_report.json").write_text(json.dumps({"verdict": "ready", "summary": f"Fine {EVIL}"}))
    return directory


def finish(directory: Path, **changes: Any) -> None:
    rows = RowCounts(read=10, used=9, tokens=100, learnt_tokens=40, cut=0, dropped_long=1, dropped_nothing_to_learn=0,
                     dropped_unusable=0)  # fmt: skip
    values: dict[str, Any] = {
        "output_directory": str(directory), "adapter_directory": str(directory / "adapter"), "engine": "stock",
        "engine_reason": "the only one", "device": "CPU", "compute_dtype": "bfloat16", "packing": "off", "steps": 100,
        "planned_steps": 100, "stopped_early": False, "losses": [2.0], "evaluation_losses": {50: 1.25}, "saved_step": 50,
        "trainable_parameters": 10, "total_parameters": 1000, "training_rows": rows, "evaluation_rows": None,
        "peak_allocated_bytes": 3 * 2**30, "peak_reserved_bytes": 4 * 2**30, "predicted_peak_bytes": 2 * 2**30,
        "train_seconds": 200.0, "total_seconds": 260.0, "tokens_per_second": 50.0, "smoke_answer": None,
        "versions": {"torch": "2.13"},
    }  # fmt: skip
    (directory / "result.json").write_text(TrainResult.model_validate({**values, **changes}).model_dump_json())


def report(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def document(*arguments: str) -> dict[str, Any]:
    result = report(*arguments, "--json")
    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def page_of(output: Path, job: JobFacts | None = None) -> str:
    summary, told = read_run(output, job)
    return job_page(summary.model_dump(mode="json"), Curve(told.series("loss"), told.evaluation_losses))


def test_a_run_that_was_killed_is_told_as_far_as_it_came(output: Path) -> None:
    told = document(str(output))
    assert (told["state"], told["step"], told["planned_steps"]) == ("unfinished", 100, 200)
    assert told["losses"]["first"] > 1.5 > 0.8 > told["losses"]["last"] > told["losses"]["best"]
    assert [one["step"] for one in told["evaluations"]] == [25, 50, 75, 100]
    assert told["best_evaluation"]["loss"] == pytest.approx(1.25, rel=0.02)
    assert (told["resumed_after"], told["checkpoints"], told["unreadable_lines"]) == ([60], [50], 1)
    assert told["speed"]["step_seconds"] == pytest.approx(0.5, rel=0.2)
    assert told["speed"]["eta_seconds"] > 40
    assert told["memory"]["peak_allocated_bytes"] == 2**30
    assert told["settings"]["lora.rank"] == "32"
    assert "lora.dropout" not in told["settings"]
    assert told["written"] == []
    assert not (output / "report.html").exists()


def test_the_json_has_the_samples_of_the_last_evaluation_safe_to_show(output: Path) -> None:
    (sample,) = document(str(output))["samples"]
    assert sample["step"] == 100
    assert sample["answer"] == 'answer 100 <script>alert("x")</script>{{ 7 * 7 }}'


def test_a_finished_run_tells_its_result(output: Path) -> None:
    recovery = Recovery(step=70, during="a step", micro_batch_size=1, gradient_accumulation_steps=2, memory_summary="")
    finish(output, recoveries=[recovery], warnings=["The disk was slow."])
    told = document(str(output))
    assert (told["state"], told["saved_step"], told["recovered_after"]) == ("succeeded", 50, [70])
    assert told["speed"]["eta_seconds"] is None
    assert told["memory"]["predicted_peak_bytes"] == 2 * 2**30
    assert {"kind": None, "step": None, "message": "The disk was slow.", "next_step": None} in told["warnings"]
    page = page_of(output)
    assert "+50.0% against the prediction" in page
    assert "qlora merge" in page
    assert "torch 2.13" in page


def test_what_is_noticed_comes_with_advice(output: Path) -> None:
    records = course(300, falling(1.4, 0.1, 3), evaluation=lambda share: 1.2 - share + 1.6 * share**2)
    (output / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (warning,) = document(str(output))["warnings"]
    assert warning["kind"] == "overfitting"
    joined = f"{warning['message']} {warning['next_step']}"
    finish(output, warnings=[joined])
    assert document(str(output))["warnings"] == [warning]
    result = report(str(output))
    assert warning["message"] in result.stdout
    assert warning["next_step"] in result.stdout


def test_the_page_is_written_beside_the_metrics_and_again(output: Path) -> None:
    for _ in range(2):
        result = report(str(output))
        assert result.exit_code == 0
        assert str(output / "report.html") in result.stdout
    page = (output / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "answer 25" in page
    assert "in the data" in page


def test_the_page_loads_nothing_and_escapes_everything(output: Path) -> None:
    finish(output, warnings=[EVIL], versions={EVIL: EVIL}, device=EVIL)
    job = JobFacts("job-1", "failed", EVIL, EVIL, None, [EVIL], [EVIL])
    page = page_of(output, job)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "49" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL).split("<h2>")[1]
    assert page.count("&lt;script&gt;") >= 10
    assert re.findall(r'(?:src|href)="(?!#)', page) == []
    assert "default-src 'none'" in page


def test_the_state_of_a_job_is_that_of_the_report(output: Path) -> None:
    job = JobFacts("job-1", "failed", "The GPU was full.", "Lower it.", 150, ["1: failed"], [])
    summary, _ = read_run(output, job)
    assert (summary.state, summary.message, summary.planned_steps) == ("failed", "The GPU was full.", 150)
    assert "✗ Failed" in page_of(output, job)


def test_a_job_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    job = JobFacts("job-1", "queued", None, "Wait.", None, [], [])
    page = page_of(tmp_path / "nothing", job)
    assert "No step was told yet." in page
    assert "There is no loss yet." in page


def test_a_directory_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"metrics\.jsonl"):
        report(str(tmp_path))


def test_an_unknown_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        report("job-unknown", "--workspace", str(tmp_path))


@pytest.mark.parametrize("name", ["mine.html", "mine.txt", "missing/report.html"])
def test_foreign_files_are_left_as_they_are(output: Path, tmp_path: Path, name: str) -> None:
    if "/" not in name:
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError):
        report(str(output), "-o", str(tmp_path / name))
    assert "/" in name or (tmp_path / name).read_text() == "mine"


def test_the_curve_is_a_png_that_only_a_png_gives_way_to(output: Path, tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    assert document(str(output), "--curve", str(picture))["written"] == [str(picture)]
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.write_text("mine")
    with pytest.raises(UsageError):
        report(str(output), "--curve", str(picture))


def test_no_curve_is_drawn_before_the_first_loss(output: Path, tmp_path: Path) -> None:
    (output / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n')
    result = report(str(output), "--curve", str(tmp_path / "curve.png"), "--json")
    assert "no loss yet" in result.stderr
    assert not (tmp_path / "curve.png").exists()


@pytest.mark.parametrize(
    "curve",
    [
        Curve({1: 2.0}),
        Curve({}, {5: 1.0}),
        Curve({1: 2.0, 2: None, 3: 1.0}, learning_rates={1: 0.0}),
        Curve({step: 1.0 if step < 50 else 1e6 for step in range(1, 99)}, dict.fromkeys(range(1, 99), 1.0)),
        Curve(dict.fromkeys(range(1, 30), 0.0), resumed=[3, 9], recovered=[4]),
    ],
)
def test_every_course_can_be_drawn(tmp_path: Path, curve: Curve) -> None:
    assert write_loss_curve(tmp_path / "curve.png", curve, title="a $x_1$ run", below="")
    svg = course_svg(curve, narrow=True)
    assert svg.startswith("<svg")
    assert not any(colour in svg for colour in CURVE_COLOURS.values())


def test_a_long_course_is_thinned_to_what_can_be_seen_and_keeps_extremes_and_gaps() -> None:
    losses: dict[int, float | None] = dict.fromkeys(range(1, 100001), 1.0)
    losses[50_000] = 9.0
    losses.update(dict.fromkeys(range(70_000, 80_000)))
    steps, values = thinned(losses)
    assert len(steps) == len(values) <= 1_800
    assert steps == sorted(steps)
    assert 9.0 in values
    assert any(value != value for value in values)
    _, smooth = thinned(smoothed(losses), extremes=False)
    assert max(value for value in smooth if value == value) < 2
