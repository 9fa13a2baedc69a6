"""Disks that are full or cannot be written: real ones, of four megabytes, where a test may mount; what is told stays true."""

import errno
import os
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from qlora_tools import durable
from qlora_tools.checkpoints import last_complete, write_checkpoint
from qlora_tools.durable import replace_file, write_once
from qlora_tools.errors import DiskSpaceError, MachineError
from qlora_tools.jobs import get_job, launch, list_jobs, prune_jobs, stop_job
from qlora_tools.jobs.layout import names_in
from qlora_tools.jobs.locks import holder

from .fault_trial import BALLAST, NO_DISK, fill_disk
from .job_workspace import Jobs, jobs, until  # noqa: F401 - the fixture

pytestmark = pytest.mark.process
NO_MOUNT = (
    "This user may not mount a disk here: the disk is made full or read-only by patching where files are written."
)


@dataclass
class Disk:
    """A directory that is a disk of its own, or is treated as one by those who write through `durable`."""

    directory: Path
    is_real: bool

    @contextmanager
    def full(self) -> Iterator[None]:
        real = durable.reached
        try:
            fill_disk(self.directory / "out")
            yield
        finally:
            durable.reached = real
            (self.directory / "out" / BALLAST).unlink(missing_ok=True)


def mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def umount(directory: Path) -> None:
    """At once, whoever still uses it."""
    subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    directory = tmp_path / "disk"
    directory.mkdir()
    is_real = mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory))
    (directory / "out").mkdir()
    if not is_real:
        warnings.warn(NO_MOUNT, stacklevel=1)
        (directory / NO_DISK).touch()
    yield Disk(directory, is_real)
    if is_real:
        umount(directory)


@pytest.fixture
def faulty(disk: Disk, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:  # noqa: F811
    """A workspace on the small disk, whose runners do the works of `fault_trial`."""
    monkeypatch.setattr(launch, "RUNNER_MODULE", "tests.fault_trial")
    monkeypatch.setenv("QLORA_WORKSPACE", str(disk.directory))
    found = Jobs(disk.directory)
    yield found
    for name in names_in(found.space.jobs) if found.space.jobs.is_dir() else []:
        kill(found, name)


def kill(faulty: Jobs, job_id: str) -> None:
    lock = faulty.folder(job_id).lock_file
    if (found := holder(lock)) is not None:
        with suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGKILL)
    until(lambda: holder(lock) is None)


def fill(directory: Path) -> None:
    (directory / "weights").write_bytes(b"w" * 1000)


def test_a_commit_without_room_leaves_the_old_content_and_no_rubbish(disk: Disk) -> None:
    path = disk.directory / "record.json"
    replace_file(path, b"old")
    with disk.full():
        with pytest.raises(OSError, match="No space left") as failed:
            replace_file(path, b"new" * 10_000)
        with pytest.raises(OSError, match="No space left"):
            write_once(disk.directory / "other.json", b"new" * 10_000)
        assert failed.value.errno == errno.ENOSPC
        assert path.read_bytes() == b"old"
    assert {found.name for found in disk.directory.iterdir()} <= {"out", "record.json", NO_DISK}
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_save_without_room_leaves_the_checkpoints_before_and_no_rubbish(disk: Disk) -> None:
    out = disk.directory / "out"
    saved = write_checkpoint(out, 1, fill)
    with disk.full():
        with pytest.raises(OSError, match="No space left"):
            write_checkpoint(out, 2, lambda directory: (directory / "weights").write_bytes(b"w" * 100_000) and None)
        assert last_complete(out) == saved
        assert list(saved.parent.iterdir()) == [saved]
    assert last_complete(write_checkpoint(out, 2, fill).parent.parent) == out / "checkpoints" / "step-2"


def test_a_start_without_room_is_refused_and_leaves_nothing(disk: Disk, faulty: Jobs) -> None:
    faulty.space.prepare()
    config = faulty.config("loading")
    with disk.full():
        with pytest.raises(DiskSpaceError, match="is full; no job was started"):
            faulty.start("loading")
        assert list_jobs().total == 0
    assert list(faulty.space.root.glob(".new-job-*")) == []
    assert config.output.directory != faulty.reach(faulty.start("loading").id, "starting").output_directory


def test_a_run_on_a_full_disk_gets_its_verdict_though_its_log_is_cut_short(faulty: Jobs) -> None:
    job = faulty.ended(faulty.start("filling").id)
    assert (job.state, job.exit_code) == ("succeeded", 0)
    assert faulty.folder(job.id).attempt(1).exit_file.exists()
    assert [(one.id, one.state) for one in list_jobs().jobs] == [(job.id, "succeeded")]


