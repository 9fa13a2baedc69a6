"""What is exported: an adapter with what its run left, or a merged model; anything else is refused with the reason."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters.check import require_fit
from ..adapters.lora import AdapterFacts, read_lora
from ..adapters.record import AdapterRecord, adapter_directory, config_hash, read_adapter_record, text_hash
from ..errors import ModelError
from ..models.catalogue import CATALOGUE
from ..models.local_files import check_model_directory, read_model_config
from ..models.reference import ModelReference, ResolvedModel
from ..models.stored_tensors import FLOATING, model_tensors
from ..run_output import CONFIG_FILE, RESULT_FILE

# Written by merging beside a merged model: its base, adapters, parity and versions.
MERGE_RECORD_FILE = "merge.json"
TEMPLATE_FILE = "chat_template.jinja"
_NEXT = "Give the output directory of `qlora train`, an adapter directory, or a model directory made by `qlora merge`."


@dataclass(frozen=True)
class AdapterSource:
    """An adapter, its record, the run that made it where that lies beside it, and the base where its files are here."""

    directory: Path
    record: AdapterRecord
    facts: AdapterFacts
    run: Path | None
    base: Path | None


@dataclass(frozen=True)
class MergedSource:
    """A model directory of its own; `merge` is what merging told of it, empty for a model of other making."""

    directory: Path
    merge: dict[str, Any]


Source = AdapterSource | MergedSource


def find_source(path: Path) -> Source:
    """What lies in `path`, checked from headers alone. Raises `ModelError` for what cannot be exported."""
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise ModelError(f"The source {path} {found}.", next_step=_NEXT)
    adapter = adapter_directory(path)
    if (adapter / "adapter_config.json").is_file():
        return _adapter_source(adapter)
    if (path / "config.json").is_file():
        return _merged_source(path)
    raise ModelError(f"{path} holds no adapter and no model{_instead(path)}.", next_step=_NEXT)


def _adapter_source(directory: Path) -> AdapterSource:
    record, facts = read_adapter_record(directory), read_lora(directory)
    base = base_here(record)
    if base is not None:
        require_fit(facts, model_tensors(Path(base.location)), base)
    run = directory.parent
    known = directory.name == "adapter" and any((run / name).is_file() for name in (CONFIG_FILE, RESULT_FILE))
    return AdapterSource(directory, record, facts, run if known else None, Path(base.location) if base else None)


def base_here(record: AdapterRecord) -> ResolvedModel | None:
    """The base where it needs no fetching, else None: packing an adapter is no reason to fetch 16 GB.

    Raises `ModelError` where a base that is no model of the Hub is gone, and where one is not the model that was trained on.
    """
    hub_id = hub_name(record)
    if hub_id is None or (record.base_source == "catalogue" and CATALOGUE[record.base_name].packaged):
        return record.base()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(hub_id, revision=record.base_revision, local_files_only=True))
        check_model_directory(snapshot)
    except (LocalEntryNotFoundError, ValueError, ModelError):
        return None
    found = ResolvedModel(ModelReference(hub_id, "hub", record.base_revision), str(snapshot), snapshot.name)
    if record.base_config_sha256 not in (None, config_hash(found)):
        raise ModelError(
            f"The copy of {hub_id} here is not the model that the adapter was trained on: its config.json differs.",
            next_step="Fetch the revision that was trained on; the adapter's qlora_tools.json names it.",
        )
    return found


def hub_name(record: AdapterRecord) -> str | None:
    """How the base is called on the Hub; None for a directory of this machine."""
    if record.base_source == "catalogue":
        return CATALOGUE[record.base_name].hub_id if record.base_name in CATALOGUE else None
    return record.base_name if record.base_source == "hub" else None


def require_trained_template(source: AdapterSource) -> None:
    """Raise `ModelError` where the chat template that would be exported is not the one that was trained."""
    if source.record.chat_template_sha256 is None:
        return
    place = tokenizer_directory(source)
    if place is not None and text_hash(_template_in(place)) != source.record.chat_template_sha256:
        raise ModelError(
            f"The chat template in {place} is not the one that the adapter was trained with.",
            next_step="Restore the tokenizer files of the training run.",
        )


def tokenizer_directory(source: AdapterSource) -> Path | None:
    """Where the tokenizer lies: with the adapter, else with the base where that is here."""
    places = (source.directory, source.base)
    return next((place for place in places if place and (place / "tokenizer_config.json").is_file()), None)


def _template_in(place: Path) -> str | None:
    """The chat template beside a tokenizer, which stands in a file of its own or in the settings."""
    file = place / TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    inside = read_document(place / "tokenizer_config.json").get("chat_template")
    return inside if isinstance(inside, str) else None


def _merged_source(directory: Path) -> MergedSource:
    check_model_directory(directory)
    method = read_model_config(directory).get("quantization_config")
    if method is not None:
        kind = method.get("quant_method", "unknown") if isinstance(method, dict) else "unknown"
        raise ModelError(
            f"The model {directory} is quantised ({str(kind)[:40]!a}); only 16-bit and 32-bit weights are exported.",
            next_step="Merge into full weights with `qlora merge`, and export that directory.",
        )
    strange = next((tensor for tensor in model_tensors(directory).values() if tensor.dtype not in FLOATING), None)
    if strange is not None:
        raise ModelError(
            f"{directory} stores {strange.name[:80]!a} as {strange.dtype}; only floating-point weights are exported.",
            next_step="Merge into full weights with `qlora merge`, and export that directory.",
        )
    return MergedSource(directory, read_document(directory / MERGE_RECORD_FILE))


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object as it is; empty where the file is absent, damaged or something else, since a card can do without."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _instead(path: Path) -> str:
    if (path / CONFIG_FILE).is_file():
        return ", only the start of a run that has not ended with an adapter"
    if any(path.glob("*.gguf")):
        return ", only GGUF files, which are the end of an export and not its start"
    return ""
