"""What a job's report is made of: what the job store knows, and what its output directory holds."""

from pathlib import Path

from ..errors import UsageError
from ..evaluation.store import PAGE_FILE
from ..progress.metrics import Course
from ..progress.summary import JobFacts, RunSummary, read_run
from ..report.loss_curve import Curve
from .layout import TRAINING
from .records import JobStatus


def read_job_run(status: JobStatus) -> tuple[RunSummary, Course]:
    """The run of a training job, while it goes too. Raises as `read_run` does, and `UsageError` for jobs of other kinds."""
    require_training(status)
    return read_run(Path(status.output_directory), job_facts(status))


def require_training(status: JobStatus) -> None:
    """Raise `UsageError` for a job without steps and losses."""
    if status.kind != TRAINING:
        raise UsageError(
            f"The job {status.id} is no training, so there is no course of losses.",
            next_step=f"Its result says what came of it: qlora status {status.id} --json",
        )


def evaluation_page(status: JobStatus, output: Path) -> Path:
    """The page that an evaluation has written into `output`. Raises `UsageError` before there is one."""
    page = output / PAGE_FILE
    if not page.is_file():
        raise UsageError(
            f"The evaluation {status.id} has no page yet: {page} is missing.",
            next_step=status.next_step or "Look again when it has ended.",
        )
    return page


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
