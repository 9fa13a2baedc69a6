"""Telling apart what a model name means, and finding the model's files.

The form of a name decides, never what happens to exist on disk: `/x`, `./x`, `../x` and `~/x` are directories,
`owner/name` is a Hub id, a bare name stands in the catalogue. `model.source` overrides it.
"""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..disk import DISK_FULL
from ..errors import ModelError
from ..paths import as_path
from ..requirements import require_training_libraries
from .catalogue import CATALOGUE, CatalogueModel
from .local_files import check_model_directory

Source = Literal["local", "hub", "catalogue"]

_FETCHED_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]
_HUB_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass(frozen=True)
class ModelReference:
    """A model as a user names it, with its meaning settled."""

    name: str
    source: Source
    revision: str | None = None

    @classmethod
    def parse(cls, name: str, *, source: str = "auto", revision: str | None = None) -> "ModelReference":
        """Settle what `name` means; raises `ModelError` when its form does not fit `source`."""
        settled = _source_by_form(name) if source == "auto" else source
        if settled == "local":
            return cls(name, "local", revision)
        if settled == "hub":
            _require_hub_id(name)
            return cls(name, "hub", revision)
        _require_catalogue_name(name)
        return cls(name, "catalogue", revision)


@dataclass(frozen=True)
class ResolvedModel:
    """The directory of a model's files; `revision` is the commit of one that came from the Hub."""

    reference: ModelReference
    location: str
    revision: str | None


def resolve_model(reference: ModelReference) -> ResolvedModel:
    """Find the files of a model; prepares a catalogue model that ships in a Python package (once, then cached).

    Raises `ModelError` where there are no weights that are safe to load.
    """
    if reference.source == "hub":
        return _fetched(reference, reference.name)
    if reference.source == "local":
        directory = as_path(reference.name)
        check_model_directory(directory)
        return ResolvedModel(reference, str(directory), None)
    return _resolve_catalogue_model(reference, CATALOGUE[reference.name])


def _resolve_catalogue_model(reference: ModelReference, model: CatalogueModel) -> ResolvedModel:
    if model.packaged and os.environ.get("QLORA_CATALOGUE_FROM_HUB") != "1":
        from .packaged import prepare_packaged_model

        return ResolvedModel(reference, str(prepare_packaged_model(model)), None)
    return _fetched(reference, model.hub_id)


def _fetched(reference: ModelReference, hub_id: str) -> ResolvedModel:
    """The snapshot of a Hub model in the cache, pinned to its commit; only safetensors and text files are fetched."""
    require_training_libraries("fetching a model from the Hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        snapshot = Path(snapshot_download(hub_id, revision=reference.revision, allow_patterns=_FETCHED_FILES))
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise ModelError(
            f"{hub_id} cannot be fetched from the Hub: {str(error).strip().splitlines()[0]}",
            next_step="Check name and network; for a gated model set HF_TOKEN. Offline, give a local directory.",
        ) from None
    check_model_directory(snapshot)
    return ResolvedModel(reference, str(snapshot), snapshot.name)


def _source_by_form(name: str) -> Source:
    if name.startswith(("/", "./", "../", "~")) or name in (".", "..") or Path(name).is_absolute():
        return "local"
    return "hub" if "/" in name else "catalogue"


def _require_hub_id(name: str) -> None:
    if not _HUB_ID.fullmatch(name) or ".." in name or len(name) > 200:
        raise ModelError(
            f"{name!r} is not a Hub id, which has the form owner/name.",
            next_step="Write ./ before it for a local directory, or set model.source to say what it is.",
        )


def _require_catalogue_name(name: str) -> None:
    if name in CATALOGUE:
        return
    near = (
        difflib.get_close_matches(name.lower(), CATALOGUE, n=3)
        or [known for known in CATALOGUE if name.lower().split("-")[0][:4] in known][:3]
    )
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    nearest = f"; nearest: {', '.join(near)}" if near else f", which knows {len(CATALOGUE)} names"
    raise ModelError(
        f"The catalogue has no model {name!r}{nearest}.",
        next_step=f"Write ./{shown} for a local directory or owner/{shown} for a model on the Hub.",
    )
