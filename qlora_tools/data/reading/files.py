"""Which files of a path are read: their kinds, the wanted split, members of zip files, and what is refused unopened."""

import os
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import DataError
from .byte_streams import HEAD_BYTES, ZIP_MAGIC, ByteCount, DamagedStreamError, open_bytes
from .sources import COMPRESSION_SUFFIXES, DATA_SUFFIXES

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
# Files that stand beside data and hold none.
_NO_DATA = ("readme", "license", "licence", "notice", "changelog", "requirements")
_NO_DATA_JSON = ("dataset_info", "dataset_infos", "dataset_dict", "state")

_PICKLE = (
    "a file that can run code when it is read, and is not opened",
    "Save the rows as JSON Lines (one JSON object a line) with the program that wrote it.",
)
_SCRIPT = ("a program, and is not run", "Run it yourself, and give the data file that it makes.")
_SHEET = ("a spreadsheet, which is not read", "Export the sheet as CSV in UTF-8, and give that file.")
_DOCUMENT = (
    "a document, which is not read",
    "Save its text as .txt (a line is a row), or its rows as .jsonl, and give that file.",
)
_ARCHIVE = ("an archive, which is not read", "Unpack it, and give the folder or the file inside.")
_DATABASE = ("a database, which is not read", "Export the table as CSV, and give that file.")
_REFUSED: dict[str, tuple[str, str]] = {
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".dill", ".npy", ".npz"), _PICKLE),
    **dict.fromkeys((".py", ".ipynb", ".sh"), _SCRIPT),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods"), _SHEET),
    **dict.fromkeys((".docx", ".doc", ".odt", ".pdf", ".rtf", ".html"), _DOCUMENT),
    **dict.fromkeys((".tar", ".tgz", ".7z", ".rar"), _ARCHIVE),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db"), _DATABASE),
}
_CONVERT = "Convert it, for instance to JSON Lines: one JSON object a line."


@dataclass(frozen=True)
class DataFile:
    """One file to read, or one member of a zip file. `size` is in bytes on disk; `label` names it among others."""

    path: Path
    kind: str
    label: str
    size: int
    member: str | None = None


def find_files(path: Path, split: str) -> tuple[list[DataFile], list[str]]:
    """The data files of a path in order, at least one, and notes about what is not read.

    Raises `DataError` where there is nothing to read, naming what is there.
    """
    if path.is_dir():
        return _in_folder(path, split)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            f"The dataset {path} is not a regular file but a pipe, a socket or a device.",
            next_step="Write the rows to a file, and give that.",
        )
    if status.st_size == 0 and suffix_of(path.name) not in _REFUSED:
        raise DataError(f"The dataset {path} is empty (0 bytes).", next_step="Give a file with at least one row.")
    if _is_zip(path):
        return _in_zip(path, split)
    return [DataFile(path, _kind_of_file(path), path.name, status.st_size)], []


def suffix_of(name: str) -> str:
    """The suffix that tells the format: the one under that of the compression."""
    inner = PurePosixPath(name.lower())
    while inner.suffix in COMPRESSION_SUFFIXES:
        inner = inner.with_suffix("")
    return inner.suffix


def _is_zip(path: Path) -> bool:
    if suffix_of(path.name) in _REFUSED:
        return False
    with path.open("rb") as file:
        return file.read(4) in ZIP_MAGIC


def _kind_of_file(path: Path) -> str:
    suffix = suffix_of(path.name)
    if suffix in _REFUSED:
        why, step = _REFUSED[suffix]
        raise DataError(f"The dataset {path} ends in {suffix}: {why}.", next_step=step)
    if suffix in DATA_SUFFIXES:
        return suffix
    kind = _kind_by_content(path)
    if kind is None:
        raise DataError(
            f"The dataset {path} ends in {suffix or 'nothing'}; known are {', '.join(DATA_SUFFIXES)}.",
            next_step=_CONVERT if suffix else f"Add the suffix that says what it is. {_CONVERT}",
        )
    return kind


def _kind_by_content(path: Path) -> str | None:
    try:
        with open_bytes(path, None, ByteCount()) as stream:
            head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
    except DamagedStreamError as error:
        raise DataError(f"The dataset {path} cannot be read: {error}.", next_step="Fetch the file again.") from None
    if head.startswith((b"PAR1", b"ARROW1")):
        return ".parquet" if head.startswith(b"PAR1") else ".arrow"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return ".json" if re.match(rb'\{\s*["}]|\[\s*[\[{\]]', text) else None


def _in_folder(folder: Path, split: str) -> tuple[list[DataFile], list[str]]:
    found = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    names = {name: path for name, path in found.items() if path.is_file()}
    zipped = {name: path for name, path in names.items() if name.lower().endswith(".zip") and _is_zip(path)}
    wanted, other = _sorted_out(names.keys() - zipped.keys())
    other = sorted([*other, *(found.keys() - names.keys())])  # pipes, devices, links to nowhere
    files = [DataFile(names[name], suffix_of(name), name, names[name].stat().st_size) for name in wanted]
    for name, path in zipped.items():
        members, more = _zip_members(path, name)
        files += members
        other += more
    if not files:
        raise DataError(f"The folder {folder} holds no data file{_seen(other)}.", next_step=_folder_step(other))
    chosen, notes = _of_split({file.label: file for file in files}, split, folder)
    full = [file for file in chosen if file.size]
    if not full:
        raise DataError(f"Every data file of {folder} is empty (0 bytes).", next_step="Give files with rows.")
    return full, [*_left_out(other), *notes, *(f"{file.label} is empty (0 bytes)." for file in chosen if not file.size)]


