"""`qlora logs`."""

import time
from pathlib import Path

import click

from .console import json_option, print_json
from .job_screen import only_watching, workspace_option

_FOLLOW_SECONDS = 0.5


@click.command("logs")
@click.argument("job")
@click.option("-n", "--lines", type=click.IntRange(0), default=100, show_default=True, help="So many lines of its end.")
@click.option("--follow", is_flag=True, help="Go on with new lines until the job ends.")
@workspace_option
@json_option
def command(job: str, lines: int, follow: bool, workspace: Path | None, as_json: bool) -> None:
    """Show the log of a job: what its process wrote, tracebacks too, without secrets and control characters.

    JOB is an id, the beginning of one, a name, or `last`.

    \b
      qlora logs last
      qlora logs last -n 500
      qlora logs last --follow
    """
    from ..jobs import read_log

    part = read_log(job, lines=lines, workspace=workspace)
    if follow and not as_json:
        with only_watching():
            click.echo(part.text, nl=False)
            _follow(part.id, part.next_byte, workspace)
        return
    print_json(part.model_dump(mode="json")) if as_json else click.echo(part.text, nl=False)


def _follow(job_id: str, offset: int, workspace: Path | None) -> None:
    from ..jobs import get_job, read_log
    from ..jobs.states import TERMINAL

    ended = False
    while not ended:
        ended = get_job(job_id, workspace=workspace).state in TERMINAL
        part = read_log(job_id, since_byte=offset, workspace=workspace)
        click.echo(part.text, nl=False)
        offset = part.next_byte
        time.sleep(0 if ended else _FOLLOW_SECONDS)
