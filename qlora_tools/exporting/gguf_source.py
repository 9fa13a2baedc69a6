"""A merged model directory as an export reads it: config, tensors by their headers, tokenizer, and what ends an answer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..models.local_files import check_model_directory, read_model_config
from ..models.stored_tensors import FLOATING, StoredTensor, model_tensors
from ..untrusted import visible_text

_UNUSABLE = (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Source:
    """What was found. `tokenizer` is a fast one of Transformers; `stop_ids` are EOS and what generation stops at."""

    directory: Path
    config: Any
    tensors: dict[str, StoredTensor]
    tokenizer: Any
    stop_ids: tuple[int, ...]


def read_source(directory: Path) -> Source:
    """Read all that stands beside the weights, and their headers.

    Raises `ModelError` for a directory that is no merged model in floating point: adapters, quantised
    weights, missing shards.
    """
    check_model_directory(directory)
    raw = read_model_config(directory)
    if "quantization_config" in raw:
        kind = str(_as_object(raw["quantization_config"]).get("quant_method", "unknown"))
        raise ModelError(
            f"The weights in {directory} are quantised ({visible_text(kind)[:40]}); an export needs them in 16 or 32 bits.",
            next_step="Merge with a base in 16 bits, or `qlora merge --base nf4` for the dequantised one.",
        )
    tensors = model_tensors(directory)
    packed = [tensor for tensor in tensors.values() if tensor.dtype not in FLOATING]
    if packed:
        raise ModelError(
            f"{directory} holds {len(packed)} tensors that are no floating point ({visible_text(packed[0].name)[:80]}: "
            f"{visible_text(packed[0].dtype)[:20]}); {', '.join(FLOATING)} can be exported.",
            next_step="Export the merged model in 16 or 32 bits.",
        )
    tokenizer = read_tokenizer(directory)
    return Source(directory, _read_config(directory), tensors, tokenizer, _stop_ids(directory, raw, tokenizer))


def read_tokenizer(directory: Path) -> Any:
    """The tokenizer of a model directory; raises `ModelError` where it cannot be loaded or is not a fast one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False, local_files_only=True)
    except _UNUSABLE as error:
        raise _unreadable("tokenizer", directory, error) from None
    if not tokenizer.is_fast:
        raise ModelError(
            f"The tokenizer in {directory} has no tokenizer.json, from which an export reads its rules.",
            next_step="Save it once with a recent version of Transformers.",
        )
    return tokenizer


def _read_config(directory: Path) -> Any:
    """The config with the defaults of its family filled in."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(directory), trust_remote_code=False, local_files_only=True)
    except _UNUSABLE as error:
        raise _unreadable("config.json", directory, error) from None


def _unreadable(what: str, directory: Path, error: Exception) -> ModelError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelError(
        f"The {what} in {directory} cannot be read: {visible_text(first)[:200]}", next_step="Restore the files."
    )


def _stop_ids(directory: Path, raw: dict[str, Any], tokenizer: Any) -> tuple[int, ...]:
    """EOS of the tokenizer first, then what the generation config or the config adds."""
    try:
        generation = _as_object(json.loads((directory / "generation_config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        generation = {}
    found = [tokenizer.eos_token_id]
    for value in (generation.get("eos_token_id"), raw.get("eos_token_id")):
        found += value if isinstance(value, list) else [value]
    count = len(tokenizer)
    return tuple(dict.fromkeys(token for token in found if type(token) is int and 0 <= token < count))


def _as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