def test_a_save_without_room_fails_the_run_and_names_the_checkpoint_that_is_whole(faulty: Jobs) -> None:
    job = faulty.ended(faulty.start("failing-save").id)
    assert (job.state, job.exit_code, (job.error or {}).get("error")) == ("failed", 4, "DiskSpaceError")
    assert job.last_checkpoint == str(last_complete(Path(job.output_directory)))
    assert job.last_checkpoint.endswith("step-1")
    assert job.last_checkpoint in (job.message or "")


def test_a_run_that_is_killed_on_a_full_disk_is_told_as_interrupted(faulty: Jobs) -> None:
    job = faulty.start("filling-for-good")
    faulty.reach(job.id, "starting")
    if not (Path(job.output_directory).parent / NO_DISK).exists():
        until(lambda: (Path(job.output_directory) / BALLAST).exists() and not os.statvfs(faulty.directory).f_bavail)
    kill(faulty, job.id)
    assert faulty.get(job.id).state == "interrupted"
    assert [(one.id, one.state) for one in list_jobs().jobs] == [(job.id, "interrupted")]
    (Path(job.output_directory) / BALLAST).unlink(missing_ok=True)
    assert faulty.get(job.id).state == "interrupted"
    assert faulty.folder(job.id).attempt(1).exit_file.exists()


def test_a_stop_without_room_for_the_wish_says_so_and_can_be_repeated(disk: Disk, faulty: Jobs) -> None:
    job = faulty.start("stepping")
    faulty.reach(job.id, "running")
    with disk.full():
        told = stop_job(job.id)
        assert (told.state, "got the signal SIGTERM" in told.warnings[-1]) == ("running", True)
    assert stop_job(job.id, now=True).state == "stopped"


def test_records_can_be_pruned_from_a_full_disk(disk: Disk, faulty: Jobs) -> None:
    job = faulty.start("loading")
    stop_job(job.id, now=True)
    with disk.full():
        assert prune_jobs(0) == [job.id]
        assert list_jobs().total == 0


def test_a_workspace_on_a_read_only_disk_tells_the_truth_and_refuses_what_it_cannot_do(
    disk: Disk, faulty: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, killed, waiting = (faulty.start("stepping").id for _ in range(3))
    stopped = faulty.start("stepping").id
    for job_id in (running, killed):
        faulty.reach(job_id, "running")
    stop_job(stopped, now=True)
    kill(faulty, waiting)
    started = faulty.folder(waiting).attempt(1).started_file
    started.unlink(missing_ok=True)
    kill(faulty, killed)
    expected = {running: "running", killed: "interrupted", waiting: "queued", stopped: "stopped"}
    with read_only(disk) as view:
        for _ in range(2):
            assert {job.id: job.state for job in list_jobs(workspace=view).jobs} == expected
        assert {job_id: get_job(job_id, workspace=view).state for job_id in expected} == expected
        for refused in (lambda: stop_job(waiting, workspace=view), lambda: prune_jobs(0, workspace=view)):
            with pytest.raises(MachineError):
                refused()
    assert faulty.get(killed).state == "interrupted"


@contextmanager
def read_only(disk: Disk) -> Iterator[Path]:
    """A view of the disk through which nothing can be written."""
    view = disk.directory.parent / "view"
    view.mkdir()
    if disk.is_real and mount("--bind", str(disk.directory), str(view)):
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], check=True)
            yield view
        finally:
            umount(view)
        return
    real = durable.reached
    try:
        durable.reached = _refuse
        yield disk.directory
    finally:
        durable.reached = real


def _refuse(step: str, path: Path) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_whoever_may_only_read_the_workspace_of_another_sees_the_truth(
    jobs: Jobs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "RUNNER_MODULE", "tests.fault_trial")
    with tempfile.TemporaryDirectory() as directory:
        mine = Jobs(Path(directory).resolve())
        monkeypatch.setenv("QLORA_WORKSPACE", directory)
        running, killed = mine.start("stepping").id, mine.start("stepping").id
        for job_id in (running, killed):
            mine.reach(job_id, "running")
        kill(mine, killed)
        for path in [mine.directory, *mine.directory.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        assert _seen_by_another(mine.directory) == f"{{'{running}': 'running', '{killed}': 'interrupted'}}"
        for path in [mine.directory, *mine.directory.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        assert mine.get(killed).state == "interrupted"
        kill(mine, running)


def _seen_by_another(directory: Path) -> str:
    """What a user without rights sees, in the order of creation; root would be let in anywhere."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            seen = {job.id: job.state for job in reversed(list_jobs(workspace=directory).jobs)}
            seen = {job_id: get_job(job_id, workspace=directory).state for job_id in seen}
            os.write(writing, repr(seen).encode())
        except BaseException as error:  # noqa: BLE001 - the child must never come back into the test runner
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - it owns the descriptor
        found = pipe.read().decode()
    os.wait()
    return found
