"""Evaluations, merges and exports are jobs as trainings are: the same handle, queue, verdicts, and a way to go on."""

import inspect
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.access import Access
from qlora_tools.cli.main import run
from qlora_tools.errors import ModelError, UsageError
from qlora_tools.events import RunEvent
from qlora_tools.jobs import JobStatus, get_job, list_jobs, resume_job, start_work, stop_job, works
from qlora_tools.jobs.admission import Running, Turn, choose
from qlora_tools.jobs.devices import Host
from qlora_tools.jobs.diagnosing import diagnose_job
from qlora_tools.jobs.outcomes import step_after_success, summary_of
from qlora_tools.jobs.reading import adapter_of, source_of
from qlora_tools.jobs.reporting import Reporter
from qlora_tools.jobs.run_report import read_job_run
from qlora_tools.jobs.works import WORKS, checked_work

from .job_trial import TRIAL_WORKS
from .job_workspace import Jobs, jobs, until  # noqa: F401 - the fixture
from .server_talk import called, text_of

LONG = 10_000
GIB = 2**30


@pytest.fixture
def exports(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Jobs:  # noqa: F811
    """A workspace whose exports write pieces, in jobs of their own."""
    monkeypatch.setattr(works, "WORKS", TRIAL_WORKS)
    (jobs.directory / "source").mkdir()
    return jobs


def start(exports: Jobs, output: str = "exported", **more: Any) -> JobStatus:
    wanted = {"source": str(exports.directory / "source"), "output": str(exports.directory / output)}
    options = {name: more.pop(name) for name in ("idempotency_key", "name", "dry_run") if name in more}
    return start_work("export", {**wanted, **more}, workspace=exports.directory, **options)


@pytest.mark.process
def test_work_runs_to_its_end_and_is_told_of_as_what_it_is(exports: Jobs) -> None:
    job = exports.ended(start(exports).id)
    assert (job.state, job.kind, job.exit_code) == ("succeeded", "export", 0)
    assert job.message == "The export is done."
    assert job.result is not None
    assert job.result["files"] == ["0", "1", "2"]
    assert (job.summary or "").startswith("pieces: 3 files")
    assert (job.step, job.planned_steps, job.adapter_directory) == (3, 3, None)
    assert (job.needed_bytes, job.device) == (3 * GIB // 2, None)
    assert exports.folder(job.id).work_file.is_file()
    assert not exports.folder(job.id).config_file.exists()
    (listed,) = list_jobs(workspace=exports.directory).jobs
    assert (listed.kind, listed.summary, listed.result) == ("export", job.summary, None)
    with pytest.raises(UsageError, match="is no training, so there is no course"):
        read_job_run(job)
    with pytest.raises(UsageError, match="has succeeded") as caught:
        resume_job(job.id)
    assert caught.value.next_step == "Start a new job with `qlora export`."


@pytest.mark.process
@pytest.mark.parametrize("way", ["stop", pytest.param("kill", marks=pytest.mark.slow)])
def test_work_that_is_stopped_or_killed_goes_on_from_what_it_has_written(exports: Jobs, way: str) -> None:
    job = exports.reach(start(exports, count=LONG).id, "running")
    until(lambda: (exports.directory / "exported" / "2").exists())
    stop_job(job.id) if way == "stop" else os.kill(exports.pid(job.id), signal.SIGKILL)
    ended = exports.ended(job.id)
    assert ended.state == ("stopped" if way == "stop" else "interrupted")
    assert ended.last_checkpoint is None
    assert ended.next_step == f"Run `qlora resume {job.id}`: it goes on from what it has written."
    if way != "kill":
        assert (ended.message or "").startswith("The export was stopped after ")
    for wrong in ({"changes": {"lora.rank": 4}}, {"from_start": True}, {"from_checkpoint": Path("x")}):
        with pytest.raises(UsageError, match="is no training: it has no checkpoints"):
            resume_job(job.id, **wrong)  # type: ignore[arg-type]
    written = len(list((exports.directory / "exported").iterdir()))
    again = exports.reach(resume_job(job.id).id, "running")
    assert again.attempt == 2
    assert written >= 3
    until(lambda: (exports.directory / "exported" / str(written + 1)).exists())
    stop_job(job.id, cancel=True)
    cancelled = exports.ended(job.id)
    assert [one.state for one in cancelled.attempts] == [ended.state, "cancelled"]


@pytest.mark.process
def test_work_that_does_not_listen_is_ended_at_once_and_an_error_of_the_user_is_told(exports: Jobs) -> None:
    deaf = exports.reach(start(exports, to="deaf", count=LONG).id, "running")
    assert stop_job(deaf.id, now=True).state == "stopped"
    assert exports.get(deaf.id).message == "The export was ended at once."
    wrong = exports.ended(start(exports, output="other", to="wrong").id)
    assert (wrong.state, wrong.exit_code, wrong.message) == ("failed", 2, "The source is wrong.")
    report, config = diagnose_job(wrong.id, workspace=exports.directory)
    assert config is None
    assert report.findings[0].next_step == "Mend it."
    assert run(["doctor", wrong.id, "--apply", str(exports.directory / "new.yaml")]) == 2


@pytest.mark.process
def test_a_key_starts_the_same_work_once_and_an_output_in_use_is_refused(exports: Jobs) -> None:
    first = start(exports, idempotency_key="one", count=LONG)
    assert start(exports, idempotency_key="one", count=LONG).id == first.id
    with pytest.raises(UsageError, match="used for another request"):
        start(exports, idempotency_key="one", count=LONG + 1)
    with pytest.raises(UsageError, match=f"The job {first.id} writes to"):
        start(exports)
    assert start(exports, dry_run=True, output="elsewhere").id == ""
    stop_job(first.id, cancel=True)


@pytest.mark.process
def test_commands_show_work_among_trainings(exports: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    training = exports.ended(exports.start(name="the run").id)
    export = exports.ended(start(exports, name="the export").id)
    seen = []
    for words in (["jobs"], ["status", export.id], ["status", training.id], ["report", export.id]):
        code = run(words)
        out = capsys.readouterr()
        seen.append((code, out.out + out.err))
    assert [code for code, _ in seen] == [0, 0, 0, 2]
    assert all(word in seen[0][1] for word in ("kind", "export", "train"))
    assert "(the export, export)" in seen[1][1]
    assert "Result:        pieces: 3 files" in seen[1][1]
    assert "(the run)" in seen[2][1]
    assert "is no training" in seen[3][1]
    told = called(exports.directory, "get_job", job_id=export.id)
    assert told.structured_content["kind"] == "export"
    assert told.structured_content["result"]["files"] == ["0", "1", "2"]
    assert "Result: pieces: 3 files" in text_of(told)
    assert "(the export, export): succeeded" in text_of(called(exports.directory, "list_jobs"))


def test_names_of_jobs_mean_what_others_can_work_on(exports: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qlora_tools.jobs.launch._start", lambda *arguments: os.getpid())
    training = exports.start(name="both")
    export = start(exports, name="both")
    assert get_job("last", workspace=exports.directory).id == export.id
    for name in ("last", "both", training.id):
        with pytest.raises(UsageError, match=rf"{training.id} \(train\) is queued and has no finished adapter"):
            adapter_of(name, workspace=exports.directory) if name != "both" else _adapter_of_name(exports)
    with pytest.raises(UsageError, match=rf"{export.id} \(export\) is queued and has no finished adapter or model"):
        source_of(export.id, workspace=exports.directory)
    assert adapter_of("out/adapter", workspace=exports.directory) is None


def _adapter_of_name(exports: Jobs) -> Path | None:
    return adapter_of("both", workspace=exports.directory)


def test_wrong_work_is_refused_before_a_job_is_made(
    jobs: Jobs,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("translate", {}, "'translate' is no kind of job"),
        ("merge", {"adapter": "a", "output": "b", "bse": "nf4"}, "The merge does not take bse"),
        ("merge", {"adapter": "a"}, "The merge lacks output"),
        ("merge", {"adapter": "a", "output": "b", "stop": 1}, "does not take stop"),
        ("merge", {"adapter": {1, 2}, "output": "b"}, "are no plain data: set cannot be stored"),
        ("merge", {"adapter": "nowhere", "output": "b"}, "There is no adapter directory"),
        ("merge", {"adapter": ["a", "b"], "output": "b"}, r"The adapter of the merge is \['a', 'b'\]"),
        ("merge", {"adapter": {}, "output": "b"}, "The adapter of the merge is {}"),
        ("evaluate", {"adapter": {"a": 1}}, "The adapter of the evaluation is {'a': 1}"),
        ("evaluate", {"adapter": "there"}, "holds no adapter"),
        ("export", {"source": "there", "to": "floppy", "output": "b"}, "Nothing is exported to 'floppy'"),
    ]
    for kind, arguments, words in wrong:
        with pytest.raises((UsageError, ModelError), match=words):
            start_work(kind, arguments, workspace=jobs.directory)  # type: ignore[arg-type]
    assert not jobs.space.root.exists()


def test_every_work_can_be_stopped_watched_and_given_what_the_table_says() -> None:
    from qlora_tools.server.work_arguments import TAKEN

    for kind, work in WORKS.items():
        parameters = inspect.signature(work.function()).parameters
        assert {"stop", "on_event"} <= set(parameters)
        named = {*work.paths, *work.datasets, *work.models, *work.files_of_code}
        assert named <= set(parameters)
        assert set(parameters) >= TAKEN[kind]
        assert set(work.files_of_code).isdisjoint(TAKEN[kind])


def test_paths_become_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    evaluation = {
        "adapter": "a",
        "data": "owner/rows",
        "output": "b",
        "metric_file": "m.py:score",
        "lm_eval": ["arc", "t.yaml"],
    }
    found = checked_work("evaluate", evaluation).arguments
    assert found["data"] == "owner/rows"
    assert found["metric_file"] == f"{here}/m.py:score"
    assert found["lm_eval"] == ["arc", f"{here}/t.yaml"]
    merge = checked_work("merge", {"adapter": {"a": 0.5, Path("b").name: 0.5}, "output": Path("m")}).arguments
    assert merge == {"adapter": {f"{here}/a": 0.5, f"{here}/b": 0.5}, "output": f"{here}/m"}


def test_work_without_a_gpu_waits_for_no_gpu_and_is_not_counted_on_one() -> None:
    host = Host(total_bytes=8 * GIB, free_bytes=8 * GIB, at_once=4)
    on_gpu = Running("job-a", "GPU-1", 60 * GIB)
    assert choose(2 * GIB, [on_gpu], [], host, None) == Turn(None)
    assert not isinstance(choose(2 * GIB, [on_gpu, Running("job-b", None, 7 * GIB)], [], host, None), Turn)


def test_progress_within_a_phase_is_told_as_pieces(exports: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qlora_tools.jobs.launch._start", lambda *arguments: os.getpid())
    folder = exports.folder(start(exports).id)
    reporter = Reporter(folder, folder.attempt(1), counts_pieces=True)
    for event in (
        RunEvent("phase", "Reading"),
        RunEvent("progress", "files", {"done": 4, "total": 4}),
        RunEvent("phase", "Writing"),
    ):
        reporter(event)
    assert json.loads(folder.status_file.read_text())["step"] is None
    for done in (1, 2):
        reporter(RunEvent("progress", "files", {"done": done, "total": 8}))
    reporter.finish()
    told = json.loads(folder.status_file.read_text())
    assert (told["begun"], told["phase"], told["step"], told["planned_steps"]) == (True, "Writing", 2, 8)
    assert told["eta_seconds"] is not None


RESULTS: list[tuple[str, Mapping[str, Any], str]] = [
    ("merge", {"size_bytes": 2e9, "dtype": "bfloat16", "base": "trained", "seconds": 61.0,
               "parity": {"passed": True, "top1_agreement": 0.999, "mean_kl": 1e-5, "prompts": 64}},
     "2.00 GB in bfloat16, base trained, parity passed: top-1 agreement 99.90 %, mean KL 1.0e-05 nats, on 64 prompts"),
    ("merge", {"parity": None}, "not compared with base plus adapter"),
    ("evaluate", {"verdict": {"decision": "ship", "summary": "It is better."}, "rows": {"used": 20}},
     "ship: It is better, 20 rows"),
    ("evaluate", {"verdict": 5, "rows": [1], "seconds": "soon"}, ""),
    ("export", {"to": "gguf", "files": ["a", "b"], "size_bytes": 1e9, "seconds": 3}, "gguf: 2 files of 1.00 GB"),
    ("export", {"files": 5, "parity": "x"}, "None: "),
    ("train", {"losses": [2.0, 1.0], "evaluation_losses": 5, "training_rows": None}, "loss 2.000 -> 1.000"),
    ("dance", {"a": 1}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "result", "words"), RESULTS)
def test_a_result_is_summed_up_whatever_stands_in_it(kind: str, result: Mapping[str, Any], words: str) -> None:
    from qlora_tools.server.result_words import brief_result, result_lines

    assert words in (summary_of(kind, result) or "")
    assert isinstance(step_after_success(kind, result), str)
    json.dumps(brief_result(kind, result))
    assert all(isinstance(line, str) for line in result_lines(kind, result))


def test_an_agent_may_not_resume_work_that_it_could_not_have_started(
    exports: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qlora_tools.jobs.launch._start", lambda *arguments: os.getpid())
    started = start(exports)
    stop_job(started.id)
    work_file = exports.folder(started.id).work_file
    arguments = json.loads(work_file.read_text())["arguments"]
    for kind, changed, words in (
        ("evaluate", {"metric_file": "/x/m.py:score"}, "was started with metric_file"),
        ("export", {**arguments, "source": "/etc"}, "source"),
        ("export", {**arguments, "output": "/tmp/elsewhere"}, "output"),
    ):
        work_file.write_text(json.dumps({"kind": kind, "arguments": changed}))
        refused = called(exports.directory, "control_job", job_id=started.id, action="resume")
        assert refused.is_error
        assert words in text_of(refused)
    assert get_job(started.id, workspace=exports.directory).attempt == 1


@pytest.mark.parametrize("inside", [True, False])
def test_an_agent_evaluates_no_run_whose_config_names_rows_elsewhere(tmp_path: Path, inside: bool) -> None:
    from qlora_tools.server.options import ServerOptions
    from qlora_tools.server.work_arguments import checked_arguments

    workspace = tmp_path / "workspace"
    (workspace / "out" / "adapter").mkdir(parents=True)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "owner/name"}
    (workspace / "out" / "adapter" / "adapter_config.json").write_text(json.dumps(adapter))
    (workspace / "out" / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    rows = workspace / "rows.jsonl" if inside else tmp_path / "rows.jsonl"
    config = {
        "model": {"name": "owner/name"},
        "data": {"path": str(rows)},
        "output": {"directory": str(workspace / "out")},
    }
    (workspace / "out" / "config.yaml").write_text(json.dumps(config))
    options = ServerOptions(Access(workspace))
    if inside:
        asked = checked_arguments(options, "evaluate", {"adapter": str(workspace / "out"), "max_rows": 4})
        assert asked["output"] == str(workspace.resolve() / "out" / "evaluation")
        return
    with pytest.raises(UsageError, match=r"data\.path"):
        checked_arguments(options, "evaluate", {"adapter": str(workspace / "out")})
