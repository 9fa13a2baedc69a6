"""Real runners and real servers, killed in every state: whoever looks afterwards is told what happened, and it stays so."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from qlora_tools.checkpoints import last_complete
from qlora_tools.errors import UsageError
from qlora_tools.jobs import JobStatus, launch, list_jobs, read_log, resume_job, start_training, stop_job
from qlora_tools.jobs.clock import process_started
from qlora_tools.jobs.locks import holder
from qlora_tools.jobs.logs import MOST_BYTES

from .fault_trial import FLOOD_BYTES
from .job_workspace import Jobs, jobs, until  # noqa: F401 - the fixture

pytestmark = pytest.mark.process


@pytest.fixture
def faulty(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Jobs:  # noqa: F811
    """A workspace whose runners do the works of `fault_trial`."""
    monkeypatch.setattr(launch, "RUNNER_MODULE", "tests.fault_trial")
    return jobs


def output_of(job: JobStatus) -> Path:
    return Path(job.output_directory)


def go_on(job: JobStatus) -> None:
    output_of(job).mkdir(exist_ok=True)
    (output_of(job) / "go").touch()


def kill(jobs: Jobs, job_id: str) -> None:  # noqa: F811
    os.kill(jobs.pid(job_id), signal.SIGKILL)
    until(lambda: holder(jobs.folder(job_id).lock_file) is None)


def in_state(faulty: Jobs, state: str) -> JobStatus:
    """A job in that state, and there to stay."""
    work = {"starting": "loading", "saving": "saving"}.get(state, "stepping")
    job = faulty.start(work)
    if state == "saving":
        until(lambda: (output_of(job) / "in the save").exists())
        return faulty.get(job.id)
    faulty.reach(job.id, "starting" if state == "starting" else "running")
    if state in ("stopping", "cancelling"):
        stop_job(job.id, cancel=state == "cancelling")
        return faulty.reach(job.id, "stopping")
    return faulty.get(job.id)


VERDICTS = {
    "starting": "interrupted",
    "running": "interrupted",
    "stopping": "interrupted",
    "cancelling": "cancelled",
    "saving": "interrupted",
}


@pytest.mark.parametrize("state", VERDICTS)
def test_a_runner_that_is_killed_in_any_state_gets_a_verdict_that_stays(state: str, faulty: Jobs) -> None:
    job = in_state(faulty, state)
    kill(faulty, job.id)
    dead = faulty.get(job.id)
    assert (dead.state, dead.attempts[0].cause) == (VERDICTS[state], "killed")
    assert faulty.get(job.id) == dead
    assert [(one.id, one.state) for one in list_jobs().jobs] == [(job.id, dead.state)]
    if state == "cancelling":
        with pytest.raises(UsageError, match="was cancelled"):
            resume_job(job.id)
        return
    again = resume_job(job.id)
    assert (again.attempt, again.attempts[0].state) == (2, "interrupted")
    expected = str(output_of(job) / "checkpoints" / "step-1") if state == "saving" else None
    assert again.attempts[1].resumed_from == expected
    stop_job(job.id, now=True)
    assert [one.state for one in faulty.get(job.id).attempts] == ["interrupted", "stopped"]


def test_a_runner_that_is_killed_after_its_verdict_changes_nothing(faulty: Jobs) -> None:
    job = faulty.start("loading")
    faulty.reach(job.id, "starting")
    pid = faulty.pid(job.id)
    go_on(job)
    ended = faulty.ended(job.id)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until(lambda: holder(faulty.folder(job.id).lock_file) is None)
    assert faulty.get(job.id) == ended
    assert ended.state == "succeeded"
    until(lambda: faulty.get(job.id) and not list(faulty.space.active.iterdir()))


def test_a_second_stop_changes_nothing_and_a_harder_wish_counts(faulty: Jobs) -> None:
    job = in_state(faulty, "running")
    stop_file = faulty.folder(job.id).attempt(1).stop_file
    assert stop_job(job.id).state == "stopping"
    wish = stop_file.read_bytes()
    assert stop_job(job.id).state == "stopping"
    assert stop_file.read_bytes() == wish
    assert stop_job(job.id, cancel=True, now=True).state == "cancelled"
    ended = faulty.get(job.id)
    assert stop_job(job.id) == stop_job(job.id, now=True) == ended


def test_a_stop_during_a_save_ends_with_that_checkpoint_whole(faulty: Jobs) -> None:
    job = in_state(faulty, "saving")
    assert stop_job(job.id).state == "stopping"
    go_on(job)
    ended = faulty.ended(job.id)
    assert ended.state == "stopped"
    assert (
        last_complete(output_of(job)) == Path(ended.last_checkpoint or "") == output_of(job) / "checkpoints" / "step-2"
    )


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us, and must live."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_process_that_got_the_number_of_a_dead_runner_is_no_runner_and_is_not_killed(
    faulty: Jobs, bystander: subprocess.Popen[bytes]
) -> None:
    job = in_state(faulty, "running")
    started = faulty.folder(job.id).attempt(1).started_file
    kill(faulty, job.id)
    taken = {"pid": bystander.pid, "process_started": process_started(bystander.pid)}
    started.write_text(json.dumps({**json.loads(started.read_text()), **taken}))
    assert stop_job(job.id, now=True).state == "interrupted"
    assert bystander.poll() is None


def test_a_waiting_runner_whose_number_another_process_got_is_started_again(
    faulty: Jobs, bystander: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(launch, "_start", lambda *arguments: bystander.pid)
        job = faulty.start("loading")
    launches = faulty.folder(job.id).attempt(1).launches_file
    line = json.loads(launches.read_text())
    assert line["process"] == process_started(bystander.pid)
    launches.write_text(json.dumps({**line, "process": "1"}) + "\n")
    assert faulty.reach(job.id, "starting").attempt == 1
    assert bystander.poll() is None


def test_a_child_that_outlives_its_killed_runner_does_not_make_it_look_alive(faulty: Jobs) -> None:
    job = faulty.start("with-a-child")
    faulty.reach(job.id, "running")
    child = int(until(lambda: (output_of(job) / "child").exists() and (output_of(job) / "child").read_text()))
    kill(faulty, job.id)
    assert process_started(child)
    assert faulty.get(job.id).state == "interrupted"
    go_on(job)
    until(lambda: not process_started(child))


def test_a_flooded_log_is_cut_while_the_run_goes_on_and_keeps_both_ends(faulty: Jobs) -> None:
    job = faulty.start("flood")
    log = faulty.folder(job.id).log_file
    until(
        lambda: (faulty.folder(job.id).attempt(1).events_file.exists()) and "after the flood" in read_log(job.id).text
    )
    until(lambda: log.stat().st_size < MOST_BYTES < FLOOD_BYTES)
    assert b"before the flood" in log.read_bytes()[:2000]
    assert "after the flood" in read_log(job.id, lines=5).text
    go_on(job)
    assert faulty.ended(job.id).state == "succeeded"


def test_a_log_that_is_flooded_at_the_very_end_is_cut_too(faulty: Jobs) -> None:
    config = faulty.config("flood")
    Path(config.output.directory).mkdir()
    (Path(config.output.directory) / "go").touch()
    job = start_training(config, workspace=faulty.directory)
    assert faulty.ended(job.id).state == "succeeded"
    log = faulty.folder(job.id).log_file
    until(lambda: holder(faulty.folder(job.id).lock_file) is None)
    assert log.stat().st_size < MOST_BYTES


_SERVER = """
import sys, time, pathlib
from qlora_tools.config import load_config
from qlora_tools.jobs import launch, list_jobs, get_job, start_training
launch.RUNNER_MODULE = "tests.fault_trial"
print(start_training(load_config(pathlib.Path(sys.argv[1]))).id, flush=True)
while True:
    [get_job(job.id) for job in list_jobs().jobs]
    print("looked", flush=True)
