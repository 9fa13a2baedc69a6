"""`qlora status`."""

import sys
import time
from pathlib import Path

import click

from ..jobs import JobStatus
from .console import json_option, print_json
from .job_screen import line_of, only_watching, show_status, workspace_option

_FOLLOW_SECONDS = 1.0


@click.command("status")
@click.argument("job")
@click.option("--follow", is_flag=True, help="Show a line that moves until the job ends.")
@click.option("--wait", "wait_seconds", type=click.FloatRange(0), default=0.0, help="Wait so many seconds for its end.")
@workspace_option
@json_option
def command(job: str, follow: bool, wait_seconds: float, workspace: Path | None, as_json: bool) -> None:
    """Show one job: its state, how far it is, what it waits for, how it ended, and what to do next.

    JOB is an id, the beginning of one, a name, or `last` for the newest.

    \b
      qlora status last
      qlora status job-k3 --follow
      qlora status last --wait 600 --json

    A wait that runs out is no error, and Ctrl-C leaves the job alone. Exit codes: 0 the job was found, whatever its
    state; 2 it was not; 130 Ctrl-C.
    """
    from ..jobs import get_job

    with only_watching():
        status = get_job(job, wait_seconds=wait_seconds, workspace=workspace)
        if follow:
            status = _followed(status, workspace)
    print_json(status.model_dump(mode="json")) if as_json else show_status(status)


def _followed(status: JobStatus, workspace: Path | None) -> JobStatus:
    """Show the job's line on stderr until it ends; where that is no terminal, once for each change."""
    from ..jobs import get_job
    from ..jobs.states import TERMINAL

    moves, shown = sys.stderr.isatty(), ""
    while status.state not in TERMINAL:
        line = line_of(status)
        if line != shown:
            click.echo(f"\r\x1b[K{line}" if moves else line, nl=not moves, err=True)
            shown = line
        time.sleep(_FOLLOW_SECONDS)
        status = get_job(status.id, workspace=workspace)
    if moves:
        click.echo("\r\x1b[K", nl=False, err=True)
    return status
