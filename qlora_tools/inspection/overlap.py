"""Evaluation rows that stand in the training rows: what they measure is memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..results import Finding
from .findings import Hits, Severity, rows_said
from .near import REQUIRED_LIBRARIES, NearIndex
from .redact import missing_libraries
from .rows import CheckedRow, folded, text_digest

_TOO_MUCH = 0.01
_LEAST_PROMPT_WORDS = 8
_MOST_RECURRING = 3  # a prompt in more training rows than this is an instruction that they share
_PAIRS_SAID = 3
_STEP = "Remove these rows from the training set (or from the evaluation set, where that is yours to change)."


class OverlapPair(NamedTuple):
    """Training and evaluation rows to compare. `shared` numbers evaluation rows that are known to stand in training rows
    word for word, where the training rows here are a sample of all.
    """

    training: Sequence[CheckedRow]
    evaluation: Sequence[CheckedRow]
    shared: Sequence[int] = ()


@dataclass
class _Shared:
    """Evaluation rows that stand in training, and as which of its rows, where that is known."""

    hits: Hits = field(default_factory=Hits)
    pairs: list[tuple[int, int]] = field(default_factory=list)

    def add(self, row: CheckedRow, training: int | None) -> None:
        self.hits.add(row.number, row.asked or row.answer)
        if training is not None:
            self.pairs.append((row.number, training))

    def said(self) -> str:
        """`2 rows (evaluation row 3 as training row 172, ...)`."""
        count = rows_said(len(self.hits.rows))
        pairs = [f"evaluation row {row} as training row {training}" for row, training in self.pairs[:_PAIRS_SAID]]
        if not pairs:
            return count
        return f"{count} ({', '.join([*pairs, '...'] if len(self.hits.rows) > len(pairs) else pairs)})"


@dataclass(frozen=True)
class Overlap:
    """Evaluation rows that stand in training: word for word, by their prompt alone, or nearly."""

    exact: _Shared
    same_prompt: _Shared
    near: _Shared


def find_overlap(pair: OverlapPair) -> Overlap:
    """The evaluation rows found in training, each once. Near ones are looked for only where rensa is installed."""
    training, evaluation = pair.training, pair.evaluation
    exact, same_prompt = _exact(training, evaluation, set(pair.shared))
    told = {*exact.hits.rows, *same_prompt.hits.rows}
    near = _Shared() if missing_libraries(REQUIRED_LIBRARIES) else _near(training, evaluation, told)
    return Overlap(exact, same_prompt, near)


def check_overlap(pair: OverlapPair) -> list[Finding]:
    """Evaluation rows found in training: word for word, by their prompt, or nearly. An error from 1 % of them."""
    overlap, looked_at = find_overlap(pair), len(pair.evaluation)
    exact, same_prompt = overlap.exact, overlap.same_prompt
    said = (
        ("overlap", exact, "Evaluation rows stand in the training rows word for word"),
        ("overlap_prompts", same_prompt, "Evaluation rows ask what a training row asks, word for word"),
        ("near_overlap", overlap.near, "Evaluation rows are nearly the same as training rows"),
    )
    findings: list[Finding] = []
    for check, found, message in said:
        too_much = found.hits.share(looked_at) >= _TOO_MUCH and found is not same_prompt
        severity: Severity = "error" if too_much else "warning"
        findings += found.hits.finding(check, severity, f"{message}: {found.said()}", looked_at, next_step=_STEP)
    return findings


def _exact(
    training: Sequence[CheckedRow], evaluation: Sequence[CheckedRow], shared: set[int]
) -> tuple[_Shared, _Shared]:
    known = {row.digest: row.number for row in reversed(training)}
    prompts = _own_prompts(training)
    exact, same_prompt = _Shared(), _Shared()
    for row in evaluation:
        if row.digest in known or row.number in shared:
            exact.add(row, known.get(row.digest))
        elif (prompt := _prompt_digest(row)) in prompts:
            same_prompt.add(row, prompts[prompt])
    return exact, same_prompt


def _own_prompts(training: Sequence[CheckedRow]) -> Mapping[int | None, int]:
    """Prompts that are no instruction of many rows, with the first row of each."""
    digests = [(_prompt_digest(row), row.number) for row in training]
    counts = Counter(digest for digest, _ in digests)
    return {
        digest: number
        for digest, number in reversed(digests)
        if digest is not None and counts[digest] <= _MOST_RECURRING
    }


def _prompt_digest(row: CheckedRow) -> int | None:
    """Of prompts that are long enough to be somebody's own; short ones such as a greeting may recur."""
    text = folded(row.prompt)
    return text_digest(text) if text.count(" ") >= _LEAST_PROMPT_WORDS - 1 else None


def _near(training: Sequence[CheckedRow], evaluation: Sequence[CheckedRow], told: set[int]) -> _Shared:
    index, found = NearIndex(training), _Shared()
    for row in training:
        index.add(row)
    for row in evaluation:
        if row.number not in told and (pair := index.nearest(row)) is not None:
            found.add(row, pair.earlier.number)
    return found
