"""A runner whose work is in a bad way, as `model.name` of its config says; beside `job_trial`, whose works are good ones."""

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qlora_tools import durable
from qlora_tools.checkpoints import write_checkpoint
from qlora_tools.disk import disk_errors
from qlora_tools.errors import RunStopped
from qlora_tools.events import Listener, RunEvent, StopAsked
from qlora_tools.going_on import STATE_FILE
from qlora_tools.jobs import launch, runner
from qlora_tools.jobs.layout import AttemptFolder, JobFolder

FLOOD_BYTES = 100 * 2**20
BALLAST = "ballast"
# A file of this name beside the output says that no small disk is mounted there.
NO_DISK = "no small disk"


def work(job: JobFolder, attempt: AttemptFolder, stop: StopAsked, on_event: Listener) -> Mapping[str, Any]:
    config = json.loads(job.config_file.read_text(encoding="utf-8"))
    output = Path(config["output"]["directory"])
    output.mkdir(exist_ok=True)
    on_event(RunEvent("phase", "Training"))
    WORKS[Path(config["model"]["name"]).name](output, stop, on_event)
    return {"steps": 1, "planned_steps": 1}


def _step(on_event: Listener, step: int) -> None:
    on_event(RunEvent("metrics", "", {"step": step, "planned_steps": 100, "loss": 1.0}))


def _wait(output: Path, word: str) -> None:
    """Until the test writes that file into the output directory."""
    while not (output / word).exists():
        time.sleep(0.01)


def loading(output: Path, stop: StopAsked, on_event: Listener) -> None:
    """Never comes to its first step."""
    _wait(output, "go")


def stepping(output: Path, stop: StopAsked, on_event: Listener) -> None:
    """Does a step and then no more, whatever is asked."""
    _step(on_event, 1)
    _wait(output, "go")


def saving(output: Path, stop: StopAsked, on_event: Listener) -> None:
    """Saves two checkpoints, the second for as long as the test likes, and then waits until it is asked to stop."""
    for step in (1, 2):
        _step(on_event, step)
        saved = write_checkpoint(output, step, _slow_fill(output) if step == 2 else _fill)
        on_event(RunEvent("checkpoint", str(saved), {"step": step}))
    while not stop():
        time.sleep(0.01)
    raise RunStopped(2, saved)


def _fill(directory: Path) -> None:
    (directory / "weights").write_bytes(b"w" * 1000)
    (directory / STATE_FILE).write_text('{"identity": {"config": {}}}')


def _slow_fill(output: Path) -> Callable[[Path], None]:
    def fill(directory: Path) -> None:
        _fill(directory)
        (output / "in the save").touch()
        _wait(output, "go")

    return fill


def flood(output: Path, stop: StopAsked, on_event: Listener) -> None:
    """Writes 100 MB past Python's own output, as native libraries do, and is done as soon as the test says so."""
    on_event(RunEvent("note", "before the flood"))
    line = b"x" * 1023 + b"\n"
    for _ in range(FLOOD_BYTES // len(line)):
        os.write(1, line)
    on_event(RunEvent("note", "after the flood"))
    _wait(output, "go")


def with_a_child(output: Path, stop: StopAsked, on_event: Listener) -> None:
    """Forks, as loaders of data do; the child outlives it and holds all that it has open."""
    if os.fork() == 0:
        (output / "child").write_text(str(os.getpid()))
        _wait(output, "go")
        os._exit(0)
    stepping(output, stop, on_event)


def filling(output: Path, stop: StopAsked, on_event: Listener) -> None:
    """Fills the disk of its output to the last byte, and goes on as if nothing were."""
    _step(on_event, 1)
    fill_disk(output)
    for number in range(50):
        on_event(RunEvent("note", f"note {number} " + "n" * 500))
    on_event(RunEvent("warning", "the disk is full"))


def filling_for_good(output: Path, stop: StopAsked, on_event: Listener) -> None:
    """Fills the disk, and never ends by itself."""
    _step(on_event, 1)
    fill_disk(output)
    _wait(output, "go")


def fill_disk(directory: Path) -> None:
    """Leave no byte free; where a test could not mount a disk of its own, let this process find it full instead."""
    if (directory.parent / NO_DISK).exists():
        durable.reached = _full
        return
    with (directory / BALLAST).open("ab", buffering=0) as file, suppress(OSError):
        while True:
            os.write(file.fileno(), b"\1" * 4096)


def _full(step: str, path: Path) -> None:
    if step != "sync":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def failing_save(output: Path, stop: StopAsked, on_event: Listener) -> None:
    """Saves a checkpoint that the disk has room for, and one that it has not."""
    _step(on_event, 1)
    saved = write_checkpoint(output, 1, _fill)
    on_event(RunEvent("checkpoint", str(saved), {"step": 1}))

    def fill(directory: Path) -> None:
        fill_disk(output)
        _full("write", directory) if (output.parent / NO_DISK).exists() else _fill(directory)

    with disk_errors(output, left=f"the last complete checkpoint is {saved}"):
        write_checkpoint(output, 2, fill)


WORKS = {
    "loading": loading,
    "stepping": stepping,
    "saving": saving,
    "flood": flood,
    "with-a-child": with_a_child,
    "filling": filling,
    "filling-for-good": filling_for_good,
    "failing-save": failing_save,
}


if __name__ == "__main__":
    launch.RUNNER_MODULE = "tests.fault_trial"
    sys.exit(runner.main(sys.argv[1:], work))
