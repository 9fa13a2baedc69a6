"""The base of all results."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """Frozen, and without fields that nobody declared.

    Figures of a model that is broken are no numbers; JSON then has words for them (`"NaN"`), which are read back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def as_document(self) -> dict[str, Any]:
        """Plain data that any JSON writer takes; `model_dump` leaves figures in it that are no numbers."""
        document: dict[str, Any] = json.loads(self.model_dump_json())
        return document
