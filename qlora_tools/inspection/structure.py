"""What stands out about the rows as a whole, before any text or token is looked at."""

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
        *_further_sources(found),
        *(finding("reading", "note", shown(note, 400), [], 0) for note in found.notes),
    ]


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


def _further_sources(found: Scan) -> list[Finding]:
    said = (
        f"{shown(path, 80)} is read as {mapping.format}: "
        + ", ".join(f"{ours} ← {shown(theirs, 40)}" for ours, theirs in mapping.columns.items())
        for path, mapping in zip(found.paths[1:], found.mappings[1:], strict=True)
    )
    return [finding("further_source", "note", message, [], 0) for message in said]
