"""What an adapter was trained with, stored beside its weights: the base, its quantisation, and the prompt form.

Generation and merging read it, so that a model is always asked in the form in which it was trained.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..config.schema import QuantizationConfig
from ..errors import ModelError
from ..models.local_files import PICKLE_PATTERNS
from ..models.reference import ModelReference, ResolvedModel, resolve_model
from ..paths import as_path
from ..run_output import ADAPTER_RECORD_FILE

# The name that PEFT gives to the weights.
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def adapter_directory(path: Path) -> Path:
    """The adapter of a training run's output directory, or the directory itself."""
    if not path.is_dir():
        raise ModelError(
            f"There is no adapter directory {path}.",
            next_step="Give the output directory of `qlora train` or its adapter/.",
        )
    return path / "adapter" if (path / "adapter" / "adapter_config.json").is_file() else path


class AdapterRecord(BaseModel):
    """Contents of `qlora_tools.json` in an adapter directory."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: Literal[1] = 1
    base_name: str
    base_source: Literal["local", "hub", "catalogue"]
    base_revision: str | None
    base_config_sha256: str | None
    quantization: QuantizationConfig
    compute_dtype: str
    style: Literal["chat_template", "verbatim"]
    chat_template_sha256: str | None
    stop_token_ids: tuple[int, ...]

    def on(self, base_model: str | None) -> "AdapterRecord":
        """The record with the base to be found at `base_model`, a directory or a Hub id; None leaves it as it is."""
        if base_model is None:
            return self
        reference = ModelReference.parse(base_model, source="local" if Path(base_model).is_dir() else "auto")
        return self.model_copy(
            update={"base_name": reference.name, "base_source": reference.source, "base_revision": reference.revision}
        )

    def base(self) -> ResolvedModel:
        """The base model, found again; raises `ModelError` when it is gone or no longer the same."""
        if not self.base_name or (self.base_source == "local" and not as_path(self.base_name).is_dir()):
            raise ModelError(
                f"The base of the adapter is not there: {self.base_name or 'its adapter_config.json names none'}.",
                next_step="Put it there, or write where it is into base_name of the adapter's qlora_tools.json, or, where "
                "another tool made the adapter, base_model_name_or_path of its adapter_config.json. `qlora merge` takes "
                "--base-model.",
            )
        reference = ModelReference.parse(self.base_name, source=self.base_source, revision=self.base_revision)
        resolved = resolve_model(reference)
        if self.base_config_sha256 not in (None, config_hash(resolved)):
            raise ModelError(
                f"The base {self.base_name} is not the model that this adapter was trained on: its config.json differs.",
                next_step="Put the original base back, or train again on this one.",
            )
        return resolved


def config_hash(resolved: ResolvedModel) -> str:
    """SHA-256 of a model's config.json."""
    return hashlib.sha256((Path(resolved.location) / "config.json").read_bytes()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_hash(text: str | None) -> str | None:
    """SHA-256 of a chat template."""
    return hashlib.sha256(text.encode()).hexdigest() if text else None


def write_record(directory: Path, record: AdapterRecord) -> None:
    """Store the record in an adapter directory."""
    (directory / ADAPTER_RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def require_adapter(directory: Path) -> None:
    """Raise `ModelError` unless `directory` holds the config and the weights of a LoRA adapter, as safetensors."""
    adapter_config = directory / "adapter_config.json"
    if not adapter_config.is_file():
        raise ModelError(
            f"{directory} holds no adapter (no adapter_config.json).",
            next_step="Give the output directory of `qlora train` or its adapter/ directory.",
        )
    if not (directory / ADAPTER_WEIGHTS).is_file():
        pickles = [path.name for pattern in PICKLE_PATTERNS for path in directory.glob(pattern)]
        found = f", only {', '.join(pickles)}, a pickle that can run code" if pickles else ""
        raise ModelError(
            f"The adapter {directory} has no {ADAPTER_WEIGHTS}{found}.", next_step="Save the adapter as safetensors."
        )
    _require_lora(adapter_config)


def read_adapter_record(directory: Path) -> AdapterRecord:
    """Check an adapter directory and read its record.

    Raises `ModelError` where there is no adapter, where its weights are pickles, or the record is damaged.
    """
    require_adapter(directory)
    adapter_config = directory / "adapter_config.json"
    path = directory / ADAPTER_RECORD_FILE
    try:
        text = path.read_text(encoding="utf-8")
        if '"style": "instruction"' in text:
            raise ModelError(
                f"{directory} was trained by version 0.1.0 in a prompt form that it did not store.",
                next_step="Train it again: the form is stored with the adapter now.",
            )
        return AdapterRecord.model_validate_json(text)
    except FileNotFoundError:
        return _record_of_foreign_adapter(adapter_config)
    except (OSError, ValidationError, UnicodeDecodeError):
        raise ModelError(f"{path} is damaged.", next_step="Restore the file from the training run.") from None


def _require_lora(adapter_config: Path) -> None:
    """Other kinds of PEFT, such as X-LoRA, load further files that they name."""
    try:
        kind = json.loads(adapter_config.read_text(encoding="utf-8"))["peft_type"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = None
    if kind != "LORA":
        raise ModelError(
            f"{adapter_config} has the peft_type {str(kind)[:40]!r}; only LORA can be read.",
            next_step="Restore the file, or give an adapter of LoRA.",
        )


def _record_of_foreign_adapter(adapter_config: Path) -> AdapterRecord:
    """What can be known of an adapter that other tools made: its base and the base's template.

    Whether it was trained on a quantised base is not known, so the base is taken as it was published.
    """
    try:
        settings = json.loads(adapter_config.read_text(encoding="utf-8"))
        name = str(settings["base_model_name_or_path"] or "")
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{adapter_config} names no base model.", next_step="Restore the file.") from None
    of_hub = "/" in name and name[0] not in "/.~" and not Path(name).is_dir()
    return AdapterRecord(
        base_name=name,
        base_source="hub" if of_hub else "local",
        base_revision=settings.get("revision"),
        base_config_sha256=None,
        quantization=QuantizationConfig(kind="none"),
        compute_dtype="auto",
        style="chat_template",
        chat_template_sha256=None,
        stop_token_ids=(),
    )
