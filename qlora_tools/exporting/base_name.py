"""How the base of an adapter is called where this machine's directories mean nothing."""

import re
from dataclasses import dataclass

from ..adapters.record import AdapterRecord
from ..errors import ModelError, UsageError
from ..models.reference import ModelReference
from .source import hub_name

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class PublishedBase:
    """A Hub id, and the commit that was trained on where it is known."""

    name: str
    revision: str | None
    # Whether its config.json is the very file that was trained with, whose hash the record holds.
    same_files: bool


def published_base(record: AdapterRecord, given: str | None) -> PublishedBase:
    """The base as `given` (`owner/name`, `owner/name@revision`), else as the record tells it.

    Raises `ModelError` where the record knows a directory only and nothing is given, `UsageError` where `given` is no Hub id.
    """
    known = hub_name(record)
    if given is not None:
        name, _, revision = given.partition("@")
        _require_names(name, revision)
        same = known == name
        return PublishedBase(name, revision or (record.base_revision if same else None), same_files=False)
    if known is None:
        raise ModelError(
            "The base of this adapter is known as a directory of this machine only, which means nothing elsewhere.",
            next_step="Say what it is on the Hub: --base-name OWNER/NAME, or OWNER/NAME@REVISION.",
        )
    return PublishedBase(known, record.base_revision, same_files=record.base_source == "hub")


def exported_name(given: str | None, fallback: str) -> str:
    """The name of the exported model: letters, digits, dots, dashes and underscores. Raises `UsageError` for another."""
    if given is not None and not _NAME.fullmatch(given):
        raise UsageError(
            f"The name {given[:100]!a} has letters that servers and file names may not take.",
            next_step="Use at most 96 letters, digits, dots, dashes and underscores, a letter or digit first.",
        )
    return given or re.sub(r"[^A-Za-z0-9._-]+", "-", fallback).strip("-._")[:96] or "model"


def _require_names(name: str, revision: str) -> None:
    try:
        ModelReference.parse(name, source="hub")
    except ModelError as error:
        raise UsageError(
            f"The base's name cannot be used: {error.message}", next_step="Give OWNER/NAME or OWNER/NAME@REVISION."
        ) from None
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise UsageError(f"{revision[:100]!a} is no revision.", next_step="Give a commit, a tag or a branch.")
