"""What an adapter names beside itself: its base model, and whatever else PEFT would load for it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ..config.schema import ModelConfig
from ..errors import ModelError
from ..models.local_files import PICKLE_PATTERNS
from ..run_output import ADAPTER_RECORD_FILE
from .configs import checked_model
from .folders import read_json
from .refusal import PathRefusedError, shown
from .resolving import Rule

_WEIGHTS = "adapter_model.safetensors"
_RESTORE = "Restore the file from the training run."


class _Base(BaseModel):
    """The base in `qlora_tools.json`, read with the parser that the engine reads the whole record with."""

    model_config = ConfigDict(extra="ignore")

    base_name: str
    base_source: str
    base_revision: str | None


def check_adapter(path: Path, reading: Rule) -> Path:
    """Return `path` if it is an adapter, or a run's output with one, whose base may be read.

    Raises `PathRefusedError` otherwise, and for kinds of adapters that name further models.
    """
    adapter = path / "adapter" if (path / "adapter" / "adapter_config.json").is_file() else path
    config = adapter / "adapter_config.json"
    if not config.is_file():
        raise PathRefusedError(
            "holds no adapter (no adapter_config.json)", "Give the output directory of a run or its adapter/ directory."
        )
    _require_safetensors(adapter)
    values = read_json(config)
    if not isinstance(values, dict):
        raise PathRefusedError("has an adapter_config.json that is no JSON object", _RESTORE)
    if values.get("peft_type") != "LORA":
        kind = shown(str(values.get("peft_type")))
        raise PathRefusedError(f"is an adapter of the kind {kind}; allowed is LORA", "Give a LoRA adapter.")
    _check_base(_base(adapter, values), reading)
    return path


def _require_safetensors(adapter: Path) -> None:
    """The engine asks for the same, but only in a worker that has loaded torch by then."""
    if (adapter / _WEIGHTS).is_file():
        return
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in adapter.glob(pattern))
    found = f", only {shown(', '.join(pickles))}: pickles, which can run code when they are loaded" if pickles else ""
    raise PathRefusedError(f"has no {_WEIGHTS}{found}", "Save the adapter as safetensors.")


def _base(adapter: Path, values: dict[str, object]) -> ModelConfig:
    """The base that the record names; without a record, the one that PEFT wrote."""
    record = adapter / ADAPTER_RECORD_FILE
    try:
        if not record.exists():
            name = str(values.get("base_model_name_or_path"))
            on_hub = "/" in name and name[0] not in "/.~"
            return ModelConfig(name=name, source="hub" if on_hub else "local")
        base = _Base.model_validate_json(record.read_text(encoding="utf-8"))
        return ModelConfig.model_validate(
            {"name": base.base_name, "source": base.base_source, "revision": base.base_revision}
        )
    except (OSError, ValidationError, UnicodeDecodeError):
        file = ADAPTER_RECORD_FILE if record.exists() else "adapter_config.json"
        raise PathRefusedError(f"has a {file} that names no base model", _RESTORE) from None


def _check_base(base: ModelConfig, reading: Rule) -> None:
    if base.source == "local" and not base.name.startswith(("/", "~")):
        raise PathRefusedError(
            f"names its base model by the relative path {shown(base.name)}, which means another place in each process",
            "Write its absolute path or its Hub id (owner/name) there.",
        )
    try:
        checked_model(base.name, base.source, reading)
    except PathRefusedError as refused:
        reason = f"names the base model {shown(base.name)}, which {refused.reason}"
        raise PathRefusedError(reason, refused.next_step) from None
    except ModelError as error:
        raise PathRefusedError(f"names no usable base model: {error.message}", error.next_step) from None
