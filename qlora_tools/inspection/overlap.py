"""Evaluation rows that stand in the training rows: what they measure is memory."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ..results import Finding
from .findings import Hits, Severity, rows_said
from .near import REQUIRED_LIBRARIES, NearIndex
from .redact import missing_libraries
from .rows import CheckedRow, folded, text_digest

_TOO_MUCH = 0.01
_LEAST_PROMPT_WORDS = 8
_MOST_RECURRING = 3  # a prompt in more training rows than this is an instruction that they share
_STEP = "Remove these rows from the evaluation set, or from the training set."


class OverlapPair(NamedTuple):
    """Training and evaluation rows to compare. `shared` numbers evaluation rows that are known to stand in training rows
    word for word, where the training rows here are a sample of all.
    """

    training: Sequence[CheckedRow]
    evaluation: Sequence[CheckedRow]
    shared: Sequence[int] = ()


def check_overlap(pair: OverlapPair) -> list[Finding]:
    """Evaluation rows found in training: word for word, by their prompt, or nearly. An error from 1 % of them.

    Nearly the same rows are looked for only where rensa is installed.
    """
    training, evaluation = pair.training, pair.evaluation
    exact, same_prompt = _exact(training, evaluation, set(pair.shared))
    near = (
        Hits()
        if missing_libraries(REQUIRED_LIBRARIES)
        else _near(training, evaluation, {*exact.rows, *same_prompt.rows})
    )
    looked_at = len(evaluation)
    said = (
        ("overlap", exact, "Evaluation rows stand in the training rows word for word"),
        ("overlap_prompts", same_prompt, "Evaluation rows ask what a training row asks, word for word"),
        ("near_overlap", near, "Evaluation rows are nearly the same as training rows"),
    )
    findings: list[Finding] = []
    for check, hits, message in said:
        severity: Severity = "error" if hits.share(looked_at) >= _TOO_MUCH and hits is not same_prompt else "warning"
        findings += hits.finding(check, severity, f"{message}: {rows_said(len(hits.rows))}", looked_at, next_step=_STEP)
    return findings


def _exact(training: Sequence[CheckedRow], evaluation: Sequence[CheckedRow], shared: set[int]) -> tuple[Hits, Hits]:
    known = {row.digest for row in training}
    counts = Counter(map(_prompt_digest, training))
    prompts = {prompt for prompt, count in counts.items() if prompt is not None and count <= _MOST_RECURRING}
    exact, same_prompt = Hits(), Hits()
    for row in evaluation:
        if row.digest in known or row.number in shared:
            exact.add(row.number, row.asked or row.answer)
        elif _prompt_digest(row) in prompts:
            same_prompt.add(row.number, row.asked)
    return exact, same_prompt


def _prompt_digest(row: CheckedRow) -> int | None:
    """Of prompts that are long enough to be somebody's own; short ones such as a greeting may recur."""
    text = folded(row.prompt)
    return text_digest(text) if text.count(" ") >= _LEAST_PROMPT_WORDS - 1 else None


def _near(training: Sequence[CheckedRow], evaluation: Sequence[CheckedRow], told: set[int]) -> Hits:
    index, hits = NearIndex(training), Hits()
    for row in training:
        index.add(row)
    for row in evaluation:
        if row.number not in told and index.nearest(row) is not None:
            hits.add(row.number, row.asked or row.answer)
    return hits
