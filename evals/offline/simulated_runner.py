"""A runner whose work takes no GPU: it reads the rows, "runs out of memory" where a step is too large, and counts steps.

All around the work is the product: the process, its lock, the queue, checkpoints, verdicts. The name of the model's folder
says how much memory there is: `small-card` has room for steps of 512 tokens, others for any.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qlora_tools.checkpoints import write_checkpoint
from qlora_tools.config import RunConfig
from qlora_tools.data.reading.sources import DataSource
from qlora_tools.data.reading.stream import open_rows
from qlora_tools.errors import MachineError, RunStopped
from qlora_tools.events import Listener, RunEvent, StopAsked
from qlora_tools.going_on import STATE_FILE
from qlora_tools.jobs import launch, runner
from qlora_tools.jobs.layout import AttemptFolder, JobFolder
from qlora_tools.jobs.training import with_changes

MODULE = "evals.offline.simulated_runner"
SMALL_CARD, SMALL_CARD_TOKENS = "small-card", 512
_STEP_SECONDS = 0.05
# Without checkpointing a step holds the activations of all layers.
_WITHOUT_CHECKPOINTING = 4


def work(job: JobFolder, attempt: AttemptFolder, stop: StopAsked, on_event: Listener) -> Mapping[str, Any]:
    """The work of one attempt. Raises what a run raises."""
    request = json.loads(attempt.request_file.read_text(encoding="utf-8"))
    config = with_changes(json.loads(job.config_file.read_text(encoding="utf-8")), request["changes"])
    rows = sum(1 for _ in open_rows(DataSource(config.data.path)))
    on_event(RunEvent("phase", "Training"))
    _require_memory(config)
    first = int(Path(request["resume_from"]).name.split("-")[1]) if request["resume_from"] else 0
    steps = config.training.max_steps or rows
    for step in range(first + 1, steps + 1):
        if stop():
            raise RunStopped(step - 1, _checkpoint(config, step - 1, on_event))
        time.sleep(_STEP_SECONDS)
        values = {"step": step, "planned_steps": steps, "loss": 1 / step, "tokens_per_second": 10.0}
        on_event(RunEvent("metrics", "", {**values, "peak_allocated_bytes": 2**20}))
    return {"steps": steps, "planned_steps": steps, "learning_rate": config.training.learning_rate}


def _require_memory(config: RunConfig) -> None:
    training = config.training
    tokens = training.micro_batch_size * training.max_length_tokens
    tokens *= 1 if training.gradient_checkpointing else _WITHOUT_CHECKPOINTING
    if Path(config.model.name).name == SMALL_CARD and tokens > SMALL_CARD_TOKENS:
        # In the words of the engine.
        raise MachineError(
            "The GPU ran out of memory in the backward pass of step 1; micro-batches of "
            f"{training.micro_batch_size} cannot be halved again. No step was done.",
            next_step="Turn training.gradient_checkpointing on, then lower training.max_length_tokens; `nvidia-smi` shows "
            "what else uses the GPU, `qlora estimate` what fits.",
        )


def _checkpoint(config: RunConfig, step: int, on_event: Listener) -> Path:
    output = Path(config.output.directory)
    state = json.dumps({"identity": {"config": config.model_dump(mode="json")}})

    def write(partial: Path) -> None:
        (partial / STATE_FILE).write_text(state, encoding="utf-8")

    write_checkpoint(output, step, write)
    directory = output / "checkpoints" / f"step-{step}"
    on_event(RunEvent("checkpoint", str(directory), {"step": step}))
    return directory


if __name__ == "__main__":
    launch.RUNNER_MODULE = MODULE
    sys.exit(runner.main(sys.argv[1:], work))
