"""A workspace for tests of jobs: configs whose work is `job_trial`, and no process left behind."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.config import RunConfig, parse_config
from qlora_tools.jobs import JobStatus, get_job, launch, start_training
from qlora_tools.jobs.layout import JobFolder, Workspace, names_in
from qlora_tools.jobs.locks import holder

MODEL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}


@dataclass
class Jobs:
    """One workspace; `start` starts a job whose work is told by `kind`."""

    directory: Path
    made: int = 0

    @property
    def space(self) -> Workspace:
        return Workspace.at(self.directory)

    def config(self, kind: str = "good", steps: int = 3, output: str | None = None) -> RunConfig:
        model = self.directory / "models" / kind
        if not model.is_dir():
            model.mkdir(parents=True)
            (model / "config.json").write_text(json.dumps(MODEL))
            (model / "tokenizer.json").write_text("{}")
            (model / "model.safetensors").write_bytes(b"none")
        self.made += 1
        return parse_config(
            {
                "model": {"name": str(model)},
                "data": {"path": "rows.jsonl"},
                "output": {"directory": str(self.directory / (output or f"out-{self.made}"))},
                "training": {"max_steps": steps, "max_length_tokens": 64},
            }
        )

    def start(self, kind: str = "good", steps: int = 3, **arguments: Any) -> JobStatus:
        return start_training(self.config(kind, steps), workspace=self.directory, **arguments)

    def get(self, job_id: str) -> JobStatus:
        return get_job(job_id, workspace=self.directory)

    def ended(self, job_id: str, seconds: float = 30) -> JobStatus:
        return get_job(job_id, wait_seconds=seconds, workspace=self.directory)

    def folder(self, job_id: str) -> JobFolder:
        return self.space.job(job_id)

    def pid(self, job_id: str) -> int:
        """The process that holds the job's lock."""
        found = until(lambda: holder(self.folder(job_id).lock_file))
        assert found.pid > 0
        return int(found.pid)

    def reach(self, job_id: str, state: str) -> JobStatus:
        """Wait until the job is in that state."""
        return until(lambda: status if (status := self.get(job_id)).state == state else None)  # type: ignore[no-any-return]


def until(look: Callable[[], Any], seconds: float = 30) -> Any:
    """What `look` returns as soon as it is something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setattr(launch, "RUNNER_MODULE", "tests.job_trial")
    monkeypatch.setenv("QLORA_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("QLORA_JOBS_AT_ONCE", "4")
    found = Jobs(tmp_path)
    yield found
    while any(_end(found, name) for name in _names(found)):
        time.sleep(0.02)


def _names(jobs: Jobs) -> list[str]:
    return names_in(jobs.space.jobs) if jobs.space.jobs.is_dir() else []


def _end(jobs: Jobs, name: str) -> bool:
    """Kill the runner of a job, if it has one."""
    found = holder(jobs.folder(name).lock_file)
    if found is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGKILL)
    return True
