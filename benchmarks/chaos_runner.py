"""The runner of `chaos.py`: jobs whose model is called `real` train with the engine, all others do as if they did."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qlora_tools.checkpoints import problem_of, prune, write_checkpoint
from qlora_tools.durable import as_json, publish_directory, replace_file
from qlora_tools.errors import RunStopped, UsageError
from qlora_tools.events import Listener, RunEvent, StopAsked
from qlora_tools.jobs import launch, runner
from qlora_tools.jobs.layout import AttemptFolder, JobFolder

MODULE = "benchmarks.chaos_runner"
_STEP_SECONDS, _SAVE_EVERY = 0.04, 10
_WEIGHTS = b"w" * 200_000


def work(job: JobFolder, attempt: AttemptFolder, stop: StopAsked, on_event: Listener) -> Mapping[str, Any]:
    """Train, or write what a training would write: metrics, checkpoints, an adapter, and the result last."""
    config = json.loads(job.config_file.read_text(encoding="utf-8"))
    if Path(config["model"]["name"]).name == "real":
        from qlora_tools.jobs.training import train_as_planned

        return train_as_planned(job, attempt, stop, on_event)
    output = Path(config["output"]["directory"])
    output.mkdir(parents=True, exist_ok=True)
    request = json.loads(attempt.request_file.read_text(encoding="utf-8"))
    step = _first_step(output, request["resume_from"])
    on_event(RunEvent("phase", "Training"))
    while step < config["training"]["max_steps"]:
        if stop():
            raise RunStopped(step, _save(output, step, on_event))
        step += 1
        time.sleep(_STEP_SECONDS)
        _tell(output, step, config["training"]["max_steps"], on_event)
        if step % _SAVE_EVERY == 0:
            _save(output, step, on_event)
    return _finish(output, step)


def _first_step(output: Path, checkpoint: str | None) -> int:
    """The step of the checkpoint, which has to be whole; what a run without one finds of another is no concern of it."""
    if checkpoint is None:
        return 0
    problem = problem_of(Path(checkpoint))
    if problem is not None:
        raise UsageError(f"It was to go on from {checkpoint}: {problem}.", next_step="Look for the bug.")
    step = int(json.loads((Path(checkpoint) / "state.json").read_text(encoding="utf-8"))["step"])
    _append(output, {"event": "resumed", "step": step})
    return step


def _tell(output: Path, step: int, planned: int, on_event: Listener) -> None:
    values = {"step": step, "planned_steps": planned, "loss": 1 / step}
    _append(output, values)
    on_event(RunEvent("metrics", "", values))


def _append(output: Path, line: Mapping[str, Any]) -> None:
    with (output / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _save(output: Path, step: int, on_event: Listener) -> Path:
    def fill(directory: Path) -> None:
        (directory / "weights").write_bytes(_WEIGHTS)
        (directory / "state.json").write_bytes(as_json({"step": step, "identity": {"config": {}}}))

    saved = write_checkpoint(output, step, fill)
    prune(output, keep=2, best_step=None)
    on_event(RunEvent("checkpoint", str(saved), {"step": step}))
    return saved


def _finish(output: Path, step: int) -> dict[str, Any]:
    adapter = output / "adapter"
    if not adapter.exists():
        partial = output / f".adapter-{time.monotonic_ns()}"
        partial.mkdir()
        (partial / "adapter_model.safetensors").write_bytes(_WEIGHTS)
        publish_directory(partial, adapter)
    result = {"steps": step, "planned_steps": step, "output_directory": str(output), "adapter_directory": str(adapter)}
    replace_file(output / "result.json", as_json(result))
    return result


if __name__ == "__main__":
    launch.RUNNER_MODULE = MODULE
    sys.exit(runner.main(sys.argv[1:], work))
