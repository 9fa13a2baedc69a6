"""How a check says what it found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..results import Finding
from ..untrusted import visible_text
from .redact import masked_text

Severity = Literal["error", "warning", "note"]
_ROWS_NAMED = 10
_EXAMPLE_CHARACTERS = 160
_READ_CHARACTERS = 2000  # of a text that is shown; it is cut far shorter, but may begin with spaces


def finding(
    check: str,
    severity: Severity,
    message: str,
    rows: Sequence[int],
    looked_at: int,
    *,
    next_step: str | None = None,
) -> Finding:
    """A finding in `rows` of the `looked_at` rows that a check saw."""
    return Finding(
        check=check,
        severity=severity,
        message=message,
        count=len(rows),
        share=len(rows) / looked_at if looked_at and rows else None,
        rows=list(rows[:_ROWS_NAMED]),
        next_step=next_step,
    )


@dataclass
class Hits:
    """Rows in which a check found the same thing, and the place in the first of them as an example."""

    rows: list[int] = field(default_factory=list)
    example: str | None = None

    def add(self, number: int, example: str) -> None:
        """Count a row, once however often it is added in a row."""
        if not self.rows or self.rows[-1] != number:
            self.rows.append(number)
        if self.example is None:
            self.example = example

    def share(self, looked_at: int) -> float:
        """The share of the rows that were looked at."""
        return len(self.rows) / looked_at if looked_at else 0.0

    def finding(
        self, check: str, severity: Severity, message: str, looked_at: int, *, next_step: str | None = None
    ) -> list[Finding]:
        """One finding with a safe, masked example; none where no row was hit."""
        if not self.rows:
            return []
        found = finding(check, severity, message, self.rows, looked_at, next_step=next_step)
        return [found.model_copy(update={"example": None if self.example is None else shown_masked(self.example)})]


def shown(text: str, most: int = _EXAMPLE_CHARACTERS) -> str:
    """Text of unknown origin on one line of at most `most` characters, without anything that steers a terminal."""
    line = " ".join(visible_text(text[: most + _READ_CHARACTERS]).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def shown_masked(text: str) -> str:
    """As `shown`, with private parts masked before the text is cut, so that no part of one is left."""
    return shown(masked_text(" ".join(text[:_READ_CHARACTERS].split())))


def rows_said(count: int) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} row" if count == 1 else f"{count:,} rows"
