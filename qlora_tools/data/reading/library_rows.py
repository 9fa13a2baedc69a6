"""Rows that come through the library `datasets`: datasets saved with `save_to_disk`, and those on the Hub."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...disk import DISK_FULL
from ...errors import DataError, MachineError, QloraError
from ...paths import as_path
from ...requirements import require_training_libraries
from .byte_streams import ByteCount
from .sources import DataSource
from .text_rows import Row
from .typed_rows import BATCH_ROWS, PlainColumns, first_line

_NO_NETWORK = ("Couldn't reach", "OfflineMode", "offline", "ConnectError", "Timeout", "Name or service", "Max retries")
_HTTP_ERRORS = (("httpx", "HTTPError"), ("httpx2", "HTTPError"), ("aiohttp", "ClientError"))


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or all(
        (folder / name).is_file() for name in ("dataset_info.json", "state.json")
    )


def saved_rows(folder: Path, split: str, count: ByteCount, notes: list[str]) -> tuple[Iterator[Row], int]:
    """Rows of a saved dataset, and its size in bytes.

    Raises `DataError` where it is damaged or lacks the split, `MissingLibraryError` without `datasets`.
    """
    require_training_libraries("reading a saved dataset")
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except _library_errors() as error:
        raise _not_saved_right(folder, error) from None
    if isinstance(saved, dict):
        if split not in saved:
            raise _no_split(str(folder), split, list(saved))
        others = sorted(name for name in saved if name != split)
        if others:
            notes.append(f"Of {folder}, only {split} is read; beside it are: {', '.join(others)}.")
        saved = saved[split]
    size = sum(Path(file["filename"]).stat().st_size for file in saved.cache_files)
    return _saved_rows(saved, folder, count, size, notes), size


def _saved_rows(saved: Any, folder: Path, count: ByteCount, size: int, notes: list[str]) -> Iterator[Row]:
    count.start(size)
    batches = saved.with_format("arrow").iter(batch_size=BATCH_ROWS)
    try:
        for row in _rows_of_tables(batches, notes):
            yield row
            count.reach(int(row[0].removeprefix("row ")) * size // max(1, saved.num_rows))
    except _library_errors() as error:
        raise _not_saved_right(folder, error) from None
    count.finish()


def _rows_of_tables(tables: Iterator[Any], notes: list[str]) -> Iterator[Row]:
    number = 0
    plain: PlainColumns | None = None
    for table in tables:
        for batch in table.to_batches(max_chunksize=BATCH_ROWS):
            plain = plain or PlainColumns(batch, notes)
            for value, problem in plain.rows(batch):
                number += 1
                yield f"row {number}", value, problem


def hub_rows(source: DataSource, notes: list[str]) -> Iterator[Row]:
    """Rows of a dataset on the Hub, streamed. Code that comes with a dataset is never run.

    Raises `DataError` where it is missing, gated, made by a script, or lacks the split or subset; `MachineError` where
    the Hub cannot be reached. The first rows are asked for when the iteration begins.
    """
    require_training_libraries("reading a dataset from the Hub")
    import datasets

    # A folder of that name would be taken instead; the name's form says the Hub.
    name = f"hf://datasets/{source.path}" if os.path.isdir(source.path) else source.path  # noqa: PTH112
    try:
        rows = datasets.load_dataset(name, source.subset, split=source.split, streaming=True)
        yield from _rows_of_tables(rows.with_format("arrow").iter(batch_size=BATCH_ROWS), notes)
    except _library_errors() as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise _hub_error(source, error) from None


def _library_errors() -> tuple[type[Exception], ...]:
    """What `datasets` and the libraries under it raise for data and networks; anything else is a bug."""
    import pyarrow
    from datasets.exceptions import DatasetsError

    standard = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError)
    # Which client the Hub is asked through changes with the version; one that is not loaded raises nothing.
    clients = [getattr(sys.modules[module], error) for module, error in _HTTP_ERRORS if module in sys.modules]
    return *standard, DatasetsError, pyarrow.ArrowException, *clients


def _not_saved_right(folder: Path, error: Exception) -> QloraError | OSError:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return error
    return DataError(
        f"The saved dataset {folder} cannot be read: {first_line(error)}.",
        next_step="Save it again with save_to_disk, or export it with to_json and give that file.",
    )


def _no_split(name: str, split: str, known: list[str]) -> DataError:
    return DataError(
        f"The dataset {name} has no split {split!r}; it has {', '.join(known)}.", next_step="Name one of these splits."
    )


def _hub_error(source: DataSource, error: Exception) -> QloraError:
    said, name = str(error), source.path
    known = re.search(r"(?:Available(?: splits)?|available configs): (\[.*?\])", said, flags=re.DOTALL)
    among = ", ".join(re.findall(r"'([^']+)'", known[1])) if known else "no others"
    if "Bad split" in said or "Unknown split" in said:
        return _no_split(name, source.split, among.split(", "))
    if "BuilderConfig" in said or "Config name is missing" in said:
        what = f"has no subset {source.subset!r}" if source.subset else "has several subsets"
        return DataError(f"The dataset {name} {what}: {among}.", next_step="Name one of these as the subset.")
    if "scripts are no longer supported" in said:
        return DataError(
            f"The dataset {name} is made by a script, which is not run.",
            next_step="Fetch its data files and give their folder, or choose a copy of it in Parquet.",
        )
    if "gated" in said:
        return DataError(
            f"The dataset {name} is gated: its owner gives access on request.",
            next_step="Accept its terms on its page, then set HF_TOKEN to your access token.",
        )
    local = f" For the folder of that name here, write ./{name}." if as_path(name).exists() else ""
    if isinstance(error, ConnectionError | TimeoutError) or any(sign in said for sign in _NO_NETWORK):
        return MachineError(
            f"The dataset {name} cannot be fetched, since the Hub cannot be reached ({first_line(error)}).",
            next_step=f"Check the network and HF_HUB_OFFLINE, or give a file or folder.{local}",
        )
    return DataError(
        f"The dataset {name} cannot be read from the Hub: {first_line(error)}.",
        next_step=f"Check the name; for a private dataset set HF_TOKEN. A path starts with / or ./.{local}",
    )