"""


def test_servers_that_are_killed_while_they_look_take_no_job_with_them(faulty: Jobs) -> None:
    ids = []
    for _ in range(3):
        config = faulty.directory / "config.json"
        config.write_text(faulty.config("stepping").model_dump_json())
        command = [sys.executable, "-c", _SERVER, str(config)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as server:
            assert server.stdout is not None
            ids.append(server.stdout.readline().strip())
            assert server.stdout.readline() == "looked\n"
            os.killpg(server.pid, signal.SIGKILL)
    for job_id in ids:
        faulty.reach(job_id, "running")
    assert {job.id for job in list_jobs().jobs} == set(ids)
    for job_id in ids:
        go_on(faulty.get(job_id))
    assert [faulty.ended(job_id).state for job_id in ids] == ["succeeded"] * 3


def test_kills_by_a_kernel_without_memory_are_told_as_that(faulty: Jobs, tmp_path: Path) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 1\noom_kill 1\n")
    job = in_state(faulty, "running")
    started = faulty.folder(job.id).attempt(1).started_file
    kills = {"memory_kills": {"file": str(counter), "count": 1}}
    started.write_text(json.dumps({**json.loads(started.read_text()), **kills}))
    counter.write_text("low 0\noom 2\noom_kill 2\n")
    kill(faulty, job.id)
    # The runner's own status counts the kills of this machine, which are not those of the test.
    status = faulty.folder(job.id).status_file
    status.write_text(json.dumps({**json.loads(status.read_text()), "memory_kills": 1}))
    dead = faulty.get(job.id)
    assert (dead.state, dead.attempts[0].cause) == ("interrupted", "host-memory")
    assert "host memory ran out" in (dead.message or "")


@pytest.mark.parametrize("damage", ["truncated", "a bit flipped", "empty"])
@pytest.mark.parametrize("name", ["exit.json", "started.json", "plan.json", "status.json", "request.json"])
def test_a_damaged_record_makes_no_job_vanish_nor_succeed(
    damage: str, name: str, faulty: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_start", lambda *arguments: os.getpid())
    job = faulty.start("stepping")
    attempt = faulty.folder(job.id).attempt(1)
    attempt.started_file.write_text('{"began": true, "when": "2026-01-01T00:00:00.000+00:00"}')
    faulty.folder(job.id).status_file.write_text('{"attempt": 1, "step": 5}')
    assert faulty.get(job.id).state == "interrupted"
    path = next(faulty.folder(job.id).path.rglob(name))
    content = bytearray(path.read_bytes())
    changed = {"truncated": content[:-4], "empty": b"", "a bit flipped": bytes([content[0] ^ 0x10]) + content[1:]}
    path.write_bytes(changed[damage])
    told = faulty.get(job.id)
    assert (told.id, told.state) == (job.id, "interrupted")
    assert [(one.id, one.state) for one in list_jobs().jobs] == [(job.id, "interrupted")]
    if name in ("exit.json", "plan.json"):
        assert f"Its {name} cannot be read" in (told.message or "")
