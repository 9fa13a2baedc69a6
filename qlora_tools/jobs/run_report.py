"""What a job's report is made of: what the job store knows, and what its output directory holds."""

from pathlib import Path

from ..progress.metrics import Course
from ..progress.summary import JobFacts, RunSummary, read_run
from ..report.loss_curve import Curve
from .records import JobStatus


def read_job_run(status: JobStatus) -> tuple[RunSummary, Course]:
    """The run of a job, while it goes too. Raises as `read_run` does."""
    return read_run(Path(status.output_directory), job_facts(status))


def job_facts(status: JobStatus) -> JobFacts:
    """What only the job store knows of a run."""
    attempts = [f"{one.attempt}: {one.state}" + (f", {one.message}" if one.message else "") for one in status.attempts]
    return JobFacts(
        status.id, status.state, status.message, status.next_step, status.planned_steps, attempts, status.warnings
    )


def curve_of(summary: RunSummary, course: Course) -> Curve:
    """The loss curve of a run."""
    return Curve(
        losses=course.series("loss"),
        evaluation_losses=course.evaluation_losses,
        learning_rates=course.series("learning_rate"),
        resumed=summary.resumed_after,
        recovered=summary.recovered_after,
    )


def curve_caption(summary: RunSummary) -> str:
    """The line below the title of its picture."""
    steps = f"{summary.step:,}" + (f" of {summary.planned_steps:,}" if summary.planned_steps else "")
    losses = summary.losses
    course = "" if losses is None else f" · loss {losses.first:.3f} → {losses.last:.3f}"
    return f"{steps} steps · {summary.state}{course}"
