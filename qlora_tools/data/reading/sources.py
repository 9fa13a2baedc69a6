"""What names a dataset: a file, a folder, a saved dataset, or a dataset on the Hub."""

import re
from dataclasses import dataclass
from typing import Literal

from ...errors import DataError

DATA_SUFFIXES: tuple[str, ...] = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
COMPRESSION_SUFFIXES: tuple[str, ...] = (".gz", ".bz2", ".xz", ".zst", ".zip")

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_LONGEST_HUB_ID = 200
# Files that are refused by name; written with an owner's slash they still mean a file.
_OTHER_FILES = (
    ".py",
    ".pkl",
    ".pickle",
    ".pt",
    ".pth",
    ".bin",
    ".npy",
    ".npz",
    ".xlsx",
    ".xls",
    ".pdf",
    ".tar",
    ".tgz",
)


@dataclass(frozen=True)
class DataSource:
    """Where rows come from. `path` is as the user wrote it, `subset` the name of a configuration on the Hub.

    `split` chooses among files, folders or splits that carry names of splits; a file that is named itself is read whole.
    """

    path: str
    source: Literal["auto", "local", "hub"] = "auto"
    split: str = "train"
    subset: str | None = None


def is_on_hub(source: DataSource) -> bool:
    """Whether the dataset is on the Hub. `auto` goes by the form of the name alone, never by what exists on disk.

    Raises `DataError` where the Hub is asked for a name that no dataset can have.
    """
    if source.source != "hub":
        return source.source == "auto" and _is_hub_id(source.path) and not _names_a_file(source.path)
    if not _is_hub_id(source.path):
        raise DataError(
            f"{source.path!r} is not a Hub id, which has the form owner/name.",
            next_step="Write the id as the dataset's page shows it, or leave data.source at auto for a path.",
        )
    return True


def _is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and ".." not in name and len(name) <= _LONGEST_HUB_ID


def _names_a_file(name: str) -> bool:
    return name.lower().endswith((*DATA_SUFFIXES, *COMPRESSION_SUFFIXES, *_OTHER_FILES))
