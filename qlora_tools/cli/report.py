"""`qlora report`."""

from pathlib import Path

import click

from ..jobs.run_report import curve_caption, curve_of, evaluation_page, job_facts, require_training
from ..paths import as_path
from ..progress.durations import duration_words
from ..progress.metrics import Course
from ..progress.summary import JobFacts, RunSummary, read_run
from ..report.job_page import check_job_page, verdict_words, write_job_page
from ..report.loss_curve import write_loss_curve
from ..report.pictures import check_picture, new_figure
from .console import json_option, print_json, stderr
from .job_screen import workspace_option

_file = click.Path(path_type=Path)


@click.command("report")
@click.argument("run", metavar="J")
@click.option(
    "-o", "--output", type=_file, help="Where the page goes (.html).  [default: report.html in J's directory]"
)
@click.option("--curve", type=_file, help="Write the loss curve as a picture (PNG).")
@workspace_option
@json_option
def command(run: str, output: Path | None, curve: Path | None, workspace: Path | None, as_json: bool) -> None:
    """Tell how a run went or goes: losses, samples, memory, what was noticed, and what to do next.

    J is the output directory of a run, the id of a job, or `last`. The run may still go, or have been killed. Of an
    evaluation the page that it wrote itself is named.

    \b
      qlora report out
      qlora report last -o report.html --curve curve.png
      qlora report out --json

    With --json a page is written only where -o asks for one.
    """
    if (finished := _evaluation(run, workspace)) is not None:
        print_json({"written": [str(finished)]}) if as_json else click.echo(f"The evaluation's page: {finished}")
        return
    directory, job = _found(run, workspace)
    page = as_path(str(output)) if output else None if as_json else directory / "report.html"
    picture = as_path(str(curve)) if curve else None
    if page is not None:
        check_job_page(page)
    if picture is not None:
        check_picture(picture)
        new_figure(1, 1)
    summary, course = read_run(directory, job)
    written = _write(summary, course, page, picture)
    _show_json(summary, written) if as_json else _show(summary, written)


def _evaluation(run: str, workspace: Path | None) -> Path | None:
    """The page that a job wrote itself, being an evaluation; None for others and for paths."""
    if _is_path(run):
        return None
    from ..jobs import get_job

    status = get_job(run, workspace=workspace)
    return evaluation_page(status, Path(status.output_directory)) if status.kind == "evaluate" else None


def _is_path(run: str) -> bool:
    """A path is told by its form, or by being there."""
    return "/" in run or run.startswith((".", "~")) or as_path(run).is_dir()


def _found(run: str, workspace: Path | None) -> tuple[Path, JobFacts | None]:
    """The output directory, and what the job store knows."""
    if _is_path(run):
        return as_path(run), None
    from ..jobs import get_job

    status = get_job(run, workspace=workspace)
    require_training(status)
    return Path(status.output_directory), job_facts(status)


def _write(summary: RunSummary, course: Course, page: Path | None, picture: Path | None) -> list[Path]:
    drawn = curve_of(summary, course)
    document, written = summary.model_dump(mode="json"), []
    if page is not None:
        write_job_page(page, document, drawn)
        written.append(page)
    if picture is not None:
        title = summary.job_id or Path(summary.output_directory).name
        if write_loss_curve(picture, drawn, title=title, below=curve_caption(summary)):
            written.append(picture)
        else:
            stderr().print("No curve was drawn: there is no loss yet.", markup=False)
    return written


def _show_json(summary: RunSummary, written: list[Path]) -> None:
    document = summary.model_dump(mode="json")
    last = max((sample.step for sample in summary.samples), default=None)
    document["samples"] = [sample for sample in document["samples"] if sample["step"] == last]
    print_json({**document, "written": [str(path) for path in written]})


def _show(summary: RunSummary, written: list[Path]) -> None:
    click.echo(f"{summary.state}: {summary.message}")
    click.echo(verdict_words(summary.model_dump(mode="json")))
    left = summary.speed.eta_seconds
    if left is not None and summary.state not in ("failed", "stopped", "interrupted", "cancelled"):
        click.echo(f"Left at the recent pace: {duration_words(left)}")
    for warning in summary.warnings:
        click.echo(f"! {warning.message}" + (f"\n  → {warning.next_step}" if warning.next_step else ""))
    for path in written:
        click.echo(f"Written: {path}")
    click.echo(f"Next: {summary.next_step}")
