"""How far a job is, in a line."""

from typing import TYPE_CHECKING

from ..progress.durations import duration_words
from ..progress.line import status_line
from .layout import TRAINING

if TYPE_CHECKING:
    from .records import JobStatus

_OF_TRAINING = ("step", "planned_steps", "loss", "evaluation_loss", "tokens_per_second", "eta_seconds")


def course_of(status: "JobStatus") -> str:
    """Steps, loss and speed of a training; phase and pieces of other kinds. Before the first of them, what it does."""
    if status.kind != TRAINING:
        return _pieces(status)
    if status.step is None:
        return status.phase or ""
    return status_line({**status.model_dump(include=set(_OF_TRAINING)), "peak_allocated_bytes": status.memory})


def _pieces(status: "JobStatus") -> str:
    parts = [status.phase] if status.phase else []
    if status.step is not None:
        parts.append(f"{status.step:,}" + (f" of {status.planned_steps:,}" if status.planned_steps else ""))
    parts += [f"ETA {duration_words(status.eta_seconds)}"] if status.eta_seconds is not None else []
    return " · ".join(parts)
