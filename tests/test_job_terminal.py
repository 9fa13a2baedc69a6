"""What keys and signals do to a command that shows a job, on a terminal and without one."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from qlora_tools.cli.job_screen import line_of, show_status
from qlora_tools.errors import UsageError
from qlora_tools.jobs import JobStatus, launch

from .job_workspace import Jobs, jobs, until  # noqa: F401 - the fixture

LONG = 10_000
QUESTION, CTRL_C, CTRL_D = "[d]etach", signal.SIGINT, b"\x04"
# A shell starts what it puts in the background deaf to Ctrl-C, and so would be all that such tests start.
CODE = (
    "import signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from qlora_tools.cli.main import run\n"
    "from qlora_tools.jobs import launch\n"
    "launch.RUNNER_MODULE = 'tests.job_trial'\n"
    "sys.exit(run(sys.argv[1:]))\n"
)


class Command:
    """A command on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process, self._terminal, self.shown = process, terminal, ""

    def wait_for(self, pattern: str) -> None:
        """Until it shows something more that matches."""
        seen = len(self.shown)
        until(lambda: self._read() and re.search(pattern, self.shown[seen:]))

    def give(self, what: signal.Signals | bytes) -> None:
        if isinstance(what, bytes):
            os.write(self._terminal, what)
        else:
            self.process.send_signal(what)

    def code(self) -> int:
        """Its exit code; all that it wrote is then in `shown`."""
        until(lambda: self._read() and self.process.poll() is not None)
        return int(self.process.returncode)

    def _read(self) -> bool:
        while select.select([self._terminal], [], [], 0)[0]:
            try:
                content = os.read(self._terminal, 65536)
            except OSError:
                break  # Nobody has its other side open.
            self.shown += content.decode(errors="replace")
        return True


@contextmanager
def on_a_terminal(*arguments: str) -> Iterator[Command]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Command(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.process
@pytest.mark.parametrize(
    ("given", "code", "state"),
    [
        ((signal.SIGTERM,), 130, "stopped"),
        ((CTRL_C, CTRL_D), 0, "running"),
        pytest.param((CTRL_C, b"\n"), 0, "running", marks=pytest.mark.slow),
        ((CTRL_C, CTRL_C), 130, "stopped"),
        pytest.param((CTRL_C, signal.SIGTERM), 130, "stopped", marks=pytest.mark.slow),
        ((CTRL_C, b"x\n", b"c\n", CTRL_C, b"s\n"), 130, "stopped"),
    ],
    ids=["term", "eof", "enter", "twice", "asked-term", "continued"],
)
def test_only_an_answer_or_a_second_interrupt_ends_a_run_and_with_a_checkpoint(
    jobs: Jobs,  # noqa: F811
    given: tuple[signal.Signals | bytes, ...],
    code: int,
    state: str,
) -> None:
    config = jobs.directory / "run.json"
    config.write_text(jobs.config(steps=LONG).model_dump_json())
    with on_a_terminal("train", str(config)) as command:
        command.wait_for("loss")
        for before, what in zip((None, *given), given, strict=False):
            if before is not None:
                command.wait_for("loss" if before == b"c\n" else re.escape(QUESTION))
            command.give(what)
        assert command.code() == code, command.shown
    if given[0] == signal.SIGTERM:
        assert QUESTION not in command.shown
    job = jobs.reach("last", state)
    assert (job.last_checkpoint is not None) == (state == "stopped")


@pytest.mark.process
def test_a_second_signal_ends_a_run_that_does_not_listen_at_once(jobs: Jobs) -> None:  # noqa: F811
    config = jobs.directory / "run.json"
    config.write_text(jobs.config("deaf", LONG).model_dump_json())
    with on_a_terminal("train", str(config)) as command:
        command.wait_for("loss")
        command.give(signal.SIGTERM)
        command.wait_for("Stopping with a checkpoint")
        command.give(signal.SIGTERM)
        assert command.code() == 130, command.shown
    assert (jobs.get("last").state, jobs.get("last").last_checkpoint) == ("stopped", None)


@pytest.mark.process
def test_an_end_of_watching_leaves_the_job_alone_and_says_so(jobs: Jobs) -> None:  # noqa: F811
    job = jobs.reach(jobs.start(steps=LONG).id, "running")
    for name, shown in (("status", "running"), ("logs", "begins")):
        with on_a_terminal(name, job.id, "--follow") as command:
            command.wait_for(shown)
            command.give(CTRL_C)
            assert command.code() == 130, command.shown
        assert "No longer watching; the job goes on." in command.shown
        assert "Stopped" not in command.shown
    assert jobs.get(job.id).state == "running"


def test_a_running_job_that_has_told_nothing_for_minutes_shows_since_when(capsys: pytest.CaptureFixture[str]) -> None:
    def job(state: str, minutes: float) -> JobStatus:
        told = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()
        return JobStatus(id="job-a", name="a", state=state, step=4, updated=told)  # type: ignore[arg-type]

    assert line_of(job("running", 5.2)).endswith("last told 5 min ago")
    show_status(job("stopping", 65))
    assert "last told 65 min ago" in capsys.readouterr().out
    for fresh_or_over in (job("running", 0.5), job("stopped", 500)):
        assert "last told" not in line_of(fresh_or_over)


def test_a_name_means_the_newest_job_of_that_name_where_no_id_matches(
    jobs: Jobs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_start", lambda *arguments: os.getpid())
    older, newer = (jobs.start(name="a try").id for _ in range(2))
    misnamed = jobs.start(name=older)
    assert jobs.get("a try").id == newer
    assert jobs.get(misnamed.name).id == older
    with pytest.raises(UsageError, match="no job 'a t'"):
        jobs.get("a t")
