"""Rows of an evaluation that stand in the training data: what they measure is memory."""

from ..inspection.near import REQUIRED_LIBRARIES
from ..inspection.overlap import Overlap, OverlapPair, find_overlap
from ..inspection.redact import missing_libraries
from ..inspection.rows import CheckedRow
from ..results import Leakage, LeakedRow
from .rows import EvaluationRows

# Training rows that are compared for likeness; word for word all of them are.
_COMPARED = 20_000


def find_leakage(rows: EvaluationRows) -> Leakage:
    """Exact, same-prompt and near copies among the rows that are evaluated."""
    if rows.training is None:
        return Leakage(exact=0, same_prompt=0, near=0, rows=[], not_checked=[rows.no_training])
    numbered = zip(rows.training.numbers, rows.training.examples, strict=True)
    training = [CheckedRow(number, example) for number, example in numbered]
    evaluation = [CheckedRow(row.number, row.example) for row in rows.rows]
    known = {row.digest for row in training}
    shared = [row.number for row in evaluation if row.digest in known]
    step = -(-len(training) // _COMPARED)
    overlap = find_overlap(OverlapPair(training[::step], evaluation, shared))
    return _leakage(overlap, _left_out(step))


def _left_out(step: int) -> list[str]:
    not_checked = []
    if step > 1:
        not_checked.append(f"near copies and prompts: only every {step}th training row was compared")
    if missing := missing_libraries(REQUIRED_LIBRARIES):
        not_checked.append(f"near copies: {', '.join(missing)} is not installed")
    return not_checked


def _leakage(overlap: Overlap, not_checked: list[str]) -> Leakage:
    rows = [
        LeakedRow(row=number, kind=kind, training_row=dict(shared.pairs).get(number))
        for kind, shared in (("exact", overlap.exact), ("same prompt", overlap.same_prompt), ("near", overlap.near))
        for number in shared.hits.rows
    ]
    return Leakage(
        exact=len(overlap.exact.hits.rows),
        same_prompt=len(overlap.same_prompt.hits.rows),
        near=len(overlap.near.hits.rows),
        rows=sorted(rows, key=lambda found: found.row),
        not_checked=not_checked,
    )
