"""Kill at random for a while, then ask every job what happened: `chaos.py MINUTES JOBS [SEED]`.

Jobs are started by clients that may be killed and try again with the same key. Servers list and ask all the time. Runners,
servers and clients get SIGKILL, jobs are stopped, cancelled and resumed, the index is deleted. Every twentieth job trains a
tiny model with the engine, the others only write what a training writes. Every verdict that anybody saw is written down and
must be the one at the end. Writes `benchmarks/results/chaos.json`; exit code 1 where something was lost or a lie.
"""

import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.chaos_checks import Sightings, judged, speeds  # noqa: E402
from benchmarks.chaos_runner import MODULE  # noqa: E402
from qlora_tools.config import RunConfig, parse_config  # noqa: E402
from qlora_tools.errors import QloraError  # noqa: E402
from qlora_tools.jobs import get_job, launch, list_jobs, resume_job, start_training, stop_job  # noqa: E402
from qlora_tools.jobs.layout import Workspace  # noqa: E402
from qlora_tools.jobs.locks import holder  # noqa: E402
from qlora_tools.jobs.states import RESUMABLE, TERMINAL  # noqa: E402
from tests.job_workspace import MODEL  # noqa: E402

RESULT = Path(__file__).parent / "results" / "chaos.json"
SERVERS, AT_ONCE, REAL_EVERY = 3, 4, 20
# How long the jobs may take to come to an end when nothing is killed any more, before they are stopped.
DRAIN_SECONDS = 120.0
CONTEXT = get_context("fork")
ACTIONS = {"kill runner": 10, "resume": 8, "start": 12, "kill server": 2, "stop": 2, "stop now": 1, "cancel": 1}
ACTIONS |= {"delete index": 1, "kill client": 4}


