"""A model directory of links, as `transformers serve` loads it: the base's files, with the adapter on top.

Transformers takes a directory that holds both a config.json and an adapter_config.json for a base with an adapter on it; vLLM
takes from it where answers end.
Nothing is copied but small settings; the directory lies in the cache and is made anew each time.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from ..adapters.record import ADAPTER_WEIGHTS
from ..disk import disk_errors
from ..exporting.adapter_package import base_generation_config, trained_stops
from ..exporting.source import AdapterSource
from ..models.packaged import cache_directory

_OF_THE_BASE = ("config.json", "*.safetensors", "model.safetensors.index.json")
_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
)


def linked_directory(directory: Path) -> Path:
    """Where the links of the adapter in `directory` lie; two adapters never share a place."""
    name = directory.parent.name if directory.name == "adapter" else directory.name
    kept = "".join(letter for letter in name if letter.isascii() and (letter.isalnum() or letter in "-_"))[:40]
    return cache_directory() / "served" / f"{kept or 'model'}-{hashlib.sha256(str(directory).encode()).hexdigest()[:8]}"


def make_linked_directory(source: AdapterSource, base: Path) -> Path:
    """Make the links anew, whole; an earlier directory for the same adapter goes. Raises `MachineError`."""
    target = linked_directory(source.directory)
    with disk_errors(target.parent, left="nothing was started"):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".links-", dir=target.parent))
        try:
            _fill(partial, source, base)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _fill(place: Path, source: AdapterSource, base: Path) -> None:
    own = (source.directory / "tokenizer_config.json").is_file()
    _link(place, base, _OF_THE_BASE)
    _link(place, source.directory if own else base, _TOKENIZER)
    _link(place, source.directory, (ADAPTER_WEIGHTS, "adapter_config.json"))
    stops = trained_stops(source)
    settings = {**base_generation_config(source), **({"eos_token_id": stops} if stops else {})}
    (place / "generation_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _link(place: Path, directory: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in directory.glob(pattern):
            (place / path.name).symlink_to(path.resolve())
