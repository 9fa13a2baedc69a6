"""Reading a dataset file into examples, through `datasets`. What is wrong is said with its line."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..requirements import require_training_libraries
from .formats import Example, RowError, detect_format, to_example

_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text"}
_MOST_ROW_ERRORS_SHOWN = 5
_MEND = "Mend the file; rows of JSON Lines are one JSON object each, in UTF-8, with the same fields and types."


@dataclass(frozen=True)
class Examples:
    """The rows of a file in normal form, with the format they were read as."""

    format: str
    examples: tuple[Example, ...]


def read_examples(path: Path, row_format: str = "auto") -> Examples:
    """Read every row of `path`.

    Raises `DataError` when the file is missing, empty, not text in UTF-8, of no known format, or has rows that do not
    fit the format (the first five are named).
    """
    rows = _load_rows(path)
    if not rows:
        raise DataError(f"The dataset {path} has no rows.", next_step="Give a file with at least one row.")
    found = detect_format(list(rows[0]), rows[0]) if row_format == "auto" else row_format
    return Examples(found, tuple(_normal_forms(rows, found, path)))


def _normal_forms(rows: Sequence[Mapping[str, Any]], row_format: str, path: Path) -> list[Example]:
    examples: list[Example] = []
    problems: list[str] = []
    for number, row in enumerate(rows, start=1):
        try:
            examples.append(to_example(row, row_format))
        except RowError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        shown = "".join(f"\n  - {problem}" for problem in problems[:_MOST_ROW_ERRORS_SHOWN])
        raise DataError(
            f"{len(problems)} of {len(rows)} rows of {path} do not fit the format {row_format}:{shown}",
            next_step="Mend or remove these rows, or name another data.format.",
        )
    return examples


def _load_rows(path: Path) -> list[dict[str, Any]]:
    builder = _check_file(path)
    if builder == "json" and (reason := _first_row_problem(path)):
        raise DataError(f"The dataset {path} cannot be read: {reason}.", next_step=_MEND)
    require_training_libraries("reading a dataset")
    import datasets

    datasets.disable_progress_bars()
    # The cache of `datasets` would outlive the run and is keyed by path and time only; rows are held in memory anyway.
    with tempfile.TemporaryDirectory(prefix="qlora-rows-") as cache:
        try:
            options: dict[str, Any] = {"delimiter": "\t"} if path.suffix.lower() == ".tsv" else {}
            loaded = datasets.load_dataset(
                builder, data_files=str(path), split="train", cache_dir=cache, keep_in_memory=True, **options
            )
            # Arrow takes any bytes as text; only making Python strings of them finds those that are not UTF-8.
            return list(loaded.to_list())
        except (datasets.exceptions.DatasetGenerationError, ValueError, UnicodeDecodeError, OSError) as error:
            raise _explained(path, error) from None


def _check_file(path: Path) -> str:
    if not path.exists():
        raise DataError(f"There is no dataset {path}.", next_step="Check data.path.")
    if not path.is_file():
        raise DataError(
            f"The dataset {path} is not a file.", next_step="Give one .jsonl, .json, .csv or .parquet file."
        )
    if path.suffix.lower() not in _BUILDERS:
        raise DataError(
            f"The dataset {path} ends in {path.suffix or 'nothing'}; known are {', '.join(_BUILDERS)}.",
            next_step="Convert it, for instance to JSON Lines: one JSON object a line.",
        )
    if path.stat().st_size == 0:
        raise DataError(f"The dataset {path} is empty (0 bytes).", next_step="Give a file with at least one row.")
    return _BUILDERS[path.suffix.lower()]


def _explained(path: Path, error: BaseException) -> DataError:
    reason = _first_bad_line(path) if path.suffix.lower() != ".parquet" else None
    cause = str(error.__cause__ or error).splitlines()
    return DataError(
        f"The dataset {path} cannot be read: {reason or (cause[0] if cause else type(error).__name__)}.",
        next_step=_MEND,
    )


def _first_row_problem(path: Path) -> str | None:
    """What `datasets` would read in its own way: JSON Lines whose first line is not an object."""
    if path.suffix.lower() != ".jsonl":
        return None
    with path.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        return _line_problem(json.loads(first.decode("utf-8-sig")), {}) and "line 1 is not a JSON object"
    except ValueError:
        return None  # said with its line by the reader


def _first_bad_line(path: Path) -> str | None:
    """Where a text file stops being UTF-8 or JSON, in words for a person; None when every line is well formed."""
    kinds: dict[str, type] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                problem = (
                    _line_problem(json.loads(text), kinds) if path.suffix.lower() == ".jsonl" and text.strip() else None
                )
            except UnicodeDecodeError as error:
                return (
                    f"line {number} is not UTF-8 text (byte {error.start + 1} of the line is 0x{line[error.start]:02x})"
                )
            except ValueError as error:
                return f"line {number} is not JSON ({error})"
            if problem:
                return f"line {number}: {problem}"
    return None


def _line_problem(row: Any, kinds: dict[str, type]) -> str | None:
    if not isinstance(row, Mapping):
        return f"a {type(row).__name__} instead of a JSON object"
    for field, value in row.items():
        if value is not None and kinds.setdefault(field, type(value)) is not type(value):
            return f"{field} is a {type(value).__name__}, and a {kinds[field].__name__} in earlier rows"
    return None
