"""Jobs tell the truth: states from files and a lock, verdicts that never change, and nothing that is lost."""

import errno
import json
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from qlora_tools import durable
from qlora_tools.checkpoints import write_checkpoint
from qlora_tools.cli.job_screen import line_of
from qlora_tools.errors import DataError, ModelError, RunStopped, UsageError
from qlora_tools.hiding import HidingStream, hidden_secrets
from qlora_tools.jobs import get_job, launch, list_jobs, prune_jobs, resume_job, running, start_training, stop_job
from qlora_tools.jobs.admission import Running, Turn, Wait, choose
from qlora_tools.jobs.adoption import adopt, tend
from qlora_tools.jobs.devices import Device, Host, devices_here, may_have_gpu
from qlora_tools.jobs.facts import AttemptFacts
from qlora_tools.jobs.layout import Ticket
from qlora_tools.jobs.logs import read_log_file, shorten_log
from qlora_tools.jobs.states import needs_verdict, state_of
from qlora_tools.jobs.turns import Queue
from qlora_tools.jobs.verdicts import end_unstarted, make_spare, verdict, write_verdict

from .job_workspace import Jobs, jobs  # noqa: F401 - the fixture

GIB = 2**30
BEGAN = {"began": True}


@pytest.fixture
def still(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Jobs:  # noqa: F811
    """A workspace in which no runner starts."""
    monkeypatch.setattr(launch, "_start", lambda *arguments: os.getpid())
    return jobs


def facts(**parts: object) -> AttemptFacts:
    return AttemptFacts(**{"number": 1, "request": {}, **parts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "state"),
    [
        ({}, "queued"),
        ({"alive": True}, "queued"),
        ({"started": BEGAN, "alive": True}, "starting"),
        ({"started": BEGAN, "alive": True, "stepping": True}, "running"),
        ({"started": BEGAN, "alive": True, "stepping": True, "stop": {"kind": "stop"}}, "stopping"),
        ({"started": BEGAN}, "interrupted"),
        ({"started": BEGAN, "stop": {"kind": "stop"}}, "interrupted"),
        ({"started": BEGAN, "stop": {"kind": "stop"}, "stop_now": {}}, "stopped"),
        ({"started": BEGAN, "stop": {"kind": "cancel"}}, "cancelled"),
        ({"started": BEGAN, "stop": {"kind": "stop"}, "cancel": {}}, "cancelled"),
        ({"started": BEGAN, "exit": {"state": "succeeded"}, "alive": True, "stop": {}}, "succeeded"),
        ({"started": {"began": False, "verdict": {"state": "cancelled"}}}, "cancelled"),
        ({"started": BEGAN, "exit": {"damaged": True}}, "interrupted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value) or "nothing",
)
def test_the_state_follows_from_what_lies_there(parts: dict[str, object], state: str) -> None:
    assert state_of(facts(**parts)) == state


def test_only_an_ended_attempt_without_a_verdict_needs_one() -> None:
    assert needs_verdict(facts(started=BEGAN))
    assert not needs_verdict(facts(started=BEGAN, alive=True))
    assert not needs_verdict(facts(started=BEGAN, exit={"state": "failed"}))
    assert not needs_verdict(facts())


def test_a_verdict_never_changes(still: Jobs) -> None:
    attempt = still.folder(still.start().id).attempt(1)
    first = write_verdict(attempt, verdict("failed", 4, "first", "mend"))
    second = write_verdict(attempt, verdict("succeeded", 0, "second", "go on"))
    assert first == second
    assert first["message"] == "first"
    assert not attempt.spare_file.exists()


def test_a_full_disk_still_takes_the_verdict(still: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(step: str, path: Path) -> None:
        if step == "create":
            raise OSError(errno.ENOSPC, "full")

    attempt = still.folder(still.start().id).attempt(1)
    monkeypatch.setattr(durable, "reached", full)
    result = {
        "losses": [number / 7 for number in range(20_000)],
        "evaluation_losses": dict.fromkeys(map(str, range(9_000)), 1.0),
    }
    parts = {"result": {**result, "steps": 20_000, "smoke_answer": None}, "error": {"error": "DiskSpaceError"}}
    written = write_verdict(attempt, verdict("failed", 4, 'it said "no" ' + "m" * 200_000, "mend", **parts))
    assert (written["state"], written["exit_code"]) == ("failed", 4)
    told = still.get("last")
    assert told.state == "failed"
    assert (told.message or "").startswith('it said "no" mmm')
    assert "the disk was full" in (told.message or "")
    assert told.result is not None
    assert (told.result["steps"], told.result["losses"][0], told.result["losses"][-1]) == (20_000, 0.0, 19_999 / 7)
    assert len(told.result["evaluation_losses"]) < 9_000
    assert [path.name for path in attempt.path.iterdir() if "partial" in path.name] == []


def test_an_attempt_that_ends_before_it_saves_names_the_checkpoint_of_the_one_before(still: Jobs) -> None:
    job = still.start()
    folder = still.folder(job.id)
    checkpoint = write_checkpoint(Path(job.output_directory), 4, lambda directory: None)
    ending = running.Ending(folder, folder.attempt(1))
    verdicts = [ending._verdict_of(error) for error in (RunStopped(0, None), DataError("Wrong.", next_step="Mend."))]
    verdicts += [ending._verdict_of(ZeroDivisionError()), launch._cannot_start(folder, folder.attempt(1), [{}])]
    for document in verdicts:
        assert "begins again" not in document["next_step"]
        assert str(checkpoint) in document["next_step"]
    durable.write_once(folder.attempt(1).started_file, durable.as_json(BEGAN))
    dead = still.get(job.id)
    assert (dead.state, dead.last_checkpoint) == ("interrupted", str(checkpoint))
    assert f"it goes on from {checkpoint}" in dead.next_step


DEEP = '{"error": ' + '{"a": ' * 500 + "1" + "}" * 501
# Files of a job that ended, and of one that began and is dead, with what is wrong in them.
WRONG = [
    (
        "status.json",
        '{"attempt": 1, "step": "abc", "loss": NaN, "warnings": [5], "updated": "soon", "memory_bytes": 1e400}',
    ),
    ("plan.json", '{"name": 5, "output_directory": 5, "created": null, "needed_bytes": "x", "model": {}}'),
    ("attempt-001/request.json", '{"changes": 5, "sequence": "first", "resume_from": [1]}'),
    ("attempt-001/started.json", '{"began": true, "memory_kills": {"file": 5}, "when": 7}'),
    ("attempt-001/started.json", '{"began": false, "verdict": 5}'),
    ("attempt-001/started.json", '{"began": true, "memory_kills": 5}'),
    ("attempt-001/exit.json", '{"state": "stopped", "message": 5, "next_step": 7, "exit_code": "x", "ended": 3}'),
    ("attempt-001/exit.json", '{"state": "succeeded", "message": "\\ud800", "result": {"adapter_directory": 5}}'),
    ("attempt-001/exit.json", "[" * 200_000),
    ("attempt-001/exit.json", DEEP),
    ("attempt-001/exit.json", None),
    ("attempt-001/launches.jsonl", '[]\n{"event": "launched", "time": "x"}\n5\n'),
    ("log.txt", None),
]


@pytest.mark.parametrize(("name", "content"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_file_spoils_no_other_job_nor_a_runner_behind(name: str, content: str | None, still: Jobs) -> None:
    spoilt, other = still.start(), still.start()
    folder, behind = still.folder(spoilt.id), still.folder(other.id)
    if "exit" not in name and "launches" not in name:
        durable.write_once(folder.attempt(1).started_file, durable.as_json(BEGAN))
    path = folder.path / name
    path.unlink(missing_ok=True)
    path.mkdir() if content is None else path.write_text(content)
    waiting = Queue(still.space, behind, behind.attempt(1))
    for ticket in waiting._ahead():
        tend(still.space, ticket)
    assert isinstance(waiting._decide({}, {}), Turn | Wait)
    found = {job.id: job for job in list_jobs().jobs}
    assert found.keys() == {spoilt.id, other.id}
    for job in (found[spoilt.id], still.get(spoilt.id)):
        job.model_dump_json()
        line_of(job)
        assert job.next_step
        if job.state in ("interrupted", "stopped"):
            assert f"qlora resume {job.id}" in job.next_step
            assert "--follow" not in job.next_step
        if name.endswith("exit.json") and "state" not in (content or ""):
            assert "Its exit.json cannot be read" in (job.message or "")
    assert list_jobs().total == 2


def test_a_job_that_cannot_be_read_at_all_is_told_as_that_and_left_alone(still: Jobs) -> None:
    looping, empty, other = still.start(), still.start(), still.start()
    shutil.rmtree(still.folder(looping.id).path)
    still.folder(looping.id).path.symlink_to(still.folder(looping.id).path)
    shutil.rmtree(still.folder(empty.id).attempt(1).path)
    adopt(still.space)
    found = {job.id: job for job in list_jobs().jobs}
    assert found.keys() == {looping.id, empty.id, other.id}
    for job_id in (looping.id, empty.id):
        assert found[job_id].state == "interrupted"
        assert "Its files cannot be read" in (found[job_id].message or "")
        assert f"jobs/{job_id}" in found[job_id].next_step
        assert still.get(job_id[:9]).message == found[job_id].message
    assert still.get(other.id).state == "queued"
    still.folder(looping.id).path.unlink()


def test_a_file_in_the_place_of_the_queue_is_set_aside(still: Jobs) -> None:
    waiting = still.start()
    shutil.rmtree(still.space.active)
    still.space.active.write_text("")
    assert [(job.id, job.queue_position) for job in list_jobs().jobs] == [(waiting.id, 1)]


def test_of_starting_and_stopping_a_waiting_job_one_wins(still: Jobs) -> None:
    attempt = still.folder(still.start().id).attempt(1)
    durable.write_once(attempt.started_file, durable.as_json(BEGAN))
    assert end_unstarted(attempt, verdict("stopped", 130, "too late", "")) is None
    assert not attempt.exit_file.exists()


def test_a_waiting_job_that_is_stopped_ends_at_once_and_can_be_resumed(still: Jobs) -> None:
    job = still.start()
    assert stop_job(job.id).state == "stopped"
    assert list(still.space.active.iterdir()) == []
    again = resume_job(job.id)
    assert (again.id, again.attempt, again.state) == (job.id, 2, "queued")
    assert [attempt.state for attempt in again.attempts] == ["stopped", "queued"]


def test_what_was_cancelled_or_runs_is_not_resumed(still: Jobs) -> None:
    job = still.start()
    with pytest.raises(UsageError, match="it has not ended"):
        resume_job(job.id)
    assert stop_job(job.id, cancel=True).state == "cancelled"
    with pytest.raises(UsageError, match="was cancelled"):
        resume_job(job.id)


def test_a_key_starts_one_job_for_one_request(still: Jobs) -> None:
    config = still.config()
    first = start_training(config, idempotency_key="a", workspace=still.directory)
    assert start_training(config, idempotency_key="a", workspace=still.directory).id == first.id
    with pytest.raises(UsageError, match="used for another request"):
        start_training(still.config(), idempotency_key="a", workspace=still.directory)
    assert list_jobs().total == 1


CRASHES = ("create", "write", "sync", "link", "spare", "rename")


@pytest.mark.parametrize("step", CRASHES)
def test_a_submitter_that_crashes_anywhere_leaves_one_job_for_its_key(
    step: str, still: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = still.config()
    still.start()  # the workspace is there already
    crashed = 0
    for nth in range(40):
        if _starts_with_crash(still, config, step, nth, monkeypatch):
            break
        crashed += 1
        found = start_training(config, idempotency_key="k", workspace=still.directory)
        assert found.state == "queued"
        assert sum(job.output_directory == found.output_directory for job in list_jobs().jobs) == 1
        stop_job(found.id, cancel=True)
        prune_jobs(0)
        still.start()
    assert crashed >= (1 if step in ("spare", "rename") else 2)


def _starts_with_crash(still: Jobs, config: object, step: str, nth: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Start with a crash at the nth such step; whether there were fewer of them."""
    count = iter(range(10_000))

    class Crash(BaseException): ...

    def crash(at: str, path: Path) -> None:
        if at == step and next(count) == nth:
            raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(durable, "reached", crash)
        try:
            start_training(config, idempotency_key="k", workspace=still.directory)  # type: ignore[arg-type]
        except Crash:
            return False
    return True


def test_an_output_directory_in_use_or_with_results_is_refused(still: Jobs) -> None:
    job = still.start()
    config = still.config(output=Path(job.output_directory).name)
    with pytest.raises(UsageError, match=f"The job {job.id} writes to"):
        start_training(config, workspace=still.directory)
    stop_job(job.id, cancel=True)
    (Path(job.output_directory) / "adapter").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds the results"):
        start_training(config, workspace=still.directory)


def test_a_dry_run_plans_and_writes_nothing(still: Jobs) -> None:
    planned = still.start(dry_run=True, name="tries")
    assert (planned.id, planned.state, planned.name, planned.planned_steps) == ("", "created", "tries", 3)
    assert planned.needed_bytes is not None
    assert planned.needed_bytes > 2**20
    assert not still.space.root.exists()


def test_relative_paths_mean_the_submitters_directory(still: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(still.directory)
    config = still.config()
    part = config.output.model_copy(update={"directory": "here/out"})
    job = start_training(config.model_copy(update={"output": part}), workspace=still.directory)
    assert job.output_directory == str(still.directory / "here/out")
    written = json.loads(still.folder(job.id).config_file.read_text())
    assert written["data"]["path"] == str(still.directory / "rows.jsonl")


def test_a_model_that_is_not_there_is_told_before_a_job_is_made(still: Jobs) -> None:
    config = still.config()
    (Path(config.model.name) / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        start_training(config, workspace=still.directory)
    assert list_jobs().total == 0


def test_ids_may_be_shortened_and_unknown_ones_name_the_nearest(still: Jobs) -> None:
    job = still.start()
    assert get_job(job.id[:9]).id == get_job(job.id[4:9]).id == get_job("last").id == job.id
    with pytest.raises(UsageError, match=f"Did you mean {job.id}"):
        get_job(job.id[:-2] + "zz")
    for wrong in ("../jobs", "", "job-", "x" * 500, "a\x00b"):
        if wrong != "job-":
            with pytest.raises(UsageError, match="There is no job"):
                get_job(wrong)
    still.start()
    with pytest.raises(UsageError, match="begins 2 ids"):
        get_job("job-")
    named = still.start(name="night-run").id
    with pytest.raises(UsageError, match=f"'nightrun'. Did you mean {named}\\?"):
        get_job("nightrun")


def test_lost_tickets_are_made_again_and_needless_ones_go(still: Jobs) -> None:
    waiting, ended = still.start(), still.start()
    stop_job(ended.id)
    for path in still.space.active.iterdir():
        path.unlink()
    still.space.active.rmdir()
    adopt(still.space)
    assert [path.name.split("-", 1)[1] for path in still.space.active.iterdir()] == [f"{waiting.id}.1"]
    stale = still.space.active / Ticket(1, ended.id, 1).name
    stale.touch()
    dangling = still.space.active / Ticket(2, "job-none", 1).name
    dangling.touch()
    os.utime(dangling, (0, 0))
    adopt(still.space)
    assert not stale.exists()
    assert not dangling.exists()


def test_the_index_is_only_a_cache(still: Jobs) -> None:
    ids = {still.start(name=f"job {number}").id for number in range(3)}
    for job_id in ids:
        stop_job(job_id)

    def seen() -> tuple[set[tuple[str, str]], list[str]]:
        listed = list_jobs()
        return {(job.id, job.state) for job in listed.jobs}, listed.notes

    expected = {(job_id, "stopped") for job_id in ids}
    assert seen() == seen() == (expected, [])
    still.space.index_file.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    found, notes = seen()
    assert found == expected
    assert "damaged" in notes[0]
    assert seen() == (expected, [])
    with sqlite3.connect(still.space.index_file) as other:
        other.execute("PRAGMA user_version = 99")
    assert seen() == (expected, [])
    with sqlite3.connect(still.space.index_file) as other:
        other.execute("PRAGMA user_version = 0")
    assert seen() == (expected, [])
    holding = sqlite3.connect(still.space.index_file, isolation_level=None)
    holding.execute("BEGIN EXCLUSIVE")
    still.start()
    assert len(list_jobs().jobs) == 4
    holding.close()


def test_a_list_follows_jobs_that_are_resumed_and_removed(still: Jobs) -> None:
    first, second = still.start(), still.start()
    for job in (first, second):
        stop_job(job.id)
    assert list_jobs(states=["stopped"]).total == 2
    resume_job(first.id)
    assert [job.id for job in list_jobs(states=["queued"]).jobs] == [first.id]
    assert [job.id for job in list_jobs(states=["stopped"]).jobs] == [second.id]
    assert prune_jobs(1) == []
    assert prune_jobs(0) == [second.id]
    assert [job.id for job in list_jobs().jobs] == [first.id]
    with pytest.raises(UsageError, match="is not a state"):
        list_jobs(states=["finished"])


def test_limits_and_totals_of_a_list_count_all_jobs(still: Jobs) -> None:
    for _ in range(3):
        stop_job(still.start().id)
    waiting = still.start()
    listed = list_jobs(limit=2)
    assert (len(listed.jobs), listed.total, listed.jobs[0].id) == (2, 4, waiting.id)
    assert list_jobs(limit=None).total == len(list_jobs(limit=None).jobs) == 4


HOST = Host(16 * GIB, 16 * GIB, 2)
CARD = Device("GPU-1", "GPU 0", 24 * GIB, 24 * GIB)


@pytest.mark.parametrize(
    ("needed", "running", "devices", "outcome"),
    [
        (11 * GIB, [], [CARD], Turn("GPU-1")),
        (99 * GIB, [], [CARD], Turn("GPU-1")),
        (None, [], [CARD], Turn("GPU-1")),
        (5 * GIB, [Running("a", "GPU-1", 18 * GIB)], [CARD], Turn("GPU-1")),
        (11 * GIB, [Running("a", "GPU-1", 18 * GIB)], [CARD], "GPU 0: 18.0 of 24.0 GiB taken by a, needs 11.0"),
        (None, [Running("a", "GPU-1", GIB)], [CARD], "not known"),
        (GIB, [Running("a", "GPU-1", None)], [CARD], "not known"),
        (GIB, [Running("a", "GPU-2", None)], [CARD], Turn("GPU-1")),
        (GIB, [], [], Turn(None)),
        (99 * GIB, [], [], Turn(None)),
        (GIB, [Running("a", None, GIB)], [], Turn(None)),
        (GIB, [Running("a", None, GIB), Running("b", None, GIB)], [], "2 may at once"),
        (9 * GIB, [Running("a", None, 8 * GIB)], [], "8.0 of 16.0 GiB of host memory taken by a, needs 9.0"),
    ],
)
def test_jobs_run_together_as_far_as_they_fit(
    needed: int | None, running: list[Running], devices: list[Device], outcome: Turn | str
) -> None:
    found = choose(needed, running, devices, HOST, None)
    if isinstance(outcome, str):
        assert isinstance(found, Wait)
        assert outcome in found.reason
    else:
        assert found == outcome


def test_the_card_with_the_most_free_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Device("GPU-2", "GPU 1", 24 * GIB, 20 * GIB)
    half = Device("GPU-1", "GPU 0", 24 * GIB, 12 * GIB)
    assert choose(GIB, [], [half, other], HOST, None) == Turn("GPU-2")
    assert isinstance(choose(GIB, [Running("a", "GPU-2", GIB)], [half], HOST, 1), Wait)


def test_only_the_gpus_that_the_submitter_may_see_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-aaaa, 24576, 24000'\necho '1, GPU-bbbb, 81920, [N/A]'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    first, second = devices_here(None)
    assert (first.id, first.total_bytes, second.free_bytes) == ("GPU-aaaa", 24 * GIB, None)
    assert devices_here("1, 0") == [second, first]
    assert devices_here("GPU-b") == [second]
    assert devices_here("0,7,1") == [first]
    assert [device.id for device in devices_here("MIG-12")] == ["MIG-12"]
    assert not may_have_gpu("")
    assert not may_have_gpu("-1")


def test_secrets_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from qlora_tools import hiding

    monkeypatch.setenv("MY_API_KEY", "correct-horse-battery")
    monkeypatch.setenv("SSL_KEY_FILE", "/etc/keys/private")
    hiding._values.cache_clear()
    token = "hf_" + "a1B2" * 8
    assert hidden_secrets(f"a correct-horse-battery {token} /etc/keys/private") == (
        "a [secret] [secret] /etc/keys/private"
    )
    with (tmp_path / "log").open("w") as file:
        stream = HidingStream(file)
        for piece in ("a corr", "ect-horse-", "battery\nb"):
            stream.write(piece)
        stream.finish()
    assert (tmp_path / "log").read_text() == "a [secret]\nb"
    hiding._values.cache_clear()


def test_a_long_log_loses_its_middle(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("first\n" + "middle\n" * 20_000 + "last\n")
    assert not shorten_log(path, 1_000_000)
    assert shorten_log(path, 64_000)
    text = path.read_text()
    assert text.startswith("first\n")
    assert text.endswith("last\n")
    assert "bytes of the log were taken out here" in text
    assert len(text) < 40_000
    part = read_log_file(path, lines=1)
    assert (part.text, part.next_byte) == ("last\n", path.stat().st_size)
    assert read_log_file(path, since=10**9).text == ""


def test_lines_that_come_while_a_log_is_shortened_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.txt"
    path.write_text("old\n" * 40_000)
    read = os.pread

    def pread_while_others_write(descriptor: int, size: int, offset: int) -> bytes:
        content = read(descriptor, size, offset)
        if content.endswith(b"old\n"):
            with path.open("a") as other:
                other.write("came meanwhile\n")
        return content

    monkeypatch.setattr(os, "pread", pread_while_others_write)
    assert shorten_log(path, 64_000)
    assert path.read_text().endswith("old\ncame meanwhile\n")


def test_threads_share_a_stream_and_a_log_without_losing_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    lines = [[f"{thread} {number}" for number in range(1_500)] for thread in range(4)]
    with path.open("a") as file:
        stream = HidingStream(file)

        def write(own: list[str]) -> None:
            for line in own:
                stream.write(f"{line}\n")

        threads = [threading.Thread(target=write, args=(own,)) for own in lines]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            shorten_log(path, 24_000)
        stream.finish()
    written = path.read_text()
    assert "were taken out here" in written
    # What came last is never cut out.
    whole = [line.split() for line in written.splitlines()[-400:]]
    for own in range(4):
        numbers = [int(words[1]) for words in whole if words[0] == str(own)]
        assert numbers == [*range(1_500)][1_500 - len(numbers) :]


def test_a_spare_file_has_real_bytes(still: Jobs) -> None:
    attempt = still.folder(still.start().id).attempt(1)
    attempt.spare_file.unlink()
    make_spare(attempt)
    assert attempt.spare_file.stat().st_blocks * 512 >= attempt.spare_file.stat().st_size > 0
