"""The base of all results."""

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """Frozen, and without fields that nobody declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")
