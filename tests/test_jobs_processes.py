"""Jobs as real processes: killed, stopped, starved, left alone; whoever looks afterwards learns what happened."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qlora_tools import durable
from qlora_tools.errors import ConfigError, MachineError, UsageError
from qlora_tools.jobs import get_job, launch, list_jobs, read_log, resume_job, stop_job
from qlora_tools.jobs.adoption import adopt
from qlora_tools.jobs.layout import Ticket
from qlora_tools.jobs.locks import exclusive, holder
from qlora_tools.jobs.tickets import put

from .job_workspace import Jobs, jobs, until  # noqa: F401 - the fixture

pytestmark = pytest.mark.process
LONG = 10_000


def test_a_job_runs_to_its_end_and_tells_of_it(jobs: Jobs) -> None:  # noqa: F811
    started = jobs.start(name="a try")
    assert started.state in ("queued", "starting")
    job = jobs.ended(started.id)
    assert (job.state, job.exit_code, job.step, job.planned_steps, job.loss) == ("succeeded", 0, 3, 3, 1 / 3)
    assert job.warnings == ["a warning"]
    assert job.result is not None
    until(lambda: not list(jobs.space.active.iterdir()))
    folder = jobs.folder(job.id)
    assert (folder.path.stat().st_mode & 0o777, folder.log_file.stat().st_mode & 0o777) == (0o700, 0o600)
    assert not folder.attempt(1).spare_file.exists()
    assert "Training" in read_log(job.id).text
    with pytest.raises(UsageError, match="has succeeded"):
        resume_job(job.id)


def test_a_killed_run_is_interrupted_for_ever_and_goes_on_from_its_checkpoint(jobs: Jobs) -> None:  # noqa: F811
    job = jobs.reach(jobs.start("saving", LONG).id, "running")
    until(lambda: jobs.get(job.id).last_checkpoint)
    os.kill(jobs.pid(job.id), signal.SIGKILL)
    dead = jobs.ended(job.id)
    assert (dead.state, dead.exit_code, dead.attempts[0].cause) == ("interrupted", 1, "killed")
    assert dead.last_checkpoint is not None
    assert f"qlora resume {job.id}" in dead.next_step
    verdict = jobs.folder(job.id).attempt(1).exit_file.read_bytes()
    again = jobs.reach(resume_job(job.id, from_checkpoint=None).id, "running")
    assert f"Attempt 2 begins; attempt 1 ended as interrupted; from {dead.last_checkpoint}\n" in read_log(job.id).text
    assert (again.attempt, again.attempts[0].state) == (2, "interrupted")
    stop_job(job.id)
    ended = jobs.ended(job.id)
    assert [attempt.state for attempt in ended.attempts] == ["interrupted", "stopped"]
    assert jobs.folder(job.id).attempt(1).exit_file.read_bytes() == verdict


def test_a_stopped_run_keeps_a_checkpoint_and_its_resumption_takes_changes(jobs: Jobs) -> None:  # noqa: F811
    job = jobs.reach(jobs.start(steps=LONG).id, "running")
    assert stop_job(job.id).state in ("stopping", "stopped")
    stopped = jobs.ended(job.id)
    assert (stopped.state, stopped.exit_code) == ("stopped", 130)
    checkpoint = Path(stopped.last_checkpoint or "")
    assert (checkpoint / "COMPLETE.json").is_file()
    again = resume_job(job.id, changes={"training.log_every_steps": 2})
    request = json.loads(jobs.folder(job.id).attempt(2).request_file.read_text())
    assert (request["resume_from"], request["changes"]) == (str(checkpoint), {"training.log_every_steps": 2})
    until(lambda: "with changes: training.log_every_steps=2\n" in read_log(job.id).text)
    stop_job(again.id, cancel=True)
    assert jobs.ended(job.id).state == "cancelled"
    log = read_log(job.id).text
    assert f"Attempt 1 stopped: {stopped.message}\n" in log
    assert f"Next: {stopped.next_step}\n" in log
    assert f"from {checkpoint}; with changes" in log


def test_a_signal_ends_a_run_with_a_checkpoint_as_interrupted(jobs: Jobs) -> None:  # noqa: F811
    job = jobs.reach(jobs.start(steps=LONG).id, "running")
    os.kill(jobs.pid(job.id), signal.SIGTERM)
    ended = jobs.ended(job.id)
    assert (ended.state, ended.attempts[0].cause, ended.exit_code) == ("interrupted", "SIGTERM", 130)
    assert ended.last_checkpoint is not None


def test_a_run_that_does_not_listen_ends_now_and_a_frozen_one_is_killed(jobs: Jobs) -> None:  # noqa: F811
    deaf, frozen = jobs.start("deaf", LONG), jobs.start("deaf", LONG)
    for job in (deaf, frozen):
        jobs.reach(job.id, "running")
    assert stop_job(deaf.id).state == "stopping"
    assert stop_job(deaf.id, now=True, cancel=True).state == "cancelled"
    os.kill(jobs.pid(frozen.id), signal.SIGSTOP)
    assert jobs.get(frozen.id).state == "running"
    ended = stop_job(frozen.id, now=True)
    assert (ended.state, ended.attempts[0].cause) == ("stopped", "asked")
    # A process that was killed holds its lock until the kernel has taken it down.
    until(lambda: holder(jobs.folder(frozen.id).lock_file) is None)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_run_ends_by_a_signal_where_the_disk_takes_no_wish(
    jobs: Jobs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    def refuse(step: str, path: Path) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setenv("QLORA_JOBS_AT_ONCE", "2")
    gentle, killed = (jobs.reach(jobs.start(kind, LONG).id, "running") for kind in ("good", "deaf"))
    waiting = jobs.start()
    jobs.pid(waiting.id)
    with monkeypatch.context() as patched:
        patched.setattr(durable, "reached", refuse)
        with pytest.raises(MachineError, match="the job goes on"):
            stop_job(waiting.id, now=True)
        told = stop_job(killed.id, now=True)
        assert "got the signal SIGTERM" in stop_job(gentle.id).warnings[-1]
    assert (told.state, told.attempts[0].cause) == ("interrupted", "killed")
    assert "the run was killed" in told.warnings[-1]
    ended = jobs.ended(gentle.id)
    assert (ended.state, ended.attempts[0].cause) == ("interrupted", "SIGTERM")
    assert ended.last_checkpoint is not None


def test_errors_of_users_and_bugs_are_told_apart_and_no_secret_is_written(
    jobs: Jobs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_value_that_nobody_may_see")
    wrong, bug = jobs.start("wrong-data"), jobs.start("bug")
    told = jobs.ended(wrong.id)
    assert (told.state, told.exit_code, told.message, told.next_step) == (
        "failed",
        2,
        "The rows are wrong.",
        "Mend them.",
    )
    assert told.error is not None
    assert told.error["error"] == "DataError"
    crashed = jobs.ended(bug.id)
    assert (crashed.state, crashed.exit_code, crashed.message) == (
        "failed",
        1,
        "ZeroDivisionError: a bug with [secret]",
    )
    assert "Traceback" in read_log(bug.id).text
    written = [path.read_bytes() for path in jobs.space.root.rglob("*") if path.is_file()]
    assert not any(b"nobody_may_see" in content for content in written)


def test_jobs_wait_for_their_turn_in_order_and_say_what_for(
    jobs: Jobs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QLORA_JOBS_AT_ONCE", "1")
    first = jobs.reach(jobs.start(steps=LONG).id, "running")
    second, third = jobs.start(), jobs.start()
    waiting = until(lambda: status if "jobs run" in ((status := jobs.get(second.id)).waiting_for or "") else None)
    assert (waiting.state, waiting.queue_position, jobs.get(third.id).queue_position) == ("queued", 1, 2)
    stop_job(first.id)
    assert [jobs.ended(job.id).state for job in (second, third)] == ["succeeded", "succeeded"]
    assert (jobs.get(second.id).ended or "") < (jobs.get(third.id).started or "")


def test_a_waiting_process_is_light(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("QLORA_JOBS_AT_ONCE", "1")
    jobs.reach(jobs.start(steps=LONG).id, "running")
    monkeypatch.setattr(launch, "RUNNER_MODULE", "qlora_tools.jobs.runner")
    waiting = jobs.start()
    until(lambda: "jobs run" in (jobs.get(waiting.id).waiting_for or ""))
    rollup = Path(f"/proc/{jobs.pid(waiting.id)}/smaps_rollup").read_text()
    private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
    assert private < 15 * 1024
    stop_job(waiting.id)


def test_a_waiting_job_whose_process_was_killed_is_started_again_by_whoever_looks(
    jobs: Jobs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QLORA_JOBS_AT_ONCE", "1")
    first = jobs.reach(jobs.start(steps=LONG).id, "running")
    waiting, behind = jobs.start(), jobs.start()
    for _ in range(4):  # more often than a runner that cannot start would be tried
        _kill(jobs, waiting.id)
        adopt(jobs.space)
    assert jobs.get(waiting.id).state == "queued"
    jobs.pid(behind.id)
    _kill(jobs, waiting.id)
    # Nobody looks now but the runner behind it.
    jobs.pid(waiting.id)
    stop_job(first.id)
    assert jobs.ended(waiting.id).state == jobs.ended(behind.id).state == "succeeded"


def _kill(jobs: Jobs, job_id: str) -> None:  # noqa: F811
    """Kill the job's runner; another one may hold the lock in the next moment."""
    killed = jobs.pid(job_id)
    os.kill(killed, signal.SIGKILL)
    until(lambda: (found := holder(jobs.folder(job_id).lock_file)) is None or found.pid != killed)


