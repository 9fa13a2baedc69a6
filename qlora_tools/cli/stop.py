"""`qlora stop`."""

from pathlib import Path

import click

from .console import json_option, print_json
from .job_screen import show_status, workspace_option


@click.command("stop")
@click.argument("job")
@click.option("--cancel", is_flag=True, help="End it for good: it cannot be resumed.")
@click.option("--now", is_flag=True, help="Do not wait for a checkpoint; kill it if it does not react within 3 s.")
@workspace_option
@json_option
def command(job: str, cancel: bool, now: bool, workspace: Path | None, as_json: bool) -> None:
    """Ask a job to end. It writes a checkpoint first, from which `qlora resume` goes on.

    JOB is an id, the beginning of one, a name, or `last`. A job that waits ends at once; one that has ended is left as it is.
    The command does not wait for the checkpoint: `qlora status JOB --wait 60` does.

    \b
      qlora stop last
      qlora stop job-k3 --cancel
      qlora stop job-k3 --now
    """
    from ..jobs import stop_job

    status = stop_job(job, cancel=cancel, now=now, workspace=workspace)
    print_json(status.model_dump(mode="json")) if as_json else show_status(status)
