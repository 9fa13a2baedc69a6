"""Staying with a job: its progress in this terminal, and what Ctrl-C and SIGTERM mean meanwhile."""

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

_QUESTION = "[d]etach (the run goes on), [s]top with a checkpoint, [c]ontinue to watch"
_ANSWERS = {"": "detach", "d": "detach", "s": "stop", "c": "continue"}


class _Terminated(KeyboardInterrupt):
    """SIGTERM: nobody is there to be asked."""


def follow_to_end(job_id: str, workspace: Path | None) -> JobStatus:
    """Show a job until it ends, or until the user lets go of it; returns its status then."""
    previous = _raise_at_sigterm()
    try:
        return _followed(job_id, workspace)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _followed(job_id: str, workspace: Path | None) -> JobStatus:
    follower = Follower(job_id, workspace=workspace)
    choice = "continue"
    while choice != "detach":
        try:
            if choice in ("stop", "now"):
                _stop(follower.status(), workspace, now=choice == "now")
            with watching() as listener:
                return follower.follow(listener)
        except KeyboardInterrupt as interrupt:
            choice = "now" if choice in ("stop", "now") else _choice(interrupt)
    return follower.status()


def _stop(before: JobStatus, workspace: Path | None, *, now: bool) -> None:
    status = stop_job(before.id, now=now, workspace=workspace)
    for warning in status.warnings:
        if warning not in before.warnings:
            click.echo(warning, err=True)
    if status.state not in TERMINAL:
        click.echo("Stopping with a checkpoint; Ctrl-C again ends it at once.", err=True)


def _choice(interrupt: KeyboardInterrupt) -> str:
    """What is to be done; without a terminal, and at a second interrupt, a stop with a checkpoint."""
    if isinstance(interrupt, _Terminated) or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "stop"
    try:
        return _answer()
    except KeyboardInterrupt:
        click.echo(err=True)
        return "stop"


def _answer() -> str:
    """The answer on the terminal; Ctrl-D and Enter detach, which ends nothing."""
    while True:
        click.echo(f"{_QUESTION} [d]: ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            click.echo(err=True)
        answer = _ANSWERS.get(line.strip().lower())
        if answer is not None:
            return answer


def _raise_at_sigterm() -> Any:
    """Let SIGTERM end the run with a checkpoint, whoever ends this command; returns what it did before."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    try:
        return signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        return None  # Only the main thread may set it, and others are not ended that way.