def test_a_runner_that_cannot_start_fails_the_job_with_its_words(
    jobs: Jobs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "RUNNER_MODULE", "tests.no_such_runner")
    job = jobs.reach(jobs.start().id, "failed")
    assert job.message is not None
    assert "The runner cannot start: 3 launches" in job.message
    assert "no_such_runner" in job.message


def test_a_job_outlives_whoever_started_it_and_a_restart_of_the_machine_is_told(jobs: Jobs) -> None:  # noqa: F811
    config = jobs.directory / "config.json"
    config.write_text(jobs.config(steps=LONG).model_dump_json())
    code = (
        "import sys, os, pathlib\n"
        "from qlora_tools.config import load_config\n"
        "from qlora_tools.jobs import launch, start_training\n"
        "launch.RUNNER_MODULE = 'tests.job_trial'\n"
        "print(start_training(load_config(pathlib.Path(sys.argv[1]))).id, flush=True)\n"
        "os.kill(0, 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(config)], capture_output=True, text=True, check=False, start_new_session=True
    )
    job_id = done.stdout.strip()
    assert done.returncode == -signal.SIGKILL
    jobs.reach(job_id, "running")
    started = jobs.folder(job_id).attempt(1).started_file
    started.write_text(json.dumps({**json.loads(started.read_text()), "boot_id": "another"}))
    os.kill(jobs.pid(job_id), signal.SIGKILL)
    ended = jobs.ended(job_id)
    assert (ended.state, ended.attempts[0].cause) == ("interrupted", "restart")


