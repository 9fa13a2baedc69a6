"""One pass over every row: what can be read and used, exact repetitions, sources, and an even sample for the rest."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..data.dataset import EvenSample, NamedRows, ReadRow, RowReader
from ..data.examples import all_text
from ..events import Listener, RunEvent
from ..results import Finding, RowMapping
from .duplicates import RowDigests
from .findings import Severity, finding, shown, shown_masked
from .rows import CheckedRow

_ROWS_NAMED = 10
_REASONS_TOLD = 8
_MOST_SOURCES = 200
_EVENT_ROWS = 2000
# What an unusable row costs when there are few of them: it is left out. More than this, and something is wrong.
_UNUSABLE_SHARE = 0.01
# Parts of names of columns that hold what an answer needs, or how it was found.
_TELLING = frozenset(
    (
        "reasoning",
        "thinking",
        "thought",
        "thoughts",
        "cot",
        "rationale",
        "definition",
        "context",
        "system",
        "instructions",
    )
)
_PROSE_WORDS = 4
_SOURCE_COLUMNS = (
    "source",
    "dataset",
    "data_source",
    "dataset_name",
    "origin",
    "category",
    "task",
    "task_type",
    "domain",
)


@dataclass
class Scan:
    """What one pass over the rows of some sources tells."""

    sample: EvenSample
    digests: RowDigests = field(default_factory=RowDigests)
    paths: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    mappings: list[RowMapping] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    characters: int = 0
    reasons: dict[str, "Unusable"] = field(default_factory=dict)
    rows_by_source: Counter[str] = field(default_factory=Counter)
    rows_by_column: Counter[str] = field(default_factory=Counter)

    @property
    def usable(self) -> int:
        """Rows that were brought to their normal form."""
        return self.sample.seen

    @property
    def unusable(self) -> int:
        """Rows that cannot be read or do not fit the format."""
        return self.rows - self.sample.seen

    def checked_rows(self) -> list[CheckedRow]:
        """The sample, for checks that cost time."""
        return [CheckedRow(number, example) for number, example in self.sample.rows()]


@dataclass
class Unusable:
    """Rows that share a reason; the first ten numbers, and the reason of the first in full."""

    reason: str
    count: int = 0
    numbers: list[int] = field(default_factory=list)

    def add(self, number: int) -> None:
        """Count one more row."""
        self.count += 1
        if len(self.numbers) < _ROWS_NAMED:
            self.numbers.append(number)


def scan(sources: Sequence[NamedRows], most: int, on_event: Listener) -> Scan:
    """Read every row once, in bounded memory; keep at most `most` of them. Raises `DataError` as `RowReader` does."""
    found = Scan(EvenSample(most))
    for named in sources:
        reader = RowReader(named, offset=found.rows)
        found.paths.append(named.source.path)
        found.starts.append(found.rows)
        found.unread += _unread(reader)
        found.mappings.append(reader.mapping)
        column = _source_column(reader)
        for row in reader:
            _take(found, row, named.source.path, column)
            if found.rows % _EVENT_ROWS == 0 and reader.stream.total_bytes:
                done = min(reader.stream.done_bytes, reader.stream.total_bytes)
                on_event(
                    RunEvent("progress", "reading", {"done": done, "total": reader.stream.total_bytes, "bytes": 1})
                )
        found.notes += reader.stream.notes
    return found


def _take(found: Scan, row: ReadRow, source: str, column: str | None) -> None:
    found.rows += 1
    if row.example is None:
        reason = row.problem or ""
        found.reasons.setdefault(_kind_of(reason), Unusable(reason)).add(row.number)
        return
    found.sample.offer(row.number, row.example)
    found.digests.add(row.number, row.example)
    found.characters += len(all_text(row.example))
    found.rows_by_source[source] += 1
    if column is not None and row.value is not None and len(found.rows_by_column) <= _MOST_SOURCES:
        found.rows_by_column[shown(str(row.value.get(column)), 40)] += 1


def _source_column(reader: RowReader) -> str | None:
    unused = reader.mapping.unused_columns
    return next((name for name in _SOURCE_COLUMNS if name in unused), None)


def _unread(reader: RowReader) -> list[str]:
    """Columns that are not read although their names and texts say that rows lose something without them."""
    texts = {name: [row.get(name) for row in reader.first] for name in reader.mapping.unused_columns}
    return [
        name
        for name, values in texts.items()
        if set(re.split(r"[^a-z]+", name.lower())) & _TELLING
        and any(isinstance(value, str) and len(value.split()) >= _PROSE_WORDS for value in values)
    ]


def _kind_of(reason: str) -> str:
    """The reason without its numbers and values, to count rows of one kind together."""
    return re.sub(r"\d+|'[^']*'", "#", reason)[:200]


def refusals(unusable: Sequence[tuple[int, str]]) -> dict[str, Unusable]:
    """Rows that a chat template refuses, by kind of reason."""
    reasons: dict[str, Unusable] = {}
    for number, reason in unusable:
        reasons.setdefault(_kind_of(reason), Unusable(reason)).add(number)
    return reasons


def unusable_findings(reasons: Mapping[str, Unusable], rows: int) -> list[Finding]:
    """One finding for each kind of row that cannot be used; an error where they are more than 1 % of the rows."""
    kinds = sorted(reasons.values(), key=lambda kind: -kind.count)
    total = sum(kind.count for kind in kinds)
    severity: Severity = "error" if total > _UNUSABLE_SHARE * rows else "warning"
    step = "Mend or remove these rows. Left as they are, training leaves them out and counts them."
    found = [
        finding(
            "unusable_rows",
            severity,
            f"Rows cannot be used: {shown_masked(kind.reason)}",
            kind.numbers,
            rows,
            next_step=step,
        ).model_copy(update={"count": kind.count, "share": kind.count / rows})
        for kind in kinds[:_REASONS_TOLD]
    ]
    if others := kinds[_REASONS_TOLD:]:
        numbers = [number for kind in others for number in kind.numbers]
        count = sum(kind.count for kind in others)
        message = f"Rows cannot be used for {len(others)} further reasons"
        found.append(
            finding("unusable_rows", severity, message, numbers, rows, next_step=step).model_copy(
                update={"count": count, "share": count / rows}
            )
        )
    return found


def source_counts(found: Scan) -> dict[str, int]:
    """Rows by source: the files of a mixture, or the values of a column that names where rows come from."""
    if len(found.rows_by_source) > 1:
        return dict(found.rows_by_source.most_common())
    usual = 1 < len(found.rows_by_column) <= _MOST_SOURCES
    return dict(found.rows_by_column.most_common()) if usual else {}
