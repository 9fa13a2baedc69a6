"""The process of a job: `python -m qlora_tools.jobs.runner JOB_DIRECTORY ATTEMPT`.

It locks the job, waits for its turn, trains, and writes the verdict. Until its turn it imports next to nothing, so that
many may wait. Whatever kills it, the kernel frees the lock, and whoever looks next knows that it died.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..events import Listener, StopAsked
from .launch import DEVICES_VARIABLE, note
from .layout import AttemptFolder, JobFolder
from .locks import hold
from .turns import Queue, workspace_of

# A runner of the attempt before may still be putting its libraries away.
_LOCK_SECONDS = 20.0

# Does the job's work and returns what stands in the verdict as its result.
Work = Callable[[JobFolder, AttemptFolder, StopAsked, Listener], Mapping[str, Any]]


def main(arguments: list[str], work: Work | None = None) -> int:
    """Run one attempt of a job to its verdict; returns the exit code of the process."""
    os.umask(0o077)
    job = JobFolder(Path(arguments[0]))
    attempt = job.attempt(int(arguments[1]))
    try:
        locked = hold(job.lock_file, wait_seconds=_LOCK_SECONDS)
    except FileNotFoundError:
        return 0  # The job was removed.
    if not locked:
        note(attempt, "left")
        return 0
    note(attempt, "waiting", pid=os.getpid())
    turn = Queue(workspace_of(job.path), job, attempt).wait_for_turn()
    if turn is None:
        return 0
    if turn.device is not None:
        os.environ[DEVICES_VARIABLE] = turn.device
    from .running import run_attempt

    return run_attempt(job, attempt, work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
