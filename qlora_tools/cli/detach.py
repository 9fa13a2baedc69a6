"""`--detach` of commands that can run as jobs, and the options that go with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import click

from ..jobs.nouns import WorkKind
from .console import Command
from .job_screen import workspace_option
from .train import finish


class DetachOptions(TypedDict):
    """What `detach_options` gives to a command."""

    detach: bool
    name: str | None
    idempotency_key: str | None
    workspace: Path | None


def detach_options(command: Command) -> Command:
    """Give a command `--detach`, `--name`, `--idempotency-key` and `--workspace`."""
    options = (
        click.option("--detach", is_flag=True, help="Start it as a job and return at once."),
        click.option("--name", help="With --detach: what the job is called in lists."),
        click.option(
            "--idempotency-key", help="With --detach, any text: the same with the same arguments starts one job."
        ),
        workspace_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def start_detached(kind: WorkKind, arguments: Mapping[str, Any], options: DetachOptions, *, as_json: bool) -> int:
    """Start the work as a job, and show its handle."""
    from ..jobs import start_work

    status = start_work(
        kind,
        arguments,
        workspace=options["workspace"],
        idempotency_key=options["idempotency_key"],
        name=options["name"],
    )
    return finish(status, options["workspace"], detach=True, as_json=as_json)
