"""A cleaned copy of a dataset: every row as it was, with personal data and secrets replaced."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..config.overrides import config_with
from ..data.dataset import training_sources
from ..data.reading.stream import open_rows
from ..disk import disk_errors
from ..errors import UsageError
from ..events import Listener, RunEvent, ignore
from .redact import redact_value, require_redaction

_EVENT_ROWS = 500


def redact_dataset(
    data: str, target: Path, *, settings: Mapping[str, Any] | None = None, on_event: Listener = ignore
) -> dict[str, int]:
    """Write the rows of `data` to `target` as JSON Lines with placeholders such as `[EMAIL]`; returns counts by kind.

    Rows that cannot be read are left out and counted under `rows left out`. The file appears whole or not at all.
    Raises `UsageError` where `target` exists, `MissingLibraryError` where a kind could not be found, `DataError`.
    """
    require_redaction()
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; it is not replaced.", next_step="Choose another file.")
    config = config_with(settings or {}, data=data)
    counts: Counter[str] = Counter()
    with disk_errors(target.parent, left="nothing was written"), _aside(target) as file:
        for named in training_sources(config.data):
            stream = open_rows(named.source)
            for row in stream:
                if row.value is None:
                    counts["rows left out"] += 1
                    continue
                value, found = redact_value(dict(row.value))
                counts.update(found)
                file.write(json.dumps(value, ensure_ascii=False) + "\n")
                if row.number % _EVENT_ROWS == 0 and stream.total_bytes:
                    values = {"done": stream.done_bytes, "total": stream.total_bytes, "bytes": 1}
                    on_event(RunEvent("progress", "redacting", values))
    return dict(counts)


@contextmanager
def _aside(target: Path) -> Iterator[IO[str]]:
    """A file beside `target` that takes its place when all went well, and is gone when not."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yield file
        partial.chmod(0o644)
        os.link(partial, target)  # fails where somebody else made the file meanwhile
    finally:
        partial.unlink(missing_ok=True)
