"""`qlora resume`."""

from pathlib import Path

import click

from ..config.overrides import settings_from_pairs
from .console import json_option
from .job_screen import workspace_option
from .train import finish


@click.command("resume")
@click.argument("job")
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE]...")
@click.option(
    "--from", "checkpoint", type=click.Path(path_type=Path), help="Checkpoint to go on from; else the last one."
)
@click.option("--from-start", is_flag=True, help="Begin again; checkpoints that are there are moved aside.")
@click.option("--detach", is_flag=True, help="Return at once; the run goes on by itself.")
@workspace_option
@json_option
def command(
    job: str,
    changes: tuple[str, ...],
    checkpoint: Path | None,
    from_start: bool,
    detach: bool,
    workspace: Path | None,
    as_json: bool,
) -> int:
    """Go on with a job that was stopped, interrupted or failed, from its last complete checkpoint.

    JOB is an id, the beginning of one, a name, or `last`. The job keeps its id and gets its next attempt, at the end of the
    queue. A job that never had a checkpoint begins again; where none is whole, you are told.

    \b
      qlora resume last
      qlora resume job-k3 --from out/checkpoints/step-400
      qlora resume job-k3 micro_batch_size=1 gradient_accumulation_steps=32

    NAME=VALUE changes a field of the config from here on; what would make another run of it is refused.
    Exit codes as of `qlora train`.
    """
    from ..jobs import resume_job
    from ..paths import as_path

    chosen = as_path(str(checkpoint)) if checkpoint is not None else None
    status = resume_job(
        job,
        from_checkpoint=chosen,
        from_start=from_start,
        changes=settings_from_pairs(changes),
        workspace=workspace,
    )
    return finish(status, workspace, detach=detach, as_json=as_json)
