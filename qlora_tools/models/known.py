"""The shape of a model by its name, without its weights: from the catalogue, a local config.json, or the Hub."""

import difflib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ..errors import ModelError
from ..paths import as_path
from ..subprocesses import child_environment
from .catalogue import CATALOGUE
from .causal import require_causal_language_model
from .local_files import read_model_config
from .reference import ModelReference
from .shape import CountedWeights, ModelShape

_COUNTING_SECONDS = 120


@dataclass(frozen=True)
class KnownModel:
    """A model's name, where it was published, its licence where that is known, its shape, and its config.json."""

    name: str
    source: str
    licence: str | None
    shape: ModelShape
    config: Mapping[str, Any]


def find_model(name: str, *, source: str = "auto") -> KnownModel:
    """The shape of the model that `name` means; no weights are read, and a catalogue model needs no network.

    Raises `ModelError` for unknown names (with the nearest ones) and for anything but a causal language model.
    """
    reference = ModelReference.parse(name, source=source)
    if reference.source == "local":
        directory = as_path(reference.name)
        values = read_model_config(directory.parent if directory.name == "config.json" else directory)
        return _described(name, str(directory), None, values)
    entry = CATALOGUE.get(reference.name) or _by_hub_id(reference.name)
    if entry is not None:
        shape = ModelShape.from_config(entry.config)
        return KnownModel(entry.name, entry.source, entry.licence, shape, entry.config)
    return _described(name, f"https://huggingface.co/{name}", None, _fetched_config(name))


def _by_hub_id(hub_id: str) -> Any:
    return next((model for model in CATALOGUE.values() if model.hub_id.lower() == hub_id.lower()), None)


def _described(name: str, source: str, licence: str | None, values: dict[str, Any]) -> KnownModel:
    require_causal_language_model(values, name)
    shape = ModelShape.from_config(values)
    if not shape.traits.known:
        shape = replace(shape, counted=_counted(json.dumps(values, sort_keys=True)))
    return KnownModel(name, source, licence, shape, values)


@cache
def _counted(config: str) -> CountedWeights | None:
    """What the family's own code builds, in a child process without memory for it; None where that cannot be known."""
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("torch") is None:
        return None
    command = [sys.executable, "-m", "qlora_tools.engine.count_weights"]
    try:
        done = subprocess.run(
            command,
            input=config,
            capture_output=True,
            text=True,
            timeout=_COUNTING_SECONDS,
            env=child_environment(),
            check=True,
        )
        return CountedWeights(**json.loads(done.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, TypeError):
        return None


@cache
def _fetched_config(hub_id: str) -> dict[str, Any]:
    """The config.json of a Hub model, from the cache or the network."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ModuleNotFoundError:
        raise _unreachable(hub_id, "the package huggingface_hub is not installed") from None
    try:
        path = as_path(hf_hub_download(hub_id, "config.json"))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _unreachable(hub_id, str(error).strip().splitlines()[0]) from None
    return read_model_config(path.parent)


def _unreachable(hub_id: str, reason: str) -> ModelError:
    near = difflib.get_close_matches(hub_id.lower(), [model.hub_id.lower() for model in CATALOGUE.values()], n=3)
    names = [model.name for model in CATALOGUE.values() if model.hub_id.lower() in near]
    hint = f" Nearest in the catalogue: {', '.join(names)}." if names else ""
    return ModelError(
        f"The config.json of {hub_id} cannot be read from the Hub: {reason}.{hint}",
        next_step="Check name and network, give a directory with the model's config.json, or use a catalogue name.",
    )
