"""Faults while jobs are started, resumed, stopped and removed: killed at each step, they are there whole or not at all."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools import durable
from qlora_tools.config import RunConfig
from qlora_tools.errors import QloraError, UsageError
from qlora_tools.jobs import clock, get_job, launch, list_jobs, prune_jobs, resume_job, start_training, stop_job
from qlora_tools.jobs.adoption import active_tickets, adopt
from qlora_tools.jobs.layout import Workspace
from qlora_tools.jobs.states import RESUMABLE, TERMINAL
from qlora_tools.jobs.tickets import tickets
from qlora_tools.jobs.verdicts import SPARE_BYTES, settled, verdict, write_verdict

from .crashing import crash_points
from .job_workspace import Jobs, jobs  # noqa: F401 - the fixture

BEGAN = {"began": True, "pid": 1, "when": "2026-01-01T00:00:00.000+00:00"}


@pytest.fixture
def still(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Jobs:  # noqa: F811
    """A workspace in which no runner starts, and no write waits for the disk: no machine crashes here."""
    monkeypatch.setattr(launch, "_start", lambda *arguments: os.getpid())
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return jobs


@pytest.fixture(params=[3, pytest.param(1, marks=pytest.mark.slow)], ids=["each third change", "each change"])
def stride(request: pytest.FixtureRequest) -> int:
    """How many changes of the disk lie between two crashes."""
    return int(request.param)


class Fresh:
    """A template of a workspace that is copied for each crash, which costs less than making the jobs again."""

    def __init__(self, jobs: Jobs) -> None:  # noqa: F811
        self._jobs, self._kept = jobs, jobs.directory / "kept"
        if jobs.space.root.exists():
            shutil.copytree(jobs.space.root, self._kept)

    def __call__(self) -> Path:
        root = self._jobs.space.root
        shutil.rmtree(root, ignore_errors=True)
        if self._kept.exists():
            shutil.copytree(self._kept, root)
            made_here(root)
        return self._jobs.directory


def made_here(root: Path) -> None:
    """Let the attempts of a store that was put back count as those that were made there."""
    for path in root.glob("jobs/*/attempt-*/request.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**document, "folder": path.parent.stat().st_ino}), encoding="utf-8")


def all_tickets_are_of_live_jobs(space: Workspace) -> None:
    """What `adopt` leaves: one ticket for each job without a verdict, once leftovers are old enough to be cleared."""
    adopt(space)
    unfinished = {job.id for job in list_jobs(limit=None).jobs if job.state not in TERMINAL}
    tickets_of = [ticket.job_id for ticket in active_tickets(space)] if space.jobs.is_dir() else []
    assert unfinished <= set(tickets_of)


def test_a_start_without_a_key_killed_anywhere_leaves_no_job_or_one_that_runs(still: Jobs, stride: int) -> None:
    config, fresh = still.config(), Fresh(still)
    counts = []

    def prepare() -> Callable[[], object]:
        where = fresh()
        return lambda: start_training(config, workspace=where)

    for _ in crash_points(prepare, stride):
        found = list_jobs().jobs
        counts.append(len(found))
        assert [job.state for job in found] in ([], ["queued"])
        all_tickets_are_of_live_jobs(still.space)
        if found:
            with pytest.raises(UsageError, match=f"The job {found[0].id} writes to"):
                start_training(config, workspace=still.directory)
        else:
            assert start_training(config, workspace=still.directory).state == "queued"
        assert list_jobs().total == 1
    assert counts == sorted(counts)
    assert set(counts) == {0, 1}
    assert len(counts) > 30 // stride


def test_a_start_with_a_key_killed_anywhere_and_sent_again_is_one_job(still: Jobs, stride: int) -> None:
    config = still.config()
    still.start()  # the workspace is there already
    fresh = Fresh(still)

    def prepare() -> Callable[[], object]:
        where = fresh()
        return lambda: start_training(config, workspace=where, idempotency_key="k")

    for _ in crash_points(prepare, stride):
        first = start_training(config, workspace=still.directory, idempotency_key="k")
        assert first.state == "queued"
        assert start_training(config, workspace=still.directory, idempotency_key="k").id == first.id
        assert list_jobs().total == 2
        all_tickets_are_of_live_jobs(still.space)
        assert still.folder(first.id).attempt(1).launches_file.exists()


def test_a_claimed_key_is_honoured_by_whoever_tidies_up_later(
    still: Jobs, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    config, fresh = still.config(), Fresh(still)
    later = clock.now() + 3600
    honoured = 0

    def prepare() -> Callable[[], object]:
        where = fresh()
        return lambda: start_training(config, workspace=where, idempotency_key="k")

    for _ in crash_points(prepare, stride):
        claimed = [json.loads(path.read_text())["job"] for path in still.space.keys.glob("[0-9a-f]*")]
        with monkeypatch.context() as patched:
            patched.setattr("qlora_tools.jobs.tickets.now", lambda: later)
            adopt(still.space)
            assert [job.id for job in list_jobs().jobs] == claimed
        assert not still.space.jobs.is_dir() or list(still.space.root.glob(".new-*")) == []
        honoured += len(claimed)
    assert honoured


def test_a_resume_killed_anywhere_leaves_the_old_attempt_or_one_more(still: Jobs, stride: int) -> None:
    job = still.start()
    stop_job(job.id)
    fresh = Fresh(still)
    seen = []

    def prepare() -> Callable[[], object]:
        where = fresh()
        return lambda: resume_job(job.id, workspace=where)

    for _ in crash_points(prepare, stride):
        found = get_job(job.id)
        seen.append(found.attempt)
        assert [one.state for one in found.attempts] in (["stopped"], ["stopped", "queued"])
        if found.attempt == 1:
            assert resume_job(job.id).attempt == 2
        all_tickets_are_of_live_jobs(still.space)
        assert get_job(job.id).queue_position == 1
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}


@pytest.mark.parametrize("cancel", [False, True])
def test_a_stop_of_a_waiting_job_killed_anywhere_leaves_it_waiting_or_ended(
    cancel: bool, still: Jobs, stride: int
) -> None:
    job, fresh = still.start(), Fresh(still)
    ended = "cancelled" if cancel else "stopped"
    seen = []

    def prepare() -> Callable[[], object]:
        where = fresh()
        return lambda: stop_job(job.id, cancel=cancel, workspace=where)

    for _ in crash_points(prepare, stride):
        seen.append(get_job(job.id).state)
        assert stop_job(job.id, cancel=cancel).state == ended
        assert get_job(job.id).attempts[0].cause == "asked"
        adopt(still.space)
        assert tickets(still.space) == []
    assert seen == sorted(seen, key=lambda state: state == ended)
    assert set(seen) == {"queued", ended}


def test_pruning_killed_anywhere_removes_a_job_or_does_not(still: Jobs, stride: int) -> None:
    jobs_there = [still.start(idempotency_key=key) for key in "ab"]
    for job in jobs_there:
        stop_job(job.id)
    fresh = Fresh(still)
    counts = set()

    def prepare() -> Callable[[], object]:
        where = fresh()
        return lambda: prune_jobs(0, workspace=where)

    for _ in crash_points(prepare, stride):
        found = list_jobs().jobs
        counts.add(len(found))
        assert {job.state for job in found} <= {"stopped"}
        prune_jobs(0)
        adopt(still.space)
        assert list_jobs().total == 0
        assert list(still.space.root.glob(".removed-*")) == []
    assert counts == {0, 1, 2}


def began(still: Jobs) -> str:
    """A job whose runner has begun and is gone."""
    job = still.start()
    still.folder(job.id).attempt(1).started_file.write_text(json.dumps(BEGAN))
    return job.id


@pytest.mark.parametrize("full", [False, True], ids=["room on the disk", "no room on the disk"])
def test_a_verdict_killed_anywhere_stands_whole_or_is_given_by_whoever_looks(
    full: bool, still: Jobs, stride: int
) -> None:
    job_id = began(still)
    fresh, attempt = Fresh(still), still.folder(job_id).attempt(1)
    states = []

    def write() -> None:
        if full:  # in the child alone
            durable.write_once = _no_room
        write_verdict(attempt, verdict("succeeded", 0, "done", "go on", result={"steps": 3}))

    def prepare() -> Callable[[], object]:
        fresh()
        return write

    for _ in crash_points(prepare, stride):
        first = get_job(job_id)
        states.append(first.state)
        assert (first.state, first.message) in (("succeeded", "done"), ("interrupted", first.message))
        assert get_job(job_id).model_dump() == first.model_dump()
    assert set(states) == {"interrupted", "succeeded"}


def _no_room(path: Path, content: bytes) -> None:
    raise OSError(28, "No space left on device", str(path))


def test_an_observer_killed_while_it_gives_a_verdict_leaves_it_to_the_next(still: Jobs, stride: int) -> None:
    job_id = began(still)
    fresh = Fresh(still)

    def prepare() -> Callable[[], object]:
        fresh()
        return lambda: adopt(still.space)

    for _ in crash_points(prepare, stride):
        assert get_job(job_id).state == "interrupted"
        assert get_job(job_id).state in RESUMABLE
        adopt(still.space)
        assert tickets(still.space) == []


def test_tickets_that_are_made_anew_by_one_who_is_killed_forget_no_job(still: Jobs, stride: int) -> None:
    ids = [still.start().id for _ in range(3)]
    shutil.rmtree(still.space.active)
    fresh = Fresh(still)

    def prepare() -> Callable[[], object]:
        fresh()
        return lambda: adopt(still.space)

    for _ in crash_points(prepare, stride):
        adopt(still.space)
        assert [ticket.job_id for ticket in tickets(still.space)] == ids


def _start(config: RunConfig, directory: Path, key: str | None, answers: Any) -> None:
    launch._start = lambda *arguments: os.getpid()
    try:
        answers.put(start_training(config, workspace=directory, idempotency_key=key).id)
    except QloraError as error:
        answers.put(error.message)


def at_once(times: int, config: RunConfig, directory: Path, key: str | None) -> list[str]:
    """What so many processes get that start the same at the same time."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    processes = [context.Process(target=_start, args=(config, directory, key, answers)) for _ in range(times)]
    for process in processes:
        process.start()
    found = [str(answers.get()) for _ in processes]
    for process in processes:
        process.join()
    return found


