"""The state of an attempt: one pure function of what was read."""

from .facts import AttemptFacts

QUEUED = ("created", "queued")  # created: planned by a dry run, and nothing written
TERMINAL = ("succeeded", "failed", "cancelled", "stopped", "interrupted")
RESUMABLE = ("failed", "stopped", "interrupted")
STATES = ("created", "queued", "starting", "running", "stopping", *TERMINAL)


def state_of(attempt: AttemptFacts) -> str:
    """The state; a terminal one may still wait for its verdict to be written, see `needs_verdict`."""
    if attempt.exit is not None:
        return _told(attempt.exit)
    if attempt.started is None:
        return "queued"
    if attempt.started.get("began") is False:
        return _told(attempt.started.get("verdict") or {})
    if not attempt.alive:
        return state_of_dead(attempt)
    if attempt.asked_to:
        return "stopping"
    return "running" if attempt.stepping else "starting"


def state_of_dead(attempt: AttemptFacts) -> str:
    """What became of a run that ended without a word: as asked, where it was killed at request, else interrupted."""
    if attempt.asked_to == "cancel":
        return "cancelled"
    return "stopped" if attempt.stop_now is not None else "interrupted"


def needs_verdict(attempt: AttemptFacts) -> bool:
    """Whether it has ended and nobody has written that down."""
    return attempt.exit is None and state_of(attempt) in TERMINAL


def _told(verdict: dict[str, object]) -> str:
    state = verdict.get("state")
    return state if isinstance(state, str) and state in TERMINAL else "interrupted"
