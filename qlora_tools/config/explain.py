"""What each value of a config means, for people and agents."""

from dataclasses import dataclass

from pydantic import BaseModel

from .library_arguments import FIELD_USE
from .schema import RunConfig


@dataclass(frozen=True)
class FieldExplanation:
    """One field of a config: its value, whether it was written or is the default, what it does, and who reads it."""

    field: str
    value: object
    is_default: bool
    meaning: str
    passed_to: str


def explain_config(config: RunConfig) -> list[FieldExplanation]:
    """Every field of `config` in the order of the schema."""
    parts = ((name, getattr(config, name)) for name in RunConfig.model_fields)
    return [explanation for name, part in parts for explanation in _explain_part(name, part)]


def _explain_part(part_name: str, part: BaseModel) -> list[FieldExplanation]:
    values = part.model_dump(mode="json")
    return [
        FieldExplanation(
            field=f"{part_name}.{name}",
            value=values[name],
            is_default=name not in part.model_fields_set,
            meaning=info.description or "",
            passed_to=FIELD_USE[f"{part_name}.{name}"],
        )
        for name, info in type(part).model_fields.items()
    ]