def test_many_processes_that_start_with_one_key_get_one_job(still: Jobs) -> None:
    found = at_once(6, still.config(), still.directory, "k")
    assert len(set(found)) == 1
    assert [job.id for job in list_jobs().jobs] == [found[0]]
    assert len(tickets(still.space)) == 1


def test_of_many_processes_that_start_into_one_directory_one_may(still: Jobs) -> None:
    found = at_once(6, still.config(), still.directory, None)
    (job,) = list_jobs().jobs
    assert found.count(job.id) == 1
    assert sum(f"The job {job.id} writes to" in answer for answer in found) == 5
    assert list(still.space.root.glob(".new-*")) == []


def test_a_spare_file_that_was_lost_does_not_keep_a_verdict_from_being_told(
    still: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = began(still)
    assert still.folder(job_id).attempt(1).spare_file.stat().st_size == SPARE_BYTES
    still.folder(job_id).attempt(1).spare_file.unlink()
    with monkeypatch.context() as patched:
        patched.setattr("qlora_tools.durable.write_once", _no_room)
        facts = settled(still.folder(job_id))
        assert facts is not None
        assert get_job(job_id).state == "interrupted"
        assert not still.folder(job_id).attempt(1).exit_file.exists()
    assert get_job(job_id).state == "interrupted"
    assert still.folder(job_id).attempt(1).exit_file.exists()


@pytest.mark.parametrize("leap", [-86_400.0, 86_400.0], ids=["back", "forward"])
def test_a_clock_that_leaps_changes_no_order_and_loses_no_job(
    leap: float, still: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, first = still.start(), still.start()
    stop_job(stopped.id)
    real = clock.now
    for module in ("clock", "tickets", "launch", "listing", "index", "pruning", "adoption"):
        monkeypatch.setattr(f"qlora_tools.jobs.{module}.now", lambda: real() + leap)
    second = still.start()
    for _ in range(12):
        adopt(still.space)
    assert [get_job(job.id).queue_position for job in (first, second)] == [1, 2]
    assert {job.id for job in list_jobs().jobs} == {stopped.id, first.id, second.id}
    assert {job.id: job.state for job in list_jobs().jobs}[stopped.id] == "stopped"
    assert resume_job(stopped.id).queue_position == 3
    assert list_jobs(states=["queued"]).total == 3
