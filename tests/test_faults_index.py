"""Faults of the index: whatever is wrong with that file, the list tells of every job, once, as its folder has it."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qlora_tools.jobs import get_job, index, launch, list_jobs, resume_job, stop_job
from qlora_tools.jobs.verdicts import verdict, write_verdict

from .finished_jobs import write_finished_jobs
from .job_workspace import Jobs, jobs  # noqa: F401 - the fixture


@pytest.fixture
def still(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Jobs:  # noqa: F811
    """A workspace in which no runner starts, and no write waits for the disk: no machine crashes here."""
    monkeypatch.setattr(launch, "_start", lambda *arguments: os.getpid())
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return jobs


def ended(still: Jobs) -> str:
    job = still.start()
    return stop_job(job.id).id


def told() -> dict[str, str]:
    """All jobs by their states; none twice."""
    found = list_jobs(limit=None)
    assert len({job.id for job in found.jobs}) == len(found.jobs) == found.total
    return {job.id: job.state for job in found.jobs}


def index_all(still: Jobs) -> None:
    """Let the index be as new as it gets: it is not held to be so while the folders are younger than two seconds."""
    os.utime(still.space.jobs, (1, 1))
    told()


@contextmanager
def writer(still: Jobs) -> Iterator[None]:
    """Another process's write to the index that does not end."""
    other = sqlite3.connect(still.space.index_file, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


def test_while_the_index_is_being_written_by_another_no_job_is_missing_or_told_twice(still: Jobs) -> None:
    resumed, kept = ended(still), ended(still)
    index_all(still)
    with writer(still):
        late, waiting = ended(still), still.start().id
        resume_job(resumed)
        expected = {resumed: "queued", kept: "stopped", late: "stopped", waiting: "queued"}
        assert told() == told() == expected
        assert {job.id for job in list_jobs(states=["stopped"]).jobs} == {kept, late}
        assert [job.id for job in list_jobs(limit=1).jobs] == [waiting]
    assert told() == expected


def test_an_index_that_cannot_be_written_hides_no_job(still: Jobs) -> None:
    first = ended(still)
    index_all(still)
    with sqlite3.connect(still.space.index_file) as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON finished BEGIN SELECT RAISE(ABORT, 'full'); END")
    later = ended(still)
    assert told() == told() == {first: "stopped", later: "stopped"}


def _random_bytes(path: Path) -> None:
    path.write_bytes(random.Random(3).randbytes(path.stat().st_size))


def _middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(4096, len(content), 97):
        content[place] ^= 0xFF
    path.write_bytes(content)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "random bytes": _random_bytes,
    "flipped bits behind the header": _middle,
    "half of it": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "no database": lambda path: path.write_bytes(b"hello"),
    "gone": lambda path: path.unlink(),
    "a folder": _folder,
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("/nowhere/at/all")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_made_anew_or_done_without(damage: str, still: Jobs) -> None:
    expected = {ended(still): "stopped" for _ in range(3)}
    index_all(still)
    held = sqlite3.connect(still.space.index_file)
    held.execute("SELECT count(*) FROM finished").fetchone()
    DAMAGES[damage](still.space.index_file)
    expected[ended(still)] = "stopped"
    assert told() == told() == expected
    held.close()
    assert told() == expected


@pytest.mark.parametrize("version", [0, 99], ids=["an older version", "a newer version"])
def test_an_index_of_another_version_is_migrated_or_left_alone(version: int, still: Jobs) -> None:
    expected = {ended(still): "stopped"}
    index_all(still)
    with sqlite3.connect(still.space.index_file) as other:
        other.execute("DROP TABLE finished")
        other.execute("CREATE TABLE finished (something TEXT)")
        other.execute(f"PRAGMA user_version = {version}")
    expected[ended(still)] = "stopped"
    assert told() == told() == expected
    with sqlite3.connect(still.space.index_file) as other:
        assert other.execute("PRAGMA user_version").fetchone()[0] == (version or index._VERSION)


def test_jobs_that_end_and_are_resumed_while_others_look_are_in_every_list_once(still: Jobs) -> None:
    ids = {ended(still) for _ in range(8)}
    finished = threading.Event()
    wrong: list[object] = []

    def look() -> None:
        while not finished.is_set():
            found = [job.id for job in list_jobs(limit=None).jobs]
            if sorted(found) != sorted(ids):
                wrong.append(sorted(found))

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for thread in lookers:
        thread.start()
    for number in range(20):
        job_id = sorted(ids)[number % 8]
        resume_job(job_id)
        stop_job(job_id)
        if number % 5 == 0:
            still.space.index_file.unlink(missing_ok=True)
    finished.set()
    for thread in lookers:
        thread.join()
    assert wrong == []


_LOOK = """
import sys, pathlib
from qlora_tools.jobs import list_jobs
for _ in range(int(sys.argv[2])):
    found = list_jobs(limit=None, workspace=pathlib.Path(sys.argv[1]))
    assert len(found.jobs) == found.total == int(sys.argv[3]), (len(found.jobs), found.total)
"""


@pytest.mark.process
def test_processes_that_are_killed_while_they_make_the_index_leave_one_that_others_can_use(still: Jobs) -> None:
    write_finished_jobs(still.space, 200)
    looking = [sys.executable, "-c", _LOOK, str(still.directory)]
    for _ in range(2):
        for ending in ("", "-journal"):
            Path(f"{still.space.index_file}{ending}").unlink(missing_ok=True)
        killed = [subprocess.Popen([*looking, "1000", "200"], stderr=subprocess.PIPE) for _ in range(2)]
        deadline = time.monotonic() + 30
        while not still.space.index_file.exists():
            assert time.monotonic() < deadline
        for process in killed:
            process.kill()
            assert b"Error" not in process.communicate()[1]
        assert len(told()) == 200


def test_a_thousand_finished_jobs_are_listed_and_told_in_a_moment(still: Jobs) -> None:
    ids = write_finished_jobs(still.space, 1000)
    index_all(still)
    assert list_jobs().total == 1000
    assert get_job(ids[500]).state == "succeeded"
    # Fifty times what it takes on two quiet cores; a look at every folder would take longer.
    assert min(_seconds(list_jobs) + _seconds(lambda: get_job(ids[500])) for _ in range(5)) < 0.5


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def test_a_folder_of_tickets_that_is_gone_is_made_again_from_the_jobs(still: Jobs) -> None:
    finished, waiting = ended(still), still.start().id
    shutil.rmtree(still.space.active)
    assert told() == {finished: "stopped", waiting: "queued"}
    assert len(list(still.space.active.iterdir())) == 1


def test_a_verdict_that_another_wrote_is_seen_by_a_warm_index_at_once(still: Jobs) -> None:
    done, waiting = ended(still), still.start().id
    index_all(still)
    attempt = still.folder(waiting).attempt(1)
    attempt.started_file.write_text('{"began": true}')
    write_verdict(attempt, verdict("succeeded", 0, "done", ""))
    assert told() == {done: "stopped", waiting: "succeeded"}


def test_a_list_by_state_has_jobs_that_were_resumed_and_ended_while_nobody_looked(still: Jobs) -> None:
    job_id, other = ended(still), ended(still)
    index_all(still)
    resume_job(job_id)
    attempt = still.folder(job_id).attempt(2)
    attempt.started_file.write_text('{"began": true}')
    write_verdict(attempt, verdict("succeeded", 0, "done", ""))
    assert get_job(job_id).state == "succeeded"
    assert [(job.id, job.attempt) for job in list_jobs(states=["succeeded"]).jobs] == [(job_id, 2)]
    assert [job.id for job in list_jobs(states=["stopped"]).jobs] == [other]
    assert list_jobs(states=["stopped"]).total == list_jobs(states=["succeeded"]).total == 1
