"""Fields of a RunConfig by their dotted paths: which values they take, and their defaults."""

from typing import Any

from pydantic import BaseModel, ValidationError

from ..config import RunConfig
from ..config.data_schema import RowsConfig
from ..hiding import hidden_secrets
from ..untrusted import visible_text

_REQUIRED = {"model": {"name": "any"}, "data": {"path": "any"}, "output": {"directory": "any"}}


def unfit_to_show(value: Any) -> str:
    """Why a value of a recipe should stand in no config: secrets and hidden characters; empty where nothing is wrong."""
    if hidden_secrets(str(value)) != str(value):
        return "it holds a secret"
    texts = value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else (value,)
    hidden = any(isinstance(text, str) and visible_text(text) != text for text in texts)
    return "it holds hidden characters" if hidden else ""


def invalid(path: str, value: Any) -> str:
    """Why a field does not take a value; empty where it does."""
    part, _, name = path.rpartition(".")
    required = _REQUIRED.get(part.partition(".")[0], {})
    try:
        _model_of(part).model_validate({**required, name: value})
    except ValidationError as error:
        message = error.errors(include_url=False, include_input=False)[0]["msg"]
        return message.removeprefix("Value error, ").removeprefix("Input ")
    return ""


def default_of(path: str) -> Any:
    """Our default of a field, None where it has none."""
    part, _, name = path.rpartition(".")
    info = _model_of(part).model_fields[name]
    return None if info.is_required() else info.default


def _model_of(part: str) -> type[BaseModel]:
    model = RowsConfig if "." in part else RunConfig.model_fields[part].annotation
    assert isinstance(model, type) and issubclass(model, BaseModel)
    return model
