"""What every script about one base model is told: choices that templates branch on, and values that they print."""

import os
from dataclasses import dataclass, field

from ..config.schema import ModelConfig, RunConfig
from ..models.catalogue import CATALOGUE
from ..models.reference import ModelReference
from ..paths import as_path
from .literals import Value
from .rendering import Choice


@dataclass(frozen=True)
class ScriptInputs:
    """What one template is rendered with, and what the reader of the script should know besides."""

    choices: dict[str, Choice]
    values: dict[str, Value]
    notes: tuple[str, ...] = field(default=())


def base_inputs(config: RunConfig) -> ScriptInputs:
    """The base model and how it is held: the same in every script.

    Choices: `quantization`, `compute_dtype`, `storage_dtype`, `has_revision`. Values: `model`, `revision`,
    `double_quantization`.
    """
    name, revision = base_name(config.model)
    quantization = config.quantization
    return ScriptInputs(
        choices={
            "quantization": quantization.kind,
            "compute_dtype": quantization.compute_dtype,
            "storage_dtype": quantization.storage_dtype,
            "has_revision": revision is not None,
        },
        values={"model": name, "revision": revision, "double_quantization": quantization.double_quantization},
    )


def without_tilde(path: str) -> str:
    """A path as scripts have it: as given, but for `~`, which Python leaves alone."""
    return os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises for unknown users


def base_name(model: ModelConfig) -> tuple[str, str | None]:
    """What `from_pretrained` takes for the base: a directory or a Hub id, and its revision."""
    reference = ModelReference.parse(model.name, source=model.source, revision=model.revision)
    if reference.source == "local":
        return str(as_path(reference.name)), None
    if reference.source == "catalogue":
        return CATALOGUE[reference.name].hub_id, reference.revision
    return reference.name, reference.revision
