"""Running rendered scripts in tests: `run_script` is a fixture of the session."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch


@dataclass(frozen=True)
class ScriptRun:
    """How a script ended, and all that it printed."""

    code: int
    output: str


RunScript = Callable[..., ScriptRun]


@pytest.fixture(scope="session")
def run_script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunScript]:
    """`run_script(path, "--resume")`: run a script in its folder, in an environment that lacks this package."""
    nursery = Path(__file__).with_name("script_nursery.py")
    command = [sys.executable, "-I", "-S", str(nursery), sysconfig.get_path("purelib"), str(torch.get_num_threads())]
    log = tmp_path_factory.mktemp("scripts") / "log"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        def run(script: Path, *arguments: str) -> ScriptRun:
            asked = {"script": str(script), "arguments": arguments, "folder": str(script.parent), "log": str(log)}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            code = json.loads(process.stdout.readline())
            return ScriptRun(code, log.read_text(encoding="utf-8", errors="replace"))

        yield run
        process.stdin.close()


def losses_of(output: Path) -> list[float]:
    """The loss of every logged step of a training script's run."""
    state = json.loads((output / "checkpoints" / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def evaluation_losses_of(output: Path) -> dict[int, float]:
    """The evaluation losses of a training script's run, by step."""
    state = json.loads((output / "checkpoints" / "trainer_state.json").read_text(encoding="utf-8"))
    return {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
