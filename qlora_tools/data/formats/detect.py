"""Row formats, and their one normal form: a conversation, or plain text.

Formats are recognised by what columns hold as well as by their names. Pure Python over one row at a time, so that it
serves reading, checking and the light install alike.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from ...errors import DataError
from ...results import MappingProposal, RowMapping
from ..examples import Example
from .columns import Table
from .finding import (
    FINDERS,
    Found,
    Search,
    find_alpaca,
    find_chat,
    find_named_chat,
    find_nested_chat,
    find_preference,
    find_prompt_completion,
    find_question_answer,
    find_text,
    find_transcript,
)
from .mapping_choices import of_choices, of_comparisons
from .mapping_tasks import of_other_tasks
from .names import SLOTS
from .proposals import of_columns
from .readers import READERS
from .values import Row, shown

FORMATS = tuple(SLOTS)

_MOST_COLUMNS_SHOWN = 20
_LONGEST_NAME = 40
_SENTENCE = re.compile(r"\s.*[.?!](\s|$)|[。？！]")
_BY_STRUCTURE = (
    "preference",
    "messages",
    "sharegpt",
    "prompt_completion",
    "alpaca",
    "question_answer",
    "transcript",
    "text",
)
# What rows must not be taken for, and then what they may be.
_STEPS: tuple[tuple[Callable[[Table], MappingProposal | None], tuple[Callable[[Search], Found | None], ...]], ...] = (
    (of_comparisons, (find_preference, find_named_chat, find_prompt_completion, find_chat)),
    (of_choices, (find_alpaca, find_question_answer, find_nested_chat)),
    (of_other_tasks, (find_transcript, find_text)),
)


class UnknownFormatError(DataError):
    """No known format fits the rows. `proposal` says how they could be read, where that can be guessed."""

    def __init__(self, message: str, *, next_step: str, proposal: MappingProposal | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.proposal = proposal


def detect_mapping(
    rows: Sequence[Row], *, row_format: str = "auto", columns: Mapping[str, str] | None = None
) -> RowMapping:
    """Recognise the format of sample rows (200 are plenty) and the columns it is read from.

    `row_format` other than "auto" settles the format, `columns` (our name -> the file's column, dotted where nested)
    the columns. Raises `UnknownFormatError` when no format fits, `DataError` when the format or the columns asked for
    do not.
    """
    table, given = Table(rows), dict(columns or {})
    if row_format == "auto" and not given:
        found = _recognised(table)
        return RowMapping(
            format=found.format, columns=found.columns, found_by=found.by, unused_columns=_unused(table, found)
        )
    _check_given(table, row_format, given)
    found = _asked_for(table, row_format, given)
    return RowMapping(
        format=found.format, columns=found.columns, found_by="config", unused_columns=_unused(table, found)
    )


def to_example(row: Row, mapping: RowMapping) -> Example:
    """Bring one row to its normal form; raises `RowError` saying what is wrong with it."""
    return READERS[mapping.format](row, mapping.columns)


def _recognised(table: Table) -> Found:
    """The format with the most structure that fits; rows of other tasks are refused where they would lose their point."""
    search = Search(table, {})
    for refuse, finders in _STEPS:
        proposal = refuse(table)
        if proposal is not None:
            raise _unknown(table, proposal)
        for find in finders:
            if found := find(search):
                if found.by == "content" and _looks_like_data(table):
                    raise _without_header(table)
                return found
    raise _unknown(table, of_columns(table))


def _looks_like_data(table: Table) -> bool:
    """Whether a name of a column is rather a cell, as it is in a CSV file without a header, whose cells are all text."""
    cells = any(len(name) > _LONGEST_NAME or _SENTENCE.search(name.strip()) for name in table.columns)
    return cells and all(column.is_text for column in table.columns.values() if column.values)


def _without_header(table: Table) -> UnknownFormatError:
    listed = "; ".join(shown(name) for name in list(table.columns)[:_MOST_COLUMNS_SHOWN])
    return UnknownFormatError(
        f"The first line looks like data, not like column names: {listed}.",
        next_step="Add a line with the names of the columns above it, separated as the rows are, e.g. question,answer "
        "(on Linux: sed -i '1i question,answer' FILE); the first row would be lost as names otherwise.",
    )


def _unknown(table: Table, proposal: MappingProposal | None) -> UnknownFormatError:
    if _looks_like_data(table):
        return _without_header(table)
    listed = "; ".join(_described(table)) or "(none)"
    return UnknownFormatError(
        f"No known format fits the columns: {listed}.", next_step=_next_step(proposal), proposal=proposal
    )


def _described(table: Table) -> Iterator[str]:
    for name, column in list(table.columns.items())[:_MOST_COLUMNS_SHOWN]:
        sample = f", e.g. {shown(column.values[0])}" if column.values else ""
        yield f"{shown(name)} ({column.kind}{sample})"
    if len(table.columns) > _MOST_COLUMNS_SHOWN:
        yield f"and {len(table.columns) - _MOST_COLUMNS_SHOWN} more"


def _next_step(proposal: MappingProposal | None) -> str:
    if proposal is None:
        return f"Set data.format and data.columns, or rename the columns. Formats and what they need: {_all_needs()}."
    if proposal.columns:
        listed = ", ".join(f"{name}: {shown(path)}" for name, path in proposal.columns.items())
        return (
            f"{proposal.reason} If that is meant, set data.format: {proposal.format} and data.columns: {{{listed}}}; "
            "`qlora data inspect` also shows code that converts the file."
        )
    return f"{proposal.reason} `qlora data inspect` shows code that converts the file to {proposal.format}."


def _all_needs() -> str:
    return "; ".join(f"{row_format} ({_needs(row_format)})" for row_format in SLOTS)


def _needs(row_format: str) -> str:
    return ", ".join(slot.name for slot in SLOTS[row_format] if slot.required)


def _check_given(table: Table, row_format: str, given: Mapping[str, str]) -> None:
    formats = FORMATS if row_format == "auto" else (row_format,)
    allowed = list(dict.fromkeys(slot.name for known in formats for slot in SLOTS[known]))
    for name, path in given.items():
        if name not in allowed:
            of_format = "" if row_format == "auto" else f" of the format {row_format}"
            raise DataError(
                f"data.columns has {shown(name)}, which is no name{of_format}; allowed are {', '.join(allowed)}.",
                next_step="data.columns maps our names to columns of the file, e.g. {question: ask, answer: reply}.",
            )
        if not table.holds(path):
            raise DataError(
                f"data.columns reads {name} from {shown(path)}, which no row has; columns: {_listed(table)}.",
                next_step="Name a column of the file, or a dotted path into one, such as answers.text.0.",
            )


def _asked_for(table: Table, row_format: str, given: Mapping[str, str]) -> Found:
    for strict in (True, False):
        for known in _BY_STRUCTURE if row_format == "auto" else (row_format,):
            if given.keys() <= {slot.name for slot in SLOTS[known]}:
                find = find_chat if row_format == "auto" and known in ("messages", "sharegpt") else FINDERS[known]
                found = find(Search(table, given, strict))
                if found is not None and given.items() <= found.columns.items():
                    return found
    wanted = f"the format {row_format} needs {_needs(row_format)}" if row_format != "auto" else "no format is complete"
    raise DataError(
        f"With data.columns {dict(given)!r}, {wanted}; columns: {_listed(table)}."
        if given
        else f"The format {row_format} needs {_needs(row_format)}; columns: {_listed(table)}.",
        next_step="Name the missing columns in data.columns, or another data.format. What formats need: "
        f"{_all_needs()}.",
    )


def _listed(table: Table) -> str:
    return ", ".join(shown(name) for name in list(table.columns)[:_MOST_COLUMNS_SHOWN]) or "(none)"


def _unused(table: Table, found: Found) -> list[str]:
    used = {path if path in table.columns else path.split(".")[0] for path in found.columns.values()}
    return sorted(table.columns.keys() - used)
