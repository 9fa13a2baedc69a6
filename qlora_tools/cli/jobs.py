"""`qlora jobs`."""

from pathlib import Path

import click

from ..jobs.states import STATES
from .console import json_option, print_json
from .job_screen import show_table, workspace_option


@click.command("jobs")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="Only these; may be given repeatedly."
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="So many, the newest.")
@click.option("--all", "show_all", is_flag=True, help="All jobs, whatever --limit says.")
@click.option(
    "--prune", "prune_days", type=click.FloatRange(0), help="Remove records of jobs that ended so many days ago."
)
@workspace_option
@json_option
def command(
    states: tuple[str, ...],
    limit: int,
    show_all: bool,
    prune_days: float | None,
    workspace: Path | None,
    as_json: bool,
) -> None:
    """List the jobs of the workspace, the newest first: state, steps, loss, time to the end or since it, queue.

    \b
      qlora jobs
      qlora jobs --state running --state queued
      qlora jobs --prune 30      forget jobs that ended more than 30 days ago; their outputs stay

    States: queued (waits for its turn), starting, running, stopping, and at the end succeeded, failed, cancelled,
    stopped (can be resumed), interrupted (killed, or the machine stopped; can be resumed).
    """
    from ..jobs import list_jobs, prune_jobs

    removed = prune_jobs(prune_days, workspace=workspace) if prune_days is not None else []
    listed = list_jobs(states=states, limit=None if show_all else limit, workspace=workspace)
    if as_json:
        print_json({**listed.model_dump(mode="json"), "removed": removed})
        return
    for note in listed.notes:
        click.echo(note, err=True)
    if prune_days is not None:
        click.echo(f"Removed the records of {len(removed)} jobs; what they produced is still there.")
    show_table(listed) if listed.jobs else click.echo("No jobs. Start one: qlora train run.yaml --detach")
