"""Names of base models and datasets in recipes: on the Hub, on disk, and those that are quantised already."""

import re
from typing import Any

from ..data.reading.sources import COMPRESSION_SUFFIXES, DATA_SUFFIXES
from ..errors import UsageError
from .recipes import Account, Section
from .recipes_values import words

_QUANTISED = re.compile(r"(?:^|[-_.])(gptq|awq|aqlm|hqq|eetq|exl2|gguf)(?:[-_.]|$)", re.IGNORECASE)
_BITSANDBYTES = re.compile(r"-(?:unsloth-)?bnb-(?:4|8)bit$", re.IGNORECASE)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def settle_model(section: Section, key: str, revision: str) -> None:
    """The base model. A bare name is one of the Hub there and one of the catalogue here; other paths are directories.

    Raises `UsageError` for a base that is quantised with what has no adapters here.
    """
    if key in section:
        given, why = words(str(section.get(key))), ""
        _require_plain(given, section.account)
        ours = local_path(given)
        if ours != given:
            why = "written so that it is a directory here"
        elif _BITSANDBYTES.search(given):
            why = (
                "its weights are quantised with bitsandbytes already; name the 16-bit model that it was made of, which is "
                "quantised on loading by quantization.kind"
            )
        elif "/" not in given:
            why = "a bare name is one of this catalogue; for a model on the Hub write owner/name"
        section.carry(key, "model.name", ours, why)
    if revision in section:
        section.carry(revision, "model.revision", section.get(revision))


def _require_plain(name: str, account: Account) -> None:
    found = _QUANTISED.search(name.rstrip("/").rpartition("/")[2])
    if found and "model.name" not in account.given:
        raise UsageError(
            f"The recipe trains on a base that is quantised with {found.group(1).upper()}; here bitsandbytes quantises a "
            "16-bit base on loading.",
            next_step="Give the 16-bit model it was made of: model.name=OWNER/NAME.",
        )


def local_path(name: str) -> str:
    """A path that could be taken for something else, with ./ before it; a Hub id, a bare name or a clear path as it is."""
    clear = name.startswith(("/", "./", "../", "~")) or "/" not in name or _HUB_ID.fullmatch(name) is not None
    return name if clear else f"./{name}"


def is_file(path: str) -> bool:
    """Whether a dataset's name is that of a file that can be read here."""
    return path.lower().endswith((*DATA_SUFFIXES, *COMPRESSION_SUFFIXES))


def plain_split(value: Any) -> tuple[str, str]:
    """The name of a split and the slice behind it, `train[:10%]`; both empty where it is no text."""
    found = re.fullmatch(r"\s*([\w.-]+)\s*(\[[^\]]*\])?\s*", value) if isinstance(value, str) else None
    return (found.group(1), found.group(2) or "") if found else ("", "")
