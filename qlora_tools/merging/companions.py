"""What lies beside the weights of a merged model: config, generation config, tokenizer with its template, and the record."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..adapters.record import AdapterRecord
from ..durable import replace_file
from ..models.local_files import read_model_config
from .plan import MergePlan

MERGE_RECORD_FILE = "merge.json"
_GENERATION_CONFIG = "generation_config.json"
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
# Of models that also read images.
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def write_config(base: Path, target: Path, plan: MergePlan, dtype: str) -> None:
    """The base's config.json with what merging changed: dtype, vocabulary, and whether head and embedding are one."""
    values = read_model_config(base)
    for part in [values, *_text_parts(values)]:
        part.pop("quantization_config", None)
        if plan.resized and "vocab_size" in part:
            part["vocab_size"] = plan.vocabulary
        if plan.untied:
            part["tie_word_embeddings"] = False
        part.pop("torch_dtype", None)
        part["dtype"] = dtype
    values["use_cache"] = True
    _write(target / "config.json", values)


def write_generation_config(base: Path, target: Path, record: AdapterRecord) -> None:
    """The base's generation settings, which also stop where the trained answers ended."""
    path = base / _GENERATION_CONFIG
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    own = values.get("eos_token_id", read_model_config(base).get("eos_token_id"))
    stops = sorted({*record.stop_token_ids, *(own if isinstance(own, list) else [own])} - {None})
    if stops:
        values["eos_token_id"] = stops[0] if len(stops) == 1 else stops
    # Published settings may hold a temperature without saying that they sample; saving such a model again fails.
    if values.get("temperature") not in (None, 1.0) or values.get("top_p") not in (None, 1.0) or values.get("top_k"):
        values.setdefault("do_sample", True)
    _write(target / _GENERATION_CONFIG, values)


def copy_tokenizer(base: Path, adapter: Path, target: Path) -> None:
    """The tokenizer and template of the training run; those of the base where the adapter brings none."""
    source = adapter if (adapter / "tokenizer_config.json").is_file() else base
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    for name in _PROCESSOR_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, target / name)
    # An adapter of another tool may bring the tokenizer's settings without its vocabulary.
    if not any((target / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        for name in _TOKENIZER_FILES:
            if (base / name).is_file() and not (target / name).is_file():
                shutil.copyfile(base / name, target / name)


def write_merge_record(target: Path, document: Mapping[str, Any]) -> None:
    """What was merged into what, and the proof."""
    _write(target / MERGE_RECORD_FILE, document)


def _text_parts(values: dict[str, Any]) -> list[dict[str, Any]]:
    part = values.get("text_config")
    return [part] if isinstance(part, dict) else []


def _write(path: Path, values: Mapping[str, Any]) -> None:
    replace_file(path, json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n")
