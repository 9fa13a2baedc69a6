"""How commands show jobs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Column, Table

from ..jobs import JobList, JobStatus
from ..jobs.clock import now
from ..jobs.course import course_of
from ..jobs.layout import TRAINING
from ..jobs.nouns import noun_of
from ..progress.durations import duration_words
from ..untrusted import visible_text
from .console import stdout

Command = TypeVar("Command", bound=Callable[..., Any])
_GIB = 2**30
_SILENT_SECONDS = 60.0
_COLUMNS = ("job", "kind", "state", "name", "step", "loss", "time", "queue")

workspace_option = click.option(
    "--workspace",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory whose jobs are meant. Otherwise QLORA_WORKSPACE, else the current directory.",
)


@contextmanager
def only_watching() -> Iterator[None]:
    """Ends the command with code 130 at Ctrl-C, and says that the job is left alone."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("\nNo longer watching; the job goes on.", err=True)
        raise click.exceptions.Exit(130) from None


def line_of(status: JobStatus) -> str:
    """A job in one line, as it stands now."""
    if status.state == "queued":
        return f"{status.id} waits, place {status.queue_position}: {visible_text(status.waiting_for or '')}"
    words = (f"{status.id} {status.state}", visible_text(course_of(status)), _silence(status))
    return " · ".join(word for word in words if word)


def show_table(listed: JobList) -> None:
    """Jobs as a table on stdout."""
    table = Table(
        *(Column(name, no_wrap=name in ("job", "kind", "state", "step")) for name in _COLUMNS), box=None, pad_edge=False
    )
    for job in listed.jobs:
        steps = "" if job.step is None else f"{job.step:,}" + (f"/{job.planned_steps:,}" if job.planned_steps else "")
        loss = "" if job.loss is None else f"{job.loss:.4f}"
        place = "" if job.queue_position is None else str(job.queue_position)
        name = visible_text(job.name) + (f" ({visible_text(Path(job.model).name)})" if job.model else "")
        table.add_row(job.id, job.kind, job.state, name, steps, loss, _time(job), place)
    stdout().print(table)
    hidden = listed.total - len(listed.jobs)
    if hidden > 0:
        click.echo(f"{hidden:,} more; --all shows them.")


def _time(job: JobStatus) -> str:
    """Time to the end of a running job, else how long ago it ended or was submitted."""
    if job.eta_seconds is not None:
        return f"ETA {duration_words(job.eta_seconds)}"
    moment = job.ended or job.started or job.created
    return f"{_ago(moment)} ago" if moment else ""


def _ago(moment: str) -> str:
    return duration_words(_seconds_since(moment))


def _seconds_since(moment: str) -> float:
    return max(0.0, now() - datetime.fromisoformat(moment).timestamp())


def show_status(status: JobStatus) -> None:
    """One job as a screen on stdout."""
    kind = "" if status.kind == TRAINING else f", {noun_of(status.kind)}"
    lines: list[tuple[str, str | None]] = [("Job", f"{status.id} ({status.name}{kind})"), ("State", _state(status))]
    lines += [("Message", status.message), ("Progress", course_of(status))]
    lines += [("Waits for", status.waiting_for), ("Model", status.model), ("Memory needed", _needed(status))]
    lines += [("Result", status.summary), ("Output", status.output_directory), ("Adapter", status.adapter_directory)]
    lines += [("Checkpoint", status.last_checkpoint)]
    lines += [(f"Attempt {one.attempt}", f"{one.state}: {one.message or ''}") for one in status.attempts[:-1]]
    lines += [("Warning", warning) for warning in status.warnings]
    lines += [("Next", status.next_step)]
    for name, value in lines:
        if value:
            click.echo(f"{name + ':':<15}{visible_text(value)}")


def _state(status: JobStatus) -> str:
    words = status.state if status.queue_position is None else f"{status.state}, place {status.queue_position}"
    words += f", attempt {status.attempt}" if status.attempt > 1 else ""
    moment = status.ended or status.started or status.created
    words += f" ({_ago(moment)} ago)" if moment else ""
    return ", ".join(word for word in (words, _silence(status)) if word)


def _silence(status: JobStatus) -> str:
    """How old the progress of a running job is; nothing while it tells of itself, every few seconds."""
    if status.state not in ("starting", "running", "stopping") or status.updated is None:
        return ""
    seconds = _seconds_since(status.updated)
    return f"last told {seconds // 60:.0f} min ago" if seconds > _SILENT_SECONDS else ""


def _needed(status: JobStatus) -> str:
    if status.needed_bytes is None:
        return f"a whole device ({status.needed_how})" if status.needed_how else ""
    return f"{status.needed_bytes / _GIB:.1f} GiB ({status.needed_how})"
