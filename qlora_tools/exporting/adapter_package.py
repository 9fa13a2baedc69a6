"""An adapter by itself, as plain PEFT and servers load it: no path of this machine is left in it."""

import json
import re
from pathlib import Path
from typing import Any, Literal

from ..adapters.lora import AdapterFacts
from ..adapters.record import ADAPTER_WEIGHTS, AdapterRecord, write_record
from ..events import Listener, RunEvent, StopAsked
from .base_name import PublishedBase
from .directory import copy_file, leave_if_asked
from .source import TEMPLATE_FILE, AdapterSource, tokenizer_directory

WeightDtype = Literal["float32", "bfloat16"]
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", TEMPLATE_FILE,
)  # fmt: skip
# Keys of tokenizer_config.json that tell where the tokenizer lay.
_PLACES = ("name_or_path", "tokenizer_file", "vocab_file", "special_tokens_map_file", "is_local", "local_files_only")
_MACHINE_PATH = re.compile(r"(?:/|~|[A-Za-z]:\\|\\\\).*", re.DOTALL)


def write_adapter_package(
    source: AdapterSource,
    target: Path,
    base: PublishedBase,
    dtype: WeightDtype | None,
    on_event: Listener,
    stop: StopAsked,
) -> list[str]:
    """Write weights, config, tokenizer, generation config and record to the empty `target`; returns what to know.

    `dtype` None copies the weights byte by byte.
    """
    on_event(RunEvent("phase", "Writing the adapter"))
    notes = _write_weights(source, target, dtype, on_event, stop)
    _write_json(target / "adapter_config.json", _portable_config(source.facts, base))
    notes += _write_tokenizer(source, target)
    _write_generation_config(source, target)
    write_record(target, _portable_record(source.record, base))
    if source.base is None:
        notes.append("The base is not on this machine: whether the adapter fits it was not checked.")
    if base.revision is None:
        notes.append(f"The revision of {base.name} that was trained on is not known; the newest one will be loaded.")
    return notes


def trained_stops(source: AdapterSource) -> list[int]:
    """Where an answer ends: what ended the trained answers, and what the base stops at."""
    return sorted({*source.record.stop_token_ids, *_stops_of_base(source)})


def stops_beyond_base(source: AdapterSource) -> bool:
    """Whether trained answers end with a token at which the base alone does not stop."""
    return bool(set(source.record.stop_token_ids) - _stops_of_base(source))


def _stops_of_base(source: AdapterSource) -> set[int]:
    own = base_generation_config(source).get("eos_token_id")
    return {token for token in (own if isinstance(own, list) else [own]) if token is not None}


def _write_weights(
    source: AdapterSource, target: Path, dtype: WeightDtype | None, on_event: Listener, stop: StopAsked
) -> list[str]:
    weights = source.directory / ADAPTER_WEIGHTS
    if dtype is None:
        copy_file(weights, target / ADAPTER_WEIGHTS, on_event, stop)
        return []
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    kept, changed, whole = {}, 0.0, 0.0
    with safe_open(weights, framework="pt") as stored:
        names = list(stored.keys())
        for done, name in enumerate(names, 1):
            leave_if_asked(stop)
            tensor = stored.get_tensor(name)
            kept[name] = tensor.to(getattr(torch, dtype)).contiguous()
            changed += float((kept[name].double() - tensor.double()).square().sum())
            whole += float(tensor.double().square().sum())
            on_event(RunEvent("progress", "tensors", {"done": done, "total": len(names)}))
    save_file(kept, target / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (target / ADAPTER_WEIGHTS).chmod(0o644)  # safetensors lets nobody else read what it writes
    share = (changed / whole) ** 0.5 if whole else 0.0
    return [f"The adapter's weights were rounded to {dtype}: they moved by {100 * share:.3f} % (root mean square)."]


def _portable_config(facts: AdapterFacts, base: PublishedBase) -> dict[str, Any]:
    """The settings as PEFT reads them, the base by its public name, lists that are sets in one order."""
    settings = {key: without_machine_paths(value) for key, value in facts.settings.items()}
    for key in ("target_modules", "modules_to_save"):
        if isinstance(settings.get(key), list):
            settings[key] = sorted(settings[key])
    return {**settings, "base_model_name_or_path": base.name, "revision": base.revision, "inference_mode": True}


def without_machine_paths(value: Any) -> Any:
    """The JSON value with None in the place of every absolute path."""
    if isinstance(value, dict):
        return {key: without_machine_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_machine_paths(item) for item in value]
    return None if isinstance(value, str) and _MACHINE_PATH.fullmatch(value) else value


def _write_tokenizer(source: AdapterSource, target: Path) -> list[str]:
    """The tokenizer saved with the adapter, else the base's; its template is the one that was trained."""
    place = tokenizer_directory(source)
    if place is None:
        return ["No tokenizer lies with the adapter; that of the base is used, with its chat template."]
    for name in _TOKENIZER_FILES:
        if (place / name).is_file():
            (target / name).write_bytes((place / name).read_bytes())
    told = json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8"))
    inside = told.get("chat_template")
    if isinstance(inside, str):
        del told["chat_template"]
    _write_json(target / "tokenizer_config.json", {key: value for key, value in told.items() if key not in _PLACES})
    if isinstance(inside, str) and not (target / TEMPLATE_FILE).is_file():
        (target / TEMPLATE_FILE).write_text(inside, encoding="utf-8")
    if place == source.directory:
        return []
    return ["No tokenizer lies with the adapter; the base's was put beside it, with its chat template."]


def _write_generation_config(source: AdapterSource, target: Path) -> None:
    """For servers that take it from here: without it they stop where the base does, which may not be what was trained."""
    stops = trained_stops(source)
    if stops:
        settings = without_machine_paths(base_generation_config(source))
        _write_json(target / "generation_config.json", {**settings, "eos_token_id": stops})


def base_generation_config(source: AdapterSource) -> dict[str, Any]:
    """The base's generation settings, or only where it stops; empty where the base is not here."""
    if source.base is None:
        return {}
    for name in ("generation_config.json", "config.json"):
        path = source.base / name
        if path.is_file():
            told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return told if name == "generation_config.json" else {"eos_token_id": told.get("eos_token_id")}
    return {}


def _portable_record(record: AdapterRecord, base: PublishedBase) -> AdapterRecord:
    """The record with the public name. The hash goes where the published config.json may differ by a byte."""
    sha256 = record.base_config_sha256 if base.same_files else None
    changed = {
        "base_name": base.name,
        "base_source": "hub",
        "base_revision": base.revision,
        "base_config_sha256": sha256,
    }
    return record.model_copy(update=changed)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
