"""The tokenizer of a model, where its files are on this machine."""

import importlib.util
from pathlib import Path
from typing import Any

from ..errors import MissingLibraryError, ModelError
from ..models.catalogue import CATALOGUE
from ..models.packaged import prepare_packaged_model
from ..models.reference import ModelReference
from ..paths import as_path

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# What Transformers raises for files that it cannot use.
_UNUSABLE = (OSError, ValueError, ImportError, KeyError, TypeError)


def find_tokenizer(reference: ModelReference) -> tuple[Any, str]:
    """The tokenizer of a model and nothing, or None and why there is none. Nothing is fetched.

    Raises `ModelError` for a directory that is not there.
    """
    if reference.source == "local" and not as_path(reference.name).exists():
        raise ModelError(f"There is no model directory {as_path(reference.name)}.", next_step="Check model.name.")
    if importlib.util.find_spec("transformers") is None:
        return None, "transformers is not installed"
    directory = _tokenizer_directory(reference)
    if directory is None:
        return None, "the model's tokenizer is not on this machine"
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False, local_files_only=True)
    except _UNUSABLE:
        return None, "the model's tokenizer cannot be loaded"
    return (tokenizer, "") if tokenizer.is_fast else (None, "the model's tokenizer tells no places of tokens")


def _tokenizer_directory(reference: ModelReference) -> Path | None:
    """Where the tokenizer's files lie on this machine; nothing is fetched."""
    if reference.source == "local":
        directory = as_path(reference.name)
        directory = directory.parent if directory.name == "config.json" else directory
        return directory if any((directory / name).is_file() for name in _TOKENIZER_FILES) else None
    entry = CATALOGUE.get(reference.name)
    if entry is not None and entry.packaged:
        try:
            return prepare_packaged_model(entry)
        except MissingLibraryError:
            pass
    return _cached(entry.hub_id if entry else reference.name, reference.revision)


def _cached(hub_id: str, revision: str | None) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError:
        return None
    found = (try_to_load_from_cache(hub_id, name, revision=revision) for name in _TOKENIZER_FILES)
    return next((Path(path).parent for path in found if isinstance(path, str)), None)
