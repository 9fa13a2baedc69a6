"""What stands out about the rows as a whole, before any text or token is looked at."""

from ..data.reading.byte_streams import ROWS_MISSING
from ..results import Finding
from .findings import finding, rows_said, shown
from .scan import Scan, unusable_findings

_FEW_ROWS = 50


def structure_findings(found: Scan, evaluation: Scan | None) -> list[Finding]:
    """Rows that cannot be used or repeat, too few of them, how further sources are read, and notes of the readers."""
    held_out = unusable_findings(evaluation.reasons, evaluation.rows) if evaluation else []
    return [
        *unusable_findings(found.reasons, found.rows),
        *(item.model_copy(update={"check": "evaluation_rows_unusable"}) for item in held_out),
        *found.digests.findings(),
        *_few(found),
        *_rejected(found),
        *_unread(found),
        *_further_sources(found),
        *map(_note, found.notes),
    ]


def _note(note: str) -> Finding:
    if not note.startswith(ROWS_MISSING):
        return finding("reading", "note", shown(note, 400), [], 0)
    return finding("rows_missing", "error", shown(note, 400), [], 0, next_step="Fetch or write the file again.")


def _few(found: Scan) -> list[Finding]:
    if found.usable >= _FEW_ROWS:
        return []
    message = (
        f"Only {rows_said(found.usable)} can be used: enough to try the set-up, too few to learn from without learning "
        "them by heart"
    )
    step = "A few hundred good rows teach a style or a format; more teach more."
    return [finding("few_rows", "warning", message, [], found.rows, next_step=step)]


def _rejected(found: Scan) -> list[Finding]:
    if all(mapping.format != "preference" for mapping in found.mappings):
        return []
    message = "Rows are pairs of a chosen and a rejected answer: the chosen one is learnt, the rejected one is not used"
    return [finding("rejected_answers", "note", message, [], 0)]


def _unread(found: Scan) -> list[Finding]:
    if not found.unread:
        return []
    named = ", ".join(shown(name, 40) for name in found.unread[:5])
    message = f"Columns with text are not read: {named}"
    step = "Where the answer needs them, map them with data.columns (system, context), or write them into the rows."
    return [finding("columns_not_read", "warning", message, [], 0, next_step=step)]


def _further_sources(found: Scan) -> list[Finding]:
    """Which rows are of which source, and how the sources behind the first are read."""
    if len(found.paths) == 1:
        return []
    ends = [*found.starts[1:], found.rows]
    said = (
        f"Rows {start + 1:,} to {end:,} are {shown(path, 80)}, read as {mapping.format}: "
        + ", ".join(f"{ours} ← {shown(theirs, 40)}" for ours, theirs in mapping.columns.items())
        for path, mapping, start, end in zip(found.paths, found.mappings, found.starts, ends, strict=True)
    )
    return [finding("further_source", "note", message, [], 0) for message in said]
