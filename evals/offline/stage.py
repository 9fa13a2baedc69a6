"""Where a task plays: a workspace, a folder outside of it, and the jobs of the workspace."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from qlora_tools.config import RunConfig, load_config
from qlora_tools.jobs import JobStatus, launch, list_jobs, start_training
from qlora_tools.jobs.layout import Workspace
from qlora_tools.jobs.locks import holder
from tests.job_workspace import MODEL

from .simulated_runner import MODULE

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.02


class Stage:
    """The folder of one task; what is made here a person would have had before."""

    def __init__(self, folder: Path) -> None:
        self.workspace, self.outside = folder / "workspace", folder / "outside"
        for place in (self.workspace, self.outside):
            place.mkdir(parents=True)
        self.pid_file = folder / "server.pid"

    def rows(self, name: str = "rows.jsonl", count: int = 60) -> list[dict[str, Any]]:
        """Write rows that are ready to be trained on, and return them."""
        rows = [
            {"question": f"What is kept in drawer {number}?", "answer": f"Drawer {number} keeps {2 * number} labels."}
            for number in range(count)
        ]
        self.write_rows(self.workspace / name, rows)
        return rows

    def write_rows(self, path: Path, rows: list[dict[str, Any]]) -> None:
        """Write rows as JSON Lines."""
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def model(self, kind: str) -> str:
        """The folder of a model that has a shape and nothing else; its name tells the simulated work what to do."""
        directory = self.workspace / "models" / kind
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
        (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
        (directory / "model.safetensors").write_bytes(b"none")
        return f"./models/{kind}"

    def config(self, kind: str = "any-card", **training: Any) -> dict[str, Any]:
        """A config for simulated work."""
        return {
            "model": {"name": self.model(kind)},
            "data": {"path": "rows.jsonl"},
            "training": {"max_steps": 3, "max_length_tokens": 64, **training},
            "output": {"directory": "out"},
        }

    def start(self, config: Mapping[str, Any], name: str | None = None) -> JobStatus:
        """A job that the person started."""
        text = json.dumps(config).replace('"./models', f'"{self.workspace}/models')
        values = json.loads(text.replace('"rows.jsonl"', json.dumps(str(self.workspace / "rows.jsonl"))))
        values["output"] = {"directory": str(self.workspace / values["output"]["directory"])}
        return start_training(RunConfig.model_validate(values), workspace=self.workspace, name=name)

    def jobs(self) -> list[JobStatus]:
        """All jobs, the oldest first, as their records say."""
        return list(reversed(list_jobs(workspace=self.workspace, limit=None).jobs))

    def config_of(self, job: JobStatus) -> RunConfig:
        """The config that a job was started with."""
        return load_config(Workspace.at(self.workspace).job(job.id).config_file)

    def changes_of(self, job: JobStatus) -> dict[str, Any]:
        """What the last attempt of a job changed in its config."""
        attempt = Workspace.at(self.workspace).job(job.id).attempt(job.attempt)
        changes: dict[str, Any] = json.loads(attempt.request_file.read_text(encoding="utf-8"))["changes"]
        return changes

    def kept(self, file: str = "run.yaml") -> RunConfig:
        """A config that the agent wrote to the workspace, read as a run would read it."""
        return load_config(self.workspace / file)

    def server_pid(self) -> int:
        """The process of the server on stdio."""
        return int(until(lambda: self.pid_file.exists() and self.pid_file.read_text(encoding="utf-8")))

    def kill_server(self) -> None:
        """SIGKILL, as a crash or the kernel does it."""
        os.kill(self.server_pid(), signal.SIGKILL)
        self.pid_file.unlink()

    def end_jobs(self) -> None:
        """Leave no process behind."""
        until(lambda: not any(self._ended(job) for job in self.jobs()))

    def _ended(self, job: JobStatus) -> bool:
        """End the process of a job; returns whether there was one."""
        found = holder(Workspace.at(self.workspace).job(job.id).lock_file)
        if found is not None:
            with suppress(ProcessLookupError):
                os.kill(found.pid, signal.SIGKILL)
        return found is not None


def until(look: Callable[[], T]) -> T:
    """What `look` returns as soon as it is something. Raises `TimeoutError`."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError("What the task waits for did not happen.")
        time.sleep(_LOOK_SECONDS)
    return found


@contextmanager
def surroundings(*, simulated: bool) -> Iterator[None]:
    """Offline, with the cache of the checkout; the work of jobs is simulated unless the task trains."""
    wanted = {
        "HF_HUB_OFFLINE": "1",
        "QLORA_CACHE": os.environ.get("QLORA_CACHE", str(ROOT / ".cache")),
        # Runs of tiny models say nothing about this machine.
        "QLORA_MEMORY_HISTORY": os.devnull,
        "QLORA_JOBS_AT_ONCE": "4",
    }
    before = {name: os.environ.get(name) for name in wanted}
    runner = launch.RUNNER_MODULE
    os.environ.update(wanted)
    launch.RUNNER_MODULE = MODULE if simulated else runner
    try:
        yield
    finally:
        launch.RUNNER_MODULE = runner
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