def test_of_many_who_resume_at_once_one_attempt_comes(jobs: Jobs) -> None:  # noqa: F811
    job = jobs.reach(jobs.start(steps=LONG).id, "running")
    stop_job(job.id)
    jobs.ended(job.id)
    attempts: list[int] = []

    def resume() -> None:
        try:
            attempts.append(resume_job(job.id).attempt)
        except UsageError as error:
            assert "it has not ended" in error.message

    threads = [threading.Thread(target=resume) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(attempts) == {2}
    assert len(jobs.get(job.id).attempts) == 2
    stop_job(job.id, now=True)


def test_two_runners_of_one_attempt_do_its_work_once(jobs: Jobs) -> None:  # noqa: F811
    job = jobs.start(steps=20)
    folder = jobs.folder(job.id)
    launch.launch(folder, folder.attempt(1))
    assert jobs.ended(job.id).state == "succeeded"
    assert read_log(job.id).text.count("Training") == 1


def test_a_lock_is_seen_by_others_and_free_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    code = (
        "import sys, time, pathlib\n"
        "from qlora_tools.jobs.locks import hold\n"
        "print(hold(pathlib.Path(sys.argv[1])), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        found = holder(path)
        assert found is not None
        assert found.pid == child.pid
        child.kill()
    assert holder(path) is None
    with exclusive(path):
        pass


def test_where_nothing_can_be_written_the_truth_is_told_all_the_same(
    jobs: Jobs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(step: str, path: Path) -> None:
        raise OSError(errno.EROFS, "read-only")

    job = jobs.reach(jobs.start(steps=LONG).id, "running")
    with monkeypatch.context() as patched:
        patched.setattr(durable, "reached", refuse)
        os.kill(jobs.pid(job.id), signal.SIGKILL)
        assert jobs.ended(job.id).state == "interrupted"
        assert list_jobs().jobs[0].state == "interrupted"
        assert not jobs.folder(job.id).attempt(1).exit_file.exists()
    assert jobs.get(job.id).state == "interrupted"
    assert jobs.folder(job.id).attempt(1).exit_file.exists()


def test_a_job_whose_checkpoints_are_all_damaged_or_gone_begins_again_only_when_asked(jobs: Jobs) -> None:  # noqa: F811
    job = jobs.start("saving", steps=400)
    until(lambda: jobs.get(job.id).last_checkpoint)
    stop_job(job.id, workspace=jobs.directory)
    assert jobs.ended(job.id).state == "stopped"
    kept = Path(jobs.get(job.id).output_directory) / "checkpoints"
    for one in kept.iterdir():
        (one / "state.json").write_text("{}")
    with pytest.raises(UsageError, match=r"None of them is whole \(step-\d+: state.json has") as refused:
        resume_job(job.id, workspace=jobs.directory)
    assert "--from-start" in refused.value.next_step
    kept.parent.rename(kept.parent.with_name("elsewhere"))
    with pytest.raises(UsageError, match="is gone"):
        resume_job(job.id, workspace=jobs.directory)
    assert jobs.get(job.id).attempt == 1
    again = resume_job(job.id, from_start=True, workspace=jobs.directory)
    assert (again.attempt, again.attempts[-1].resumed_from) == (2, None)
    stop_job(job.id, workspace=jobs.directory)


def test_a_change_that_would_make_another_run_is_refused_before_an_attempt_is_made(jobs: Jobs) -> None:  # noqa: F811
    job = jobs.start("saving", steps=400)
    until(lambda: jobs.get(job.id).last_checkpoint)
    stop_job(job.id, workspace=jobs.directory)
    assert jobs.ended(job.id).state == "stopped"
    with pytest.raises(ConfigError, match=r"lora\.rank: was 16 and is 4; it cannot change"):
        resume_job(job.id, changes={"lora.rank": 4}, workspace=jobs.directory)
    with pytest.raises(UsageError, match="keeps its output directory"):
        resume_job(job.id, changes={"output.directory": "other"}, workspace=jobs.directory)
    assert jobs.get(job.id).attempt == 1
    changed = resume_job(job.id, changes={"training.learning_rate": 1e-5}, workspace=jobs.directory)
    assert changed.attempt == 2
    stop_job(job.id, workspace=jobs.directory)


def test_a_waiting_job_that_was_copied_here_is_not_started_and_can_be_resumed(jobs: Jobs, tmp_path: Path) -> None:  # noqa: F811
    first = jobs.start("good", steps=1)
    get_job(first.id, wait_seconds=60, workspace=jobs.directory)
    waiting = jobs.folder(first.id).attempt(1)
    for path in (waiting.started_file, waiting.exit_file, waiting.launches_file):
        path.unlink()
    shutil.copytree(jobs.space.root, tmp_path / "copy" / ".qlora")
    copied = Jobs(tmp_path / "copy")
    put(copied.space, Ticket(1, first.id, 1))
    status = get_job(first.id, workspace=copied.directory)
    assert (status.state, status.attempts[0].cause) == ("interrupted", "elsewhere")
    assert not copied.folder(first.id).attempt(1).launches_file.exists()
    assert "copied or unpacked" in str(status.message)
