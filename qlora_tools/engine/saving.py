"""When a checkpoint is due, saving it, and what happens when the disk is full."""

import errno
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoints import checkpoints_directory, last_complete, prune, remove_superseded
from ..disk import DISK_FULL
from ..errors import DiskSpaceError
from ..events import Listener, RunEvent
from .training_state import TrainingState, save_state

_SECONDS_BETWEEN = 600.0


class CheckpointSaver:
    """Saves the states of one run below its output directory, and removes old ones by the run's own rule."""

    def __init__(
        self, output: Path, identity: Mapping[str, Any], *, keep: int, every_steps: int | None, on_event: Listener
    ) -> None:
        self._output = output
        self._identity = identity
        self._keep = keep
        self._every_steps = every_steps
        self._on_event = on_event
        self._saved_at = time.monotonic()
        self.last: Path | None = None
        # What must be on the disk before a checkpoint is: the metrics of the steps before it.
        self.before: Callable[[], None] = lambda: None

    def is_due(self, step: int) -> bool:
        """Whether the state after `step` is to be kept: every so many steps, else every ten minutes."""
        if self._every_steps is not None:
            return step % self._every_steps == 0
        return time.monotonic() - self._saved_at >= _SECONDS_BETWEEN

    def save(self, state: TrainingState) -> Path:
        """Save `state` unless that step is saved, and remove what is beyond the number to keep.

        Raises `DiskSpaceError`, which names the last complete checkpoint.
        """
        step = state.loop.step
        if self.last is not None and self.last == self.place_of(step):
            return self.last
        began = time.monotonic()
        self.before()
        self.last = self._saved(state)
        prune(self._output, keep=self._keep, best_step=state.best.step)
        self._saved_at = time.monotonic()
        self._on_event(RunEvent("checkpoint", str(self.last), {"step": step, "seconds": self._saved_at - began}))
        return self.last

    def place_of(self, step: int) -> Path:
        """The directory of the checkpoint of `step`, there or not."""
        return checkpoints_directory(self._output) / f"step-{step}"

    def _saved(self, state: TrainingState) -> Path:
        try:
            return save_state(state, self._output, self._identity)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
        except DiskSpaceError:
            pass
        # Room for one more may be found among the old ones.
        remove_superseded(self._output)
        prune(self._output, keep=1, best_step=state.best.step)
        try:
            return save_state(state, self._output, self._identity)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise self.disk_full(os_words(error)) from None
        except DiskSpaceError as error:
            raise self.disk_full(error.message) from None

    def disk_full(self, reason: str) -> DiskSpaceError:
        """The error of a run that the disk has no room for, with the last complete checkpoint."""
        last = last_complete(self._output)
        kept = f"the last complete checkpoint is {last}" if last else "there is no complete checkpoint"
        return DiskSpaceError(
            f"The disk of {self._output} is full, and the run has stopped; {kept}. {reason}",
            next_step="Free space there, then resume from that checkpoint."
            if last
            else "Free space, then start again.",
        )


def os_words(error: OSError) -> str:
    """The system's own words for an error."""
    return f"({errno.errorcode.get(error.errno or 0, 'OSError')}: {error.strerror})"