@dataclass
class Chaos:
    """One run. `keys` are those of jobs that a client has been told of; `kills` are runners killed in the middle."""

    directory: Path
    jobs: int
    random: random.Random
    keys: dict[int, str] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    servers: list[BaseProcess] = field(default_factory=list)
    kills: set[tuple[str, int]] = field(default_factory=set)

    @property
    def space(self) -> Workspace:
        return Workspace.at(self.directory)

    def config(self, number: int) -> RunConfig:
        """That of job `number`, the same whenever it is asked for."""
        real = number % REAL_EVERY == 0
        steps = 6 if real else 40 + number * 7 % 120
        training = {"max_steps": steps, "max_length_tokens": 64, "smoke_generation": False, "checkpoint_every_steps": 2}
        return parse_config(
            {
                "model": {"name": str(self.directory / ("real" if real else "pretended"))},
                "data": {"path": str(self.directory / "rows.jsonl"), "check": "warn"},
                "output": {"directory": str(self.directory / f"out-{number}")},
                "training": training,
            }
        )

    def start(self, *, kill: bool = False) -> None:
        """Have a client start the next job that nobody was told of; it may be killed on the way."""
        number = next((one for one in range(self.jobs) if one not in self.keys), None)
        if number is None:
            return
        told = self.directory / f"told-{number}"
        client = CONTEXT.Process(target=_client, args=(self.config(number), number, self.directory, told))
        client.start()
        if kill:
            client.join(self.random.uniform(0.0, 0.2))
            client.kill()
        client.join()
        if told.exists() and told.read_text():
            self.keys[number] = told.read_text()

    def a_job(self) -> str | None:
        return self.random.choice(list(self.keys.values())) if self.keys else None

    def act(self, action: str) -> None:
        """One random act; what a job refuses, it refuses."""
        job_id = self.a_job()
        self.done[action] += 1
        if action in ("start", "kill client"):
            self.start(kill=action == "kill client")
        elif action == "kill server":
            self.random.choice(self.servers).kill()
        elif action == "delete index":
            for ending in ("", "-wal", "-shm"):
                Path(f"{self.space.index_file}{ending}").unlink(missing_ok=True)
        elif job_id is not None:
            with suppress(QloraError):
                self._act_on(action, job_id)

    def _act_on(self, action: str, job_id: str) -> None:
        if action == "kill runner":
            self.kill_runner(job_id)
        elif action == "resume":
            ended = list_jobs(states=RESUMABLE, limit=None, workspace=self.directory).jobs
            if ended:
                resume_job(self.random.choice(ended).id, workspace=self.directory)
        else:
            stop_job(job_id, now=action == "stop now", cancel=action == "cancel", workspace=self.directory)

    def kill_runner(self, job_id: str) -> None:
        """Kill the runner of a job that works, if there is one, else that of the given job, which waits."""
        working = list_jobs(states=["starting", "running", "stopping"], limit=None, workspace=self.directory).jobs
        if working and self.random.random() < 0.7:
            job_id = self.random.choice(working).id
        job = self.space.job(job_id)
        found = holder(job.lock_file)
        if found is None or found.pid <= 0:
            return
        attempt = job.attempts()[-1]
        began = attempt.started_file.exists() and not attempt.exit_file.exists()
        with suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGKILL)
        self.done["runners that died"] += 1
        if began:
            self.kills.add((job_id, attempt.number))

    def keep_servers(self) -> None:
        """Start servers in the place of those that were killed."""
        self.servers = [server for server in self.servers if server.is_alive()]
        while len(self.servers) < SERVERS:
            seed = self.random.randrange(2**30)
            server = CONTEXT.Process(target=_server, args=(self.directory, seed), daemon=True)
            server.start()
            self.servers.append(server)

    def rage(self, seconds: float) -> None:
        """Do random things for that long; a part of the jobs is started at once, so that there is load from the start."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.keep_servers()
            self.act(self.random.choices(list(ACTIONS), list(ACTIONS.values()))[0])
            time.sleep(self.random.uniform(0.0, 0.1))

    def calm(self) -> None:
        """Start what is missing, let the jobs end, and stop those that take too long."""
        while len(self.keys) < self.jobs:
            self.start()
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.unfinished() and time.monotonic() < deadline:
            self.keep_servers()
            time.sleep(0.5)
        for job_id in self.unfinished():
            stop_job(job_id, now=True, workspace=self.directory)
            self.done["stopped at the end"] += 1
        for server in self.servers:
            server.kill()
            server.join()

    def unfinished(self) -> list[str]:
        found = list_jobs(limit=None, workspace=self.directory).jobs
        return [job.id for job in found if job.state not in TERMINAL]


def _client(config: RunConfig, number: int, directory: Path, told: Path) -> None:
    """Start a job and write down its id: the caller may kill this process anywhere, and does."""
    job = start_training(config, idempotency_key=f"key-{number}", workspace=directory)
    told.write_text(job.id)


def _server(directory: Path, seed: int) -> None:
    """List and ask without end; every verdict and every lie is written down at once."""
    chooser = random.Random(seed)
    sightings = Sightings(directory / f"seen-{os.getpid()}.jsonl")
    while True:
        began = time.perf_counter()
        jobs = list_jobs(limit=None, workspace=directory).jobs
        sightings.took("list", time.perf_counter() - began)
        for job in jobs:
            sightings.saw(job)
        for job in chooser.sample(jobs, min(5, len(jobs))):
            began = time.perf_counter()
            status = get_job(job.id, workspace=directory)
            sightings.took("status", time.perf_counter() - began)
            sightings.saw(status)
            sightings.doubt(status, Workspace.at(directory), directory)


def _prepare(directory: Path) -> None:
    """A model to train, one to pretend with, and rows."""
    pretended = directory / "pretended"
    pretended.mkdir()
    (pretended / "config.json").write_text(json.dumps(MODEL))
    (pretended / "tokenizer.json").write_text("{}")
    (pretended / "model.safetensors").write_bytes(b"none")
    rows = [{"prompt": f"say number {one}", "completion": f"number {one} it is"} for one in range(24)]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make = "import sys, pathlib; from tests.families import make_model; make_model('llama', pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", make, str(directory / "real")], check=True, cwd=ROOT)


def main() -> int:
    """Rage, calm down, judge, and write the result."""
    minutes, jobs = float(sys.argv[1]), int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.SystemRandom().randrange(2**30)
    launch.RUNNER_MODULE = MODULE
    os.environ |= {"QLORA_JOBS_AT_ONCE": str(AT_ONCE), "QLORA_MEMORY_HISTORY": os.devnull, "HF_HUB_OFFLINE": "1"}
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    directory = Path(tempfile.mkdtemp(prefix="qlora-chaos-")).resolve()
    _prepare(directory)
    chaos = Chaos(directory, jobs, random.Random(seed))
    began = time.monotonic()
    chaos.rage(minutes * 60)
    chaos.calm()
    faults, states = judged(chaos.space, directory, chaos.keys, chaos.kills)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "seed": seed,
        "minutes": minutes,
        "seconds_in_all": round(time.monotonic() - began),
        "jobs": jobs,
        "done": dict(sorted(chaos.done.items())),
        "runners_killed_while_they_worked": len(chaos.kills),
        **states,
        "milliseconds_under_load": speeds(directory),
        "faults": faults,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"), f"The workspace is {directory}", sep="\n")
    return 1 if any(faults.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
