"""What lies in a folder that is handed on whole: links that lead out of it, pipes, and files that name other files."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .refusal import PathRefusedError, shown

MOST_ENTRIES = 100_000
_MOST_BYTES = 16 * 2**20

Allowed = Callable[[Path], bool]


def check_folder(folder: Path, is_allowed: Allowed) -> None:
    """Raise `PathRefusedError` where a link under `folder` leads to a place that is not allowed, or where a pipe,
    socket or device lies, which would block whoever opens it.

    Links to folders are followed, as libraries do. At most 100,000 entries are looked at; more are refused.
    """
    for entry in _entries(folder):
        name = shown(os.path.relpath(entry.path, folder))
        if entry.is_symlink() and not is_allowed(Path(os.path.realpath(entry.path))):
            raise PathRefusedError(
                f"holds the link {name}, which leads outside", "Put a copy in the place of the link."
            )
        if _is_special(entry):
            raise PathRefusedError(f"holds {name}, which is a pipe, a socket or a device", "Remove it, or move it.")


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything under a folder. A link is handed out before it is followed, so that the caller may refuse it."""
    waiting, seen, count = [os.fspath(folder)], {os.path.realpath(folder)}, 0
    while waiting:
        for entry in _listed(waiting.pop(), folder):
            count += 1
            if count > MOST_ENTRIES:
                raise PathRefusedError(
                    f"holds more than {MOST_ENTRIES:,} files", "Name the folder with the files meant."
                )
            yield entry
            # Not entry.is_dir(), which raises for a link that leads in a circle.
            if os.path.isdir(entry.path) and (real := os.path.realpath(entry.path)) not in seen:  # noqa: PTH112
                seen.add(real)
                waiting.append(real)


def _listed(place: str, folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return list(entries)
    except OSError as error:
        reason = f"cannot be looked through: {shown(os.path.relpath(place, folder))}, {error.strerror}"
        raise PathRefusedError(reason, "Check the permissions.") from None


def _is_special(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return not entry.is_file() and not entry.is_dir()
    path = Path(entry.path)
    return path.exists() and not path.is_file() and not path.is_dir()


def check_saved_dataset(folder: Path) -> None:
    """Raise `PathRefusedError` where a folder of `save_to_disk` names files or splits that lie outside it."""
    splits = _content(folder / "dataset_dict.json").get("splits", [])
    _require_names(splits, "dataset_dict.json")
    for part in (folder, *(folder / split for split in splits)):
        files = _content(part / "state.json").get("_data_files", [])
        names = [file.get("filename") if isinstance(file, dict) else file for file in _as_list(files, "state.json")]
        _require_names(names, "state.json")


def _require_names(names: object, file: str) -> None:
    for name in _as_list(names, file):
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name or ":" in name:
            raise PathRefusedError(
                f"is a saved dataset whose {file} names {shown(str(name))}, which is not a name in its folder",
                "Save the dataset again with save_to_disk.",
            )


def _as_list(value: object, file: str) -> list[Any]:
    if not isinstance(value, list):
        raise PathRefusedError(
            f"is a saved dataset whose {file} is damaged", "Save the dataset again with save_to_disk."
        )
    return value


def _content(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def read_json(path: Path) -> object:
    """The JSON value in a regular file of at most 16 MiB, None where there is no such file or no such value."""
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
