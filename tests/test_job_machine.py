"""Random histories of jobs against a model: started, stopped, killed, resumed, looked at, under leaping clocks.

The runners are real processes. What the model knows: which jobs there are, which verdicts each attempt may get, and every
verdict that was ever seen.
"""

import json
import os
import platform
import shutil
import signal
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from qlora_tools.config import RunConfig
from qlora_tools.errors import UsageError
from qlora_tools.jobs import JobStatus, launch, list_jobs, resume_job, start_training, stop_job
from qlora_tools.jobs.locks import holder
from qlora_tools.jobs.states import RESUMABLE, TERMINAL

from .job_workspace import Jobs, until

pytestmark = pytest.mark.process
RESULT = Path(__file__).parent.parent / "benchmarks" / "results" / "job_machine.json"
EXAMPLES, STEPS = 1000, 12
# What a job of each kind comes to when nobody interferes; the last two go on for hours.
ENDS = {"good": {"succeeded"}, "wrong-data": {"failed"}, "saving": set(), "deaf": set()}
CLOCK_USERS = ("clock", "tickets", "launch", "pruning")
PATIENCE_SECONDS = 60.0


@dataclass
class Known:
    """What the model knows of a job: `allowed` are the verdicts that its last attempt may get."""

    config: RunConfig
    kind: str
    attempts: int = 1
    allowed: set[str] = field(default_factory=set)
    verdicts: dict[int, tuple[Any, ...]] = field(default_factory=dict)


