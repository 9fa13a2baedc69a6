"""Staying with a job: its progress in this terminal, and what Ctrl-C means meanwhile."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ..jobs import JobStatus, stop_job
from ..jobs.following import Follower
from ..jobs.states import TERMINAL
from .console import watching


def follow_to_end(job_id: str, workspace: Path | None) -> JobStatus:
    """Show a job until it ends, or until the user lets go of it; returns its status then."""
    previous = _terminate_as_interrupt()
    try:
        return _followed(job_id, workspace)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _followed(job_id: str, workspace: Path | None) -> JobStatus:
    follower = Follower(job_id, workspace=workspace)
    asked_before = False
    while True:
        try:
            with watching() as listener:
                return follower.follow(listener)
        except KeyboardInterrupt:
            choice = "now" if asked_before else _choice()
        if choice == "detach":
            return follower.status()
        if choice != "continue":
            asked_before = True
            status = stop_job(job_id, now=choice == "now", workspace=workspace)
            if status.state not in TERMINAL:
                click.echo("Stopping with a checkpoint; Ctrl-C again ends it at once.", err=True)


def _choice() -> str:
    """What Ctrl-C is to do; without a terminal it stops the run with a checkpoint."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "stop"
    try:
        letter = click.prompt(
            "[d]etach (the run goes on), [s]top with a checkpoint, [c]ontinue to watch",
            type=click.Choice(["d", "s", "c"]),
            default="d",
            show_choices=False,
            err=True,
        )
    except click.Abort:
        return "now"
    return {"d": "detach", "s": "stop", "c": "continue"}[letter]


def _terminate_as_interrupt() -> Any:
    """Take SIGTERM as Ctrl-C, so that whoever ends this command ends the run with a checkpoint."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        return signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        return None  # Only the main thread may set it, and others are not ended that way.
