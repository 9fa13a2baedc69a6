"""What every script about a trained adapter is told."""

from pathlib import Path

from ..config.schema import RunConfig
from ..models.reference import ModelReference
from ..paths import as_path
from .asking import AskedForm, attention_choice
from .inputs import ScriptInputs, base_inputs


def adapter_inputs(config: RunConfig, adapter: Path, form: AskedForm) -> ScriptInputs:
    """Base, adapter and prompt form: the same in every script about the adapter that `config` trains.

    Choices: those of `base_inputs`, `attention`, `is_local`, `form`, `folds_system`, `has_stop_tokens`. Values: those of
    `base_inputs`, `adapter`, `stop_tokens`.
    """
    base, model = base_inputs(config), config.model
    return ScriptInputs(
        choices={
            **base.choices,
            "attention": attention_choice(model),
            "is_local": ModelReference.parse(model.name, source=model.source).source == "local",
            "form": form.form,
            "folds_system": form.folds_system,
            "has_stop_tokens": bool(form.stop_tokens),
        },
        values={**base.values, "adapter": str(adapter), "stop_tokens": list(form.stop_tokens)},
        notes=(*base.notes, *form.notes),
    )


def default_adapter(config: RunConfig) -> Path:
    """Where a training of `config` puts its adapter."""
    return as_path(config.output.directory) / "adapter"