class JobMachine(RuleBasedStateMachine):
    """Each rule does to a workspace what users, servers and kernels do."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(launch, "RUNNER_MODULE", "tests.job_trial")
        self.patch.setenv("QLORA_JOBS_AT_ONCE", "3")
        self.jobs = Jobs(Path(tempfile.mkdtemp(prefix="qlora-machine-")).resolve())
        self.known: dict[str, Known] = {}
        self.keys: dict[str, str] = {}

    def teardown(self) -> None:
        """Every job is ended and asked once more; then all is removed."""
        try:
            for job_id, known in self.known.items():
                known.allowed |= {"stopped"}
                self.see(stop_job(job_id, now=True, workspace=self.jobs.directory))
                self.see(self.jobs.ended(job_id, PATIENCE_SECONDS))
                assert self.jobs.get(job_id).state in TERMINAL
        finally:
            for job_id in self.known:
                self.kill_holder(job_id)
            self.patch.undo()
            shutil.rmtree(self.jobs.directory, ignore_errors=True)

    @rule(kind=strategies.sampled_from(sorted(ENDS)), key=strategies.sampled_from(["", "", "a", "b"]))
    def start(self, kind: str, key: str) -> None:
        if key in self.keys:
            self.start_again(key)
            return
        config = self.jobs.config(kind, 2 if kind == "good" else 10_000)
        job = start_training(config, idempotency_key=key or None, workspace=self.jobs.directory)
        assert job.id not in self.known
        self.known[job.id] = Known(config, kind, allowed=set(ENDS[kind]))
        if key:
            self.keys[key] = job.id
        self.see(job)

    def start_again(self, key: str) -> None:
        """A request that is repeated is the same job; another request under its key is refused."""
        known = self.known[self.keys[key]]
        again = start_training(known.config, idempotency_key=key, workspace=self.jobs.directory)
        assert again.id == self.keys[key]
        self.see(again)
        with pytest.raises(UsageError, match="used for another request"):
            start_training(self.jobs.config(), idempotency_key=key, workspace=self.jobs.directory)

    @precondition(lambda self: self.known)
    @rule(data=strategies.data(), cancel=strategies.booleans(), now=strategies.booleans())
    def stop(self, data: strategies.DataObject, cancel: bool, now: bool) -> None:
        job_id = self.one(data)
        before = self.see(self.jobs.get(job_id)).state
        if before not in TERMINAL:
            self.known[job_id].allowed |= {"cancelled" if cancel else "stopped"}
        for _ in range(2):
            after = self.see(stop_job(job_id, cancel=cancel, now=now, workspace=self.jobs.directory))
        assert after.state in ("stopping", *TERMINAL)
        if now:
            assert after.state in TERMINAL

    @precondition(lambda self: self.known)
    @rule(data=strategies.data())
    def resume(self, data: strategies.DataObject) -> None:
        job_id = self.one(data)
        known, before = self.known[job_id], self.see(self.jobs.get(job_id))
        if before.state not in RESUMABLE:
            with suppress(UsageError):
                resume_job(job_id, workspace=self.jobs.directory)
                # It can only have ended meanwhile.
                assert before.state not in TERMINAL
                known.attempts, known.allowed = known.attempts + 1, set(ENDS[known.kind])
            return
        known.attempts, known.allowed = known.attempts + 1, set(ENDS[known.kind])
        after = self.see(resume_job(job_id, workspace=self.jobs.directory))
        assert after.attempt == before.attempt + 1

    @precondition(lambda self: self.known)
    @rule(data=strategies.data())
    def kill(self, data: strategies.DataObject) -> None:
        self.kill_holder(self.one(data))

    def kill_holder(self, job_id: str) -> None:
        lock = self.jobs.folder(job_id).lock_file
        found = holder(lock)
        if found is None:
            return
        self.known[job_id].allowed.add("interrupted")
        with suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGKILL)
        until(lambda: holder(lock) != found)

    @precondition(lambda self: self.known)
    @rule(data=strategies.data())
    def wait(self, data: strategies.DataObject) -> None:
        """Let a job get somewhere: to its end if it has one, else to its first steps or as far as the queue lets it."""
        job_id = self.one(data)
        ends = ("running", "stopping", *TERMINAL)
        until(lambda: self.is_held_up() or self.see(self.jobs.get(job_id)).state in ends, PATIENCE_SECONDS)

    def is_held_up(self) -> bool:
        """Whether jobs that never end fill the queue."""
        return sum(self.jobs.get(job_id).state not in TERMINAL for job_id in self.known) > 3

    @rule(ending=strategies.sampled_from(["", "-journal"]))
    def delete_index(self, ending: str) -> None:
        Path(f"{self.jobs.space.index_file}{ending}").unlink(missing_ok=True)

    @rule()
    def spoil_index(self) -> None:
        if self.jobs.space.index_file.exists():
            self.jobs.space.index_file.write_bytes(b"SQLite format 3\x00" + b"\xfe" * 9000)

    @rule()
    def lose_tickets(self) -> None:
        shutil.rmtree(self.jobs.space.active, ignore_errors=True)

    @rule(seconds=strategies.sampled_from([-86_400.0, -1.0, 0.0, 90.0, 86_400.0]))
    def set_clock(self, seconds: float) -> None:
        for module in CLOCK_USERS:
            self.patch.setattr(f"qlora_tools.jobs.{module}.now", lambda: time.time() + seconds)

    @rule()
    def restart_server(self) -> None:
        """Another process looks at everything, as a server does when it starts."""
        launch._children.clear()
        pid = os.fork()
        if pid == 0:
            os._exit(self.count_in_a_child())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == len(self.known)

    def count_in_a_child(self) -> int:
        """How many jobs another process sees; 255 where it fails."""
        try:
            return list_jobs(limit=None, workspace=self.jobs.directory).total
        except BaseException:  # noqa: BLE001 - the child must never come back into the test runner
            traceback.print_exc()
            return 255

    @invariant()
    def nothing_is_lost_and_no_verdict_changes(self) -> None:
        found = list_jobs(limit=None, workspace=self.jobs.directory)
        assert sorted(job.id for job in found.jobs) == sorted(self.known)
        assert found.total == len(self.known)
        for job in found.jobs:
            self.see(job)
            self.see(self.jobs.get(job.id))

    def one(self, data: strategies.DataObject) -> str:
        return data.draw(strategies.sampled_from(list(self.known)))

    def see(self, job: JobStatus) -> JobStatus:
        """Hold what is told of a job against what is known of it."""
        known = self.known[job.id]
        assert [one.attempt for one in job.attempts] == list(range(1, known.attempts + 1)), job
        assert job.attempt == known.attempts
        for one in job.attempts:
            if one.state not in TERMINAL:
                assert one.attempt == known.attempts
                assert one.attempt not in known.verdicts, (known, job)
                continue
            verdict = (one.state, one.ended, one.message, one.cause)
            assert known.verdicts.setdefault(one.attempt, verdict) == verdict
            assert one.attempt < known.attempts or one.state in known.allowed, (known, job)
        return job


def machine_settings(examples: int, *, derandomize: bool) -> settings:
    """Without shrinking: with real processes a shorter history is another one."""
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=derandomize,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def test_histories_of_jobs_agree_with_the_model() -> None:
    run_state_machine_as_test(JobMachine, settings=machine_settings(8, derandomize=True))


@pytest.mark.slow
def test_a_thousand_histories_of_jobs_agree_with_the_model() -> None:
    examples = int(os.environ.get("QLORA_MACHINE_EXAMPLES", EXAMPLES))
    began = time.monotonic()
    run_state_machine_as_test(JobMachine, settings=machine_settings(examples, derandomize=False))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version(), "hypothesis": version("hypothesis")},
        "examples": examples,
        "steps_each_at_most": STEPS,
        "seconds": round(time.monotonic() - began),
        "failures": 0,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
