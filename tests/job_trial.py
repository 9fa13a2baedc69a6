"""A runner whose work is told by its config instead of an engine: what jobs do is then tested in a second, not a minute.

`model.name` of the config says what the work does, `training.max_steps` how many steps it has.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qlora_tools.checkpoints import write_checkpoint
from qlora_tools.errors import DataError, RunStopped, WorkStopped
from qlora_tools.events import Listener, RunEvent, StopAsked
from qlora_tools.going_on import STATE_FILE
from qlora_tools.jobs import launch, runner, works
from qlora_tools.jobs.layout import AttemptFolder, JobFolder
from qlora_tools.jobs.working import work_as_asked
from qlora_tools.results.base import Result


class PiecesResult(Result):
    """What `pieces` returns."""

    directory: str
    to: str
    files: list[str]
    begun_at: int


def pieces(
    source: str,
    *,
    output: str,
    to: str = "pieces",
    count: int = 3,
    on_event: Listener,
    stop: StopAsked,
) -> PiecesResult:
    """Work that is no training: it writes piece after piece into its output, and goes on from those that are there."""
    if to == "wrong":
        raise DataError("The source is wrong.", next_step="Mend it.")
    directory = Path(output)
    directory.mkdir(exist_ok=True)
    first = len(list(directory.iterdir()))
    on_event(RunEvent("phase", "Writing pieces"))
    for number in range(first, count):
        if stop() and to != "deaf":
            raise WorkStopped(f"The export was stopped after {number} of {count} pieces.")
        time.sleep(0.05)
        (directory / str(number)).write_text("a piece")
        on_event(RunEvent("progress", "pieces", {"done": number + 1, "total": count}))
    files = sorted(path.name for path in directory.iterdir())
    return PiecesResult(directory=output, to=to, files=files, begun_at=first)


TRIAL_WORKS = {**works.WORKS, "export": works.Work("tests.job_trial:pieces", ("source", "output"))}


def work(job: JobFolder, attempt: AttemptFolder, stop: StopAsked, on_event: Listener) -> Mapping[str, Any]:
    if job.work_file.exists():
        return work_as_asked(job, attempt, stop, on_event)
    config = json.loads(job.config_file.read_text(encoding="utf-8"))
    kind = Path(config["model"]["name"]).name
    steps = config["training"]["max_steps"]
    request = json.loads(attempt.request_file.read_text(encoding="utf-8"))
    on_event(RunEvent("phase", "Training"))
    on_event(RunEvent("warning", "a warning"))
    if kind == "wrong-data":
        raise DataError("The rows are wrong.", next_step="Mend them.")
    if kind == "bug":
        raise ZeroDivisionError(f"a bug with {os.environ.get('HF_TOKEN')}")
    first = int(Path(request["resume_from"]).name.split("-")[1]) if request["resume_from"] else 0
    for step in range(first + 1, steps + 1):
        if stop() and kind != "deaf":
            checkpoint = _checkpoint(config, step - 1, on_event)
            raise RunStopped(step - 1, checkpoint)
        time.sleep(0.05)
        if kind == "saving" and step % 5 == 0:
            _checkpoint(config, step, on_event)
        values = {"step": step, "planned_steps": steps, "loss": 1 / step, "tokens_per_second": 10.0}
        on_event(RunEvent("metrics", "", {**values, "peak_allocated_bytes": 2**20}))
    return {"steps": steps, "planned_steps": steps, "from": first, "devices": os.environ.get("CUDA_VISIBLE_DEVICES")}


def _checkpoint(config: Mapping[str, Any], step: int, on_event: Listener) -> Path:
    output = Path(config["output"]["directory"])
    directory = output / "checkpoints" / f"step-{step}"
    state = json.dumps({"identity": {"config": config}})
    write_checkpoint(output, step, lambda partial: (partial / STATE_FILE).write_text(state))
    on_event(RunEvent("checkpoint", str(directory), {"step": step}))
    return directory


if __name__ == "__main__":
    launch.RUNNER_MODULE = "tests.job_trial"
    works.WORKS = TRIAL_WORKS
    sys.exit(runner.main(sys.argv[1:], work))
