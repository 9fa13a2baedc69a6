"""The same faults with runs that really train: slow, since each loads the libraries anew."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.config import parse_config
from qlora_tools.jobs import JobStatus, get_job, launch, resume_job, start_training

from .fault_trial import BALLAST
from .job_workspace import Jobs, jobs, until  # noqa: F401 - the fixture
from .test_faults_disk import kill, mount, umount

pytestmark = [pytest.mark.process, pytest.mark.slow]
Raw = Callable[..., dict[str, Any]]
SECONDS = 300
TRAINING = {"max_steps": 20, "checkpoint_every_steps": 3, "log_every_steps": 1}


@pytest.fixture
def raw(
    tiny_model: Callable[[str], Path], chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], dict[str, Any]]:
    """The config of a run that trains a tiny model and writes to the given directory."""
    monkeypatch.setattr(launch, "RUNNER_MODULE", "qlora_tools.jobs.runner")
    # Several runs at once on few cores would wait for one another's threads.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def config(output: Path) -> dict[str, Any]:
        model, check = tiny_model("llama"), {"check": "warn"}
        return config_for(model, chat_rows, training=TRAINING, output={"directory": str(output)}, data=check)

    return config


def saved(job_id: str) -> JobStatus:
    """The job, as soon as it has told of a checkpoint."""
    return until(lambda: (job := get_job(job_id)).last_checkpoint and job, SECONDS)  # type: ignore[no-any-return]


def test_a_run_that_is_killed_again_and_again_has_the_losses_of_one_that_is_not(
    jobs: Jobs,  # noqa: F811
    raw: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    whole = start_training(parse_config(raw(tmp_path / "whole")), workspace=jobs.directory)
    job = start_training(parse_config(raw(tmp_path / "killed")), workspace=jobs.directory)
    for first in (1, 7):
        until(lambda first=first: (get_job(job.id).step or 0) >= first and saved(job.id), SECONDS)
        with suppress(ProcessLookupError):
            os.kill(jobs.pid(job.id), signal.SIGKILL)
        dead = jobs.ended(job.id, SECONDS)
        assert (dead.state, dead.attempts[-1].cause) == ("interrupted", "killed")
        resume_job(job.id)
    expected, ended = jobs.ended(whole.id, SECONDS), jobs.ended(job.id, SECONDS)
    assert (expected.state, ended.state, ended.attempt) == ("succeeded", "succeeded", 3), (
        expected.message,
        ended.message,
    )
    assert expected.result is not None
    assert ended.result is not None
    assert ended.result["losses"] == expected.result["losses"]


def test_a_run_whose_disk_fills_up_names_its_checkpoint_and_goes_on_when_there_is_room(
    jobs: Jobs,  # noqa: F811
    raw: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=160m", "tmpfs", str(disk)):
        pytest.xfail("This user may not mount a disk, and what a run writes cannot be patched from here.")
    try:
        job = start_training(parse_config(raw(disk / "run")), workspace=jobs.directory)
        saved(job.id)
        with (disk / BALLAST).open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"\1" * 2**16)
        full = jobs.ended(job.id, SECONDS)
        assert (full.state, full.exit_code, (full.error or {}).get("error")) == ("failed", 4, "DiskSpaceError")
        assert full.last_checkpoint is not None
        assert full.last_checkpoint in (full.message or "")
        (disk / BALLAST).unlink()
        assert resume_job(job.id).attempts[-1].resumed_from == full.last_checkpoint
        assert jobs.ended(job.id, SECONDS).state == "succeeded"
        kill(jobs, job.id)
    finally:
        umount(disk)