def _walk(folder: Path) -> Iterator[Path]:
    """The files under a folder in order of their names, without hidden ones."""

    def stop(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=stop):  # links to folders may lead out of it, or back
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        found.extend(Path(place, name) for name in names if not name.startswith("."))
    return iter(sorted(found))


def _in_zip(path: Path, split: str) -> tuple[list[DataFile], list[str]]:
    files, other = _zip_members(path, path.name)
    if not files:
        what = _zip_document(other) or f"a zip file without a data file{_seen(other)}"
        raise DataError(f"The dataset {path} is {what}.", next_step=_folder_step(other))
    chosen, notes = _of_split({file.label.removeprefix(f"{path.name}/"): file for file in files}, split, path)
    return chosen, [*_left_out(other), *notes]


def _zip_members(path: Path, label: str) -> tuple[list[DataFile], list[str]]:
    """The data files in a zip file, and the names of the other members."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist() if _is_shown(entry)}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(
            f"The dataset {path} cannot be read: it is a zip file that is cut off or damaged ({error}).",
            next_step="Fetch the file again.",
        ) from None
    links = [name for name, entry in entries.items() if stat.S_ISLNK(entry.external_attr >> 16)]
    wanted, other = _sorted_out(entries.keys() - set(links))
    members = [DataFile(path, suffix_of(name), f"{label}/{name}", entries[name].compress_size, name) for name in wanted]
    return members, [f"{label}/{name}" for name in [*other, *links]]


def _is_shown(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a file that is not hidden. Where its name leads does not matter: nothing is unpacked there."""
    parts = [part for part in PurePosixPath(entry.filename).parts if part != ".."]
    return bool(parts) and not entry.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in parts)


def _zip_document(members: Sequence[str]) -> str | None:
    if any(name.endswith("/[Content_Types].xml") for name in members):
        return "an Office document (Excel or Word), which is not read"
    return "a PyTorch file, which is not opened" if any(name.endswith("/data.pkl") for name in members) else None


def _sorted_out(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of data files, and the others, both in order."""
    data: list[str] = []
    other: list[str] = []
    for name in sorted(names):
        stem, suffix = PurePosixPath(name.lower()).name.partition(".")[0], suffix_of(name)
        no_data = stem in _NO_DATA or (suffix == ".json" and stem in _NO_DATA_JSON)
        (data if suffix in DATA_SUFFIXES and not no_data else other).append(name)
    return data, other


def _of_split(files: Mapping[str, DataFile], split: str, place: Path) -> tuple[list[DataFile], list[str]]:
    """The files, by their names, that belong to a split, in order; and a note about the others."""
    wanted = _SPLITS.get(split, split)
    by_split: dict[str | None, list[DataFile]] = {}
    for name in sorted(files):
        by_split.setdefault(_split_of(name, wanted), []).append(files[name])
    # Files without the name of a split are those to train on, unless others say that they are.
    named = wanted if wanted in by_split or wanted != "train" else None
    if named not in by_split:
        known = ", ".join(sorted(key for key in by_split if key)) or "none"
        raise DataError(
            f"{place} has no files of the split {split!r}; splits that its file names tell of: {known}.",
            next_step="Name one of these splits, or give the file itself.",
        )
    left = {key or "no split": len(found) for key, found in by_split.items() if key != named}
    shown = ", ".join(f"{key} ({count} file{'s' * (count > 1)})" for key, count in sorted(left.items()))
    return by_split[named], [f"Of {place}, only {split} is read; beside it are: {shown}."] if left else []


def _split_of(name: str, wanted: str) -> str | None:
    """The split that a name tells of: its last part first, then its folders from the inside out."""
    for part in reversed(PurePosixPath(name).parts):
        words = re.split(r"[\W_\d]+", part.lower())
        if wanted not in _SPLITS.values() and wanted.lower() in (part.lower().partition(".")[0], *words):
            return wanted
        found = [_SPLITS[word] for word in words if word in _SPLITS]
        if found:
            return found[0]
    return None


def _seen(other: Sequence[str]) -> str:
    return f"; it holds {', '.join(other[:5])}{' and others' * (len(other) > 5)}" if other else ""


def _left_out(other: Sequence[str]) -> list[str]:
    if not other:
        return []
    return [f"Left out, since they are no data files: {', '.join(other[:5])}{' and others' * (len(other) > 5)}."]


def _folder_step(other: Sequence[str]) -> str:
    refused = (suffix_of(name) for name in other)
    steps = [_REFUSED[suffix][1] for suffix in refused if suffix in _REFUSED]
    return steps[0] if steps else f"Give a file or folder with {', '.join(DATA_SUFFIXES)}."
