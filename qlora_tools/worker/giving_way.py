"""When a warm worker must end: a job of its workspace wants the machine, or another warm worker does.

Of the warm workers of one user that see the same GPUs only one lives. It holds a lock for life; whoever wants to be next
leaves a note beside it, which the holder looks for, and waits for the lock. Locks and notes are freed or outdated by any end.
Workers on a CPU share it as other programs do.
"""

import os
import re
import time
from pathlib import Path

from ..errors import MachineError
from ..jobs.layout import Workspace
from ..jobs.locks import hold
from ..jobs.tickets import age_seconds, tickets
from ..models.packaged import cache_directory

_LOOK_SECONDS = 0.25
_WAIT_SECONDS = 30.0
_NOTE_SECONDS = 60.0


class GivingWay:
    """Looks for reasons to end. On a GPU what is under way may then go on for `grace_seconds`; on a CPU to its end."""

    def __init__(self, space: Workspace, *, on_gpu: bool, grace_seconds: float = 10.0) -> None:
        self.on_gpu = on_gpu
        self._space = space
        self._grace = grace_seconds
        self._claimed = False
        self._note = _place("wanted")
        self._looked = float("-inf")
        self._since: float | None = None
        self.reason: str | None = None

    def claim(self) -> None:
        """Become the one warm worker of the GPU. Raises `MachineError` where the other does not end in time."""
        if self._claimed or not self.on_gpu:
            return
        lock = _place("lock")
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.touch(mode=0o600)
        self._note.touch(mode=0o600)
        self._claimed = hold(lock, wait_seconds=_WAIT_SECONDS)
        self._note.unlink(missing_ok=True)
        if not self._claimed:
            raise MachineError(
                "Another warm worker of this user is answering on this machine and has not ended.",
                next_step="Try again when it has answered.",
            )

    def wanted(self) -> str | None:
        """Why this worker should end; None where nobody needs what it holds. Looks a few times a second at most."""
        if self.reason is None and time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            self.reason = self._found()
            self._since = time.monotonic() if self.reason else None
        return self.reason

    def overdue(self) -> bool:
        """Whether what is under way must end now."""
        if self.wanted() is None or self._since is None or not self.on_gpu:
            return False
        return time.monotonic() - self._since >= self._grace

    def _found(self) -> str | None:
        try:
            active = tickets(self._space)
        except OSError:
            active = []
        if active:
            return f"the job {active[0].job_id} runs or waits here"
        if self._claimed and self._note.exists() and age_seconds(self._note) < _NOTE_SECONDS:
            return "another warm worker was asked for on this machine"
        return None


def _place(name: str) -> Path:
    """The lock or the note of those that see the same GPUs."""
    seen = re.sub(r"[^\w-]", "_", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))[:80]
    return cache_directory() / "warm" / f"{seen}.{name}"
