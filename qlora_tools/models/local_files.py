"""Whether a local directory holds a model that is complete and safe to load."""

import json
import os
from pathlib import Path
from typing import Any

from ..errors import ModelError

PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def check_model_directory(directory: Path) -> None:
    """Raise `ModelError` unless `directory` has a readable config.json and all its safetensors files."""
    if not os.path.isdir(directory):  # noqa: PTH112 - Path.is_dir raises for names that are too long
        found = "is a file, not a directory" if os.path.exists(directory) else "does not exist"  # noqa: PTH110
        raise ModelError(f"The model directory {directory} {found}.", next_step=_DIRECTORY_STEP)
    read_model_config(directory)
    if (directory / "adapter_config.json").exists():
        raise ModelError(
            f"The model directory {directory} holds adapter_config.json: an adapter would be loaded with it.",
            next_step="Remove that file, or merge the adapter first: qlora merge.",
        )
    _check_weights(directory)
    if not any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(
            f"The model directory {directory} has no tokenizer (tokenizer.json or tokenizer.model).",
            next_step="Copy the tokenizer files of the model there.",
        )


def read_model_config(directory: Path) -> dict[str, Any]:
    """The content of `config.json`; raises `ModelError` when it is absent or no JSON object."""
    path = directory / "config.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"The model directory {directory} has no config.json.", next_step=_DIRECTORY_STEP) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.", next_step="Fetch the model again.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object.", next_step="Fetch the model again.")
    return value


def _check_weights(directory: Path) -> None:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        _check_shards(directory, index)
    elif not (directory / "model.safetensors").is_file():
        raise ModelError(
            f"The model directory {directory} has no model.safetensors{_instead(directory)}.", next_step=_CONVERT_STEP
        )


def _check_shards(directory: Path, index: Path) -> None:
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        shards = []
    if not shards or any(Path(shard).name != shard for shard in shards):
        raise ModelError(f"{index} is not a valid index of shards.", next_step="Fetch the model again.")
    missing = [shard for shard in shards if not (directory / str(shard)).is_file()]
    if missing:
        raise ModelError(
            f"The model directory {directory} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing[:5])}.",
            next_step="Fetch the missing files; a download may have been cut off.",
        )


def _instead(directory: Path) -> str:
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in directory.glob(pattern))
    if pickles:
        return (
            f", only pickle files ({', '.join(pickles[:3])}), which can run code when they are loaded and are refused"
        )
    gguf = sorted(path.name for path in directory.glob("*.gguf"))
    return f", only GGUF files ({', '.join(gguf[:3])}), which cannot be trained" if gguf else ""


_DIRECTORY_STEP = (
    "Give a directory with config.json, tokenizer.json and *.safetensors, a Hub id (owner/name), or a catalogue name."
)
_CONVERT_STEP = "Use a copy of the model with safetensors weights; the Hub has one of nearly every model."
