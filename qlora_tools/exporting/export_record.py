"""What an export tells of itself in `export.json`: the proofs, and what was asked, so that the same export is known again."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._version import __version__
from ..durable import as_json
from ..merging.workplace import fingerprint
from ..models.stored_tensors import model_tensors
from ..results import ExportResult
from .base_name import PublishedBase
from .directory import files_of
from .source import AdapterSource, Source, read_document

EXPORT_RECORD_FILE = "export.json"
# They are told by the directory itself.
_OF_THE_PLACE = {"directory", "files", "size_bytes"}


def request_of(source: Source, base: PublishedBase | None, **asked: str | None) -> dict[str, Any]:
    """All that decides what is written; the source's files by name, size and time of change."""
    return {
        "version": __version__,
        "source": _source_of(source),
        "base": [base.name, base.revision] if base else None,
        **asked,
    }


def _source_of(source: Source) -> list[Any]:
    if not isinstance(source, AdapterSource):
        return [fingerprint(list(model_tensors(source.directory).values()))]
    base = fingerprint(list(model_tensors(source.base).values())) if source.base else None
    return [fingerprint(source.facts.tensors), base, source.record.model_dump(mode="json")]


def write_export_record(directory: Path, result: ExportResult, request: Mapping[str, Any]) -> None:
    """Write `export.json`: the result without its place, and a hash of the request, which names places of this machine."""
    told = result.model_dump(mode="json", exclude=_OF_THE_PLACE)
    head = {"format_version": 1, "qlora_tools": __version__, "request_sha256": _hash(request)}
    (directory / EXPORT_RECORD_FILE).write_bytes(as_json({**head, **told}))


def made_before(directory: Path, request: Mapping[str, Any]) -> ExportResult | None:
    """The result of the very same export that was finished in `directory`, as when a job is resumed; None for another."""
    told = read_document(directory / EXPORT_RECORD_FILE)
    if told.get("request_sha256") != _hash(request):
        return None
    kept = {name: value for name, value in told.items() if name in ExportResult.model_fields}
    files = files_of(directory)
    place = {"directory": str(directory), "files": files, "size_bytes": sum(file.size_bytes for file in files)}
    return ExportResult.model_validate({**kept, **place})


def _hash(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(as_json(request)).hexdigest()
