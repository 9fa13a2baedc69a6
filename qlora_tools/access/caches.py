"""Where models lie that were fetched or prepared. They may be read from any workspace."""

import os
from pathlib import Path

from ..models.packaged import cache_directory


def model_caches() -> tuple[Path, ...]:
    """The cache of huggingface_hub and our own, with links followed."""
    return tuple(Path(os.path.realpath(place)) for place in (_hub_cache(), cache_directory() / "models"))


def _hub_cache() -> Path:
    """As huggingface_hub finds it. Only `hub` of HF_HOME: beside it lies the access token."""
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if chosen:
        return _expanded(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME")
    return (_expanded(home) if home else _expanded(cache) / "huggingface") / "hub"


def _expanded(text: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(text)))  # noqa: PTH111 - Path.expanduser raises RuntimeError
