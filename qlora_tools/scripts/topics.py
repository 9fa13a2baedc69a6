"""Why a line stands in a script that belongs to no field of the config."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """What lines of a script are there for: `reason` says why they are needed, `source` who says so, `effect` what leaving
    them out would do."""

    title: str
    reason: str
    source: str
    effect: str
