"""Tickets: one file for each job without a verdict, so that those are found without looking at all jobs."""

import secrets
from pathlib import Path

from .. import durable
from .clock import now
from .layout import Ticket, Workspace, names_in


def tickets(space: Workspace) -> list[Ticket]:
    """All tickets, the front of the queue first. Raises `FileNotFoundError` where the folder is missing."""
    return sorted(ticket for name in names_in(space.active) if (ticket := Ticket.parse(name)) is not None)


def next_sequence(space: Workspace) -> int:
    """A place behind all others, also when the clock was put back."""
    taken = tickets(space)
    return max(int(now() * 1e9), taken[-1].sequence + 1 if taken else 0)


def put(space: Workspace, ticket: Ticket) -> None:
    """Make the ticket, if it is not there. Raises `OSError`."""
    try:
        durable.write_once(space.active / ticket.name, b"")
    except FileExistsError:
        return


def take_away(space: Workspace, ticket: Ticket) -> None:
    """Remove the ticket. One that cannot be removed is met again and does no harm."""
    try:
        (space.active / ticket.name).unlink(missing_ok=True)
    except OSError:
        return


def age_seconds(path: Path) -> float:
    """How long ago `path` was changed; 0 where it is gone."""
    try:
        return now() - path.lstat().st_mtime
    except OSError:
        return 0.0


def make_folder(space: Workspace, found: list[Ticket]) -> None:
    """Make the folder of tickets with those of `found`, at once; another who did so first wins."""
    partial = space.root / f".new-active-{secrets.token_hex(4)}"
    partial.mkdir(mode=0o700)
    for ticket in found:
        (partial / ticket.name).touch(mode=0o600)
    try:
        durable.publish_directory(partial, space.active)
    except OSError:
        for path in partial.iterdir():
            path.unlink()
        partial.rmdir()
        if not space.active.is_dir():
            raise


def positions(space: Workspace) -> dict[str, int]:
    """The places of the waiting jobs, from 1."""
    found = tickets(space) if space.active.is_dir() else []
    waiting = [one for one in found if not space.job(one.job_id).attempt(one.attempt).started_file.exists()]
    return {ticket.job_id: place for place, ticket in enumerate(waiting, start=1)}
