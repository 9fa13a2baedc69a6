"""Rows that repeat: word for word, nearly, or with the same prompt and another answer."""

from array import array
from collections.abc import Iterator, Sequence

from ..data.examples import Example
from ..results import Finding
from .findings import Hits, Severity, finding, rows_said, shown_masked
from .near import NEAR, NearIndex, NearPair
from .rows import CheckedRow, folded, folded_example, text_digest

_TOO_MANY_REPEATED = 0.3
_MANY_CONFLICTS = 0.01
_TEMPLATED = 0.5
_PARTS = 8


class RowDigests:
    """Finds rows that repeat word for word (whitespace and case aside) among millions: 16 bytes a row, no text."""

    def __init__(self) -> None:
        self._digests = array("Q")
        self._numbers = array("Q")

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, number: int, example: Example) -> None:
        """Take in a row with its number in the file. Numbers rise."""
        self._digests.append(text_digest(folded_example(example)))
        self._numbers.append(number)

    def repeats(self) -> list[tuple[int, int]]:
        """Each row that repeats an earlier one, and the first that it repeats, in the order of the file."""
        found: list[tuple[int, int]] = []
        for part in range(_PARTS):
            # A part at a time: an eighth of the rows as Python objects, whatever their number.
            first: dict[int, int] = {}
            for known, number in zip(self._digests, self._numbers, strict=True):
                if known % _PARTS == part and first.setdefault(known, number) != number:
                    found.append((number, first[known]))
        return sorted(found)

    def findings(self) -> list[Finding]:
        """Exact duplicates: a warning, and an error where they are more than 30 % of the rows."""
        repeats = self.repeats()
        if not repeats:
            return []
        too_many = len(repeats) > _TOO_MANY_REPEATED * len(self)
        pairs = _pairs_said(repeats)
        message = f"Rows repeat an earlier row word for word: {rows_said(len(repeats))} ({pairs})"
        step = "Remove all but one of each; what is repeated is learnt by heart. For emphasis, weigh sources instead."
        numbers = [number for number, _ in repeats]
        severity: Severity = "error" if too_many else "warning"
        return [finding("exact_duplicates", severity, message, numbers, len(self), next_step=step)]

    def shared_with(self, other: "RowDigests") -> list[int]:
        """Numbers of the other's rows that stand here too, such as evaluation rows in the training rows."""
        wanted = set(other._digests)
        shared = {digest for digest in self._digests if digest in wanted}
        pairs = zip(other._digests, other._numbers, strict=True)
        return [number for digest, number in pairs if digest in shared]


def _pairs_said(pairs: Sequence[tuple[int, int]]) -> str:
    said = ", ".join(f"{number} as {earlier}" for number, earlier in pairs[:3])
    return said + (", ..." if len(pairs) > 3 else "")


def check_near_duplicates(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Rows of 15 words or more of which 85 % of the three-word sequences stand in an earlier row. Needs rensa.

    Exact repetitions and rows with the same prompt are left to their own checks.
    """
    index = NearIndex(rows)
    seen: set[int] = set()
    pairs: list[NearPair] = []
    for row in rows:
        if row.digest in seen:
            continue
        seen.add(row.digest)
        pair = index.nearest(row)
        if pair is None:
            index.add(row)
        elif not _same_prompt(row, pair.earlier):
            pairs.append(pair)
    return [_near_finding(pairs, rows, index.compared)] if pairs else []


def _same_prompt(row: CheckedRow, other: CheckedRow) -> bool:
    return bool(row.prompt) and folded(row.prompt) == folded(other.prompt)


def _near_finding(pairs: Sequence[NearPair], rows: Sequence[CheckedRow], compared: int) -> Finding:
    said = _pairs_said([(pair.row.number, pair.earlier.number) for pair in pairs])
    count = rows_said(len(pairs))
    if len(pairs) > _TEMPLATED * compared:
        message = f"Most rows are nearly the same as an earlier one, as if made from a few templates: {count} ({said})"
        step = "Vary the wording, or keep fewer rows: training on them teaches the template."
    else:
        message = (
            f"Rows are nearly the same as an earlier row, {NEAR:.0%} of their word sequences or more: {count} ({said})"
        )
        step = "Keep one of each unless the small difference is what should be learnt."
    numbers = [pair.row.number for pair in pairs]
    found = finding("near_duplicates", "warning", message, numbers, len(rows), next_step=step)
    return found.model_copy(update={"example": shown_masked(_text_of(pairs[0].row))})


def _text_of(row: CheckedRow) -> str:
    return f"{row.asked} {row.answer}"


def check_conflicting_answers(rows: Sequence[CheckedRow]) -> list[Finding]:
    """The same prompt with different answers: a warning from 1 % of the rows, else a note."""
    groups = list(_conflicts(rows))
    if not groups:
        return []
    conflicting = sorted((row for group in groups for row in group), key=lambda row: row.number)
    hits = Hits([row.number for row in conflicting], conflicting[0].prompt)
    together = "; ".join(", ".join(str(row.number) for row in group[:3]) for group in groups[:3])
    prompts = f"{len(groups):,} prompt{'s' if len(groups) > 1 else ''}"
    message = f"The same prompt has different answers: {prompts} in {rows_said(len(conflicting))} (rows {together})"
    severity: Severity = "warning" if hits.share(len(rows)) >= _MANY_CONFLICTS else "note"
    step = "Keep the best answer of each unless several are meant: contradicting labels teach to guess."
    return hits.finding("conflicting_answers", severity, message, len(rows), next_step=step)


def _conflicts(rows: Sequence[CheckedRow]) -> Iterator[list[CheckedRow]]:
    """Rows with the same prompt, where their answers differ."""
    prompts: dict[int, list[CheckedRow]] = {}
    for row in rows:
        if row.prompt and row.answer:
            prompts.setdefault(text_digest(" ".join(row.prompt.split())), []).append(row)
    for group in prompts.values():
        if len(group) > 1 and len({folded(row.answer) for row in group}) > 1:
            yield group
