"""What the views of a dataset report share: its text made safe, the runs of a mask, and the words for counts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..results import DatasetReport, Finding, LengthSummary, MaskedRow, MaskPiece
from ..untrusted import visible_text

SEVERITIES = ("error", "warning", "note")
LONGEST_TEXT = 1_000
_MOST_NAMED = 12
_FOUND_BY = {
    "names": "recognised by its columns",
    "content": "recognised by its content",
    "config": "as the config says",
}
_WHAT_IS_LEARNT = {
    "completions": "the last answer of each row",
    "assistant": "every turn of the assistant",
    "all": "everything, the prompts too",
}


@dataclass(frozen=True)
class Run:
    """Neighbouring text of a masked row that is shown alike. A `gap` stands for text that was left out."""

    text: str
    learnt: bool
    special: bool = False
    gap: bool = False


def visible_report(report: DatasetReport, *, longest: int | None = LONGEST_TEXT) -> DatasetReport:
    """`report` with every text of it safe to show, and cut at `longest` characters but for masks and code."""
    whole = report.model_dump()
    shown = _visible(whole, longest)
    shown["masks"] = _visible(whole["masks"], None)
    if report.proposal is not None:
        shown["proposal"]["code"] = visible_text(report.proposal.code)
    return DatasetReport.model_validate(shown)


def _visible(value: Any, longest: int | None) -> Any:
    if isinstance(value, str):
        return _shortened(visible_text(value), longest)
    if isinstance(value, dict):
        return _visible_mapping(value, longest)
    if isinstance(value, list | tuple):
        return [_visible(item, longest) for item in value]
    return value


def _visible_mapping(value: Mapping[str, Any], longest: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = _visible(key, longest)
        while name in found:  # Two names that differ in what cannot be seen stay two.
            name += "′"
        found[name] = _visible(item, longest)
    return found


def _shortened(text: str, longest: int | None) -> str:
    return text if longest is None or len(text) <= longest else f"{text[:longest]}…"


def mask_runs(row: MaskedRow, *, longest: int, most: int) -> list[Run]:
    """The row's pieces in order, newlines shown as ↵; of more than `most` pieces the middle is left out.

    Of a piece over `longest` characters the middle is left out too: masks go wrong at the edges.
    """
    if len(row.pieces) <= most:
        return [run for piece in row.pieces for run in _runs(piece, longest)]
    first, last = row.pieces[: most * 2 // 3], row.pieces[-(most // 3) :]
    left_out = row.pieces[len(first) : len(row.pieces) - len(last)]
    gap = Run(f" [… {len(left_out):,} pieces left out …] ", learnt=False, gap=True)
    head, tail = ([run for piece in pieces for run in _runs(piece, longest)] for pieces in (first, last))
    return [*head, gap, *tail]


def _runs(piece: MaskPiece, longest: int) -> Iterator[Run]:
    if len(piece.text) <= longest:
        yield Run(_with_marked_newlines(piece.text), piece.learnt, piece.special)
        return
    head, tail = piece.text[: longest // 2], piece.text[-(longest // 2) :]
    left_out = len(piece.text) - len(head) - len(tail)
    yield Run(_with_marked_newlines(head), piece.learnt, piece.special)
    yield Run(f" [… {left_out:,} characters left out …] ", piece.learnt, gap=True)
    yield Run(_with_marked_newlines(tail), piece.learnt, piece.special)


def _with_marked_newlines(text: str) -> str:
    return text.replace("\n", "↵\n")


def mask_title(row: MaskedRow) -> str:
    """`Row 17: 412 tokens, 103 learnt (25.0%), cut at its end`."""
    share = f" ({row.learnt_tokens / row.tokens:.1%})" if row.tokens else ""
    cut = ", cut at its end" if row.cut else ""
    return f"Row {row.row}: {row.tokens:,} tokens, {row.learnt_tokens:,} learnt{share}{cut}"


def ordered_findings(report: DatasetReport) -> list[Finding]:
    """The severest first, and of one severity those of the most rows."""
    return sorted(report.findings, key=lambda item: (SEVERITIES.index(item.severity), -item.count))


def finding_counts(report: DatasetReport) -> str:
    """`2 errors, 1 warning`, or `nothing found`."""
    counts = [(name, sum(item.severity == name for item in report.findings)) for name in SEVERITIES]
    return ", ".join(_plural(count, name) for name, count in counts if count) or "nothing found"


def finding_rows(finding: Finding) -> str:
    """How many rows, their share, and the numbers of the first: `120 rows (1.2%): 3, 17, 44, …`."""
    if not finding.count:
        return ""
    share = "" if finding.share is None else f" ({percent(finding.share)})"
    numbers = ", ".join(map(str, finding.rows))
    more = ", …" if finding.count > len(finding.rows) else ""
    return f"{_plural(finding.count, 'row')}{share}" + (f": {numbers}{more}" if numbers else "")


def percent(share: float) -> str:
    """A share with one decimal; a small one that is not none is `<0.1%`."""
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def facts(report: DatasetReport) -> Iterator[tuple[str, str]]:
    """What was looked at and how it is read, as names and values."""
    unusable = f", {report.unusable_rows:,} of them unusable" if report.unusable_rows else ""
    yield "rows", f"{report.rows:,} read{unusable}; {report.rows_checked:,} checked closely in {report.seconds:.1f} s"
    yield "model", report.model or "none named"
    if report.mapping is not None:
        yield "format", f"{report.mapping.format}, {_FOUND_BY[report.mapping.found_by]}"
        yield "columns", ", ".join(f"{ours} ← {theirs}" for ours, theirs in report.mapping.columns.items())
        if report.mapping.unused_columns:
            yield "unused columns", ", ".join(report.mapping.unused_columns)
    if report.mapping is not None and report.mapping.format == "text":
        yield "learnt", "all of each row, since it is plain text"
    else:
        yield "learnt", f"{_WHAT_IS_LEARNT.get(report.loss_on, report.loss_on)} (data.loss_on: {report.loss_on})"
    if report.prompt_form is not None:
        yield "text of a row", report.prompt_form
    if report.stop_tokens:
        yield "an answer ends with", ", ".join(report.stop_tokens)


def amounts(report: DatasetReport) -> Iterator[tuple[str, str]]:
    """Tokens of an epoch and packing, as names and values."""
    if report.tokens_per_epoch is not None:
        yield "tokens an epoch", f"{report.tokens_per_epoch:,}{_learnt_part(report)}"
    if report.packing is not None:
        pack = report.packing
        yield (
            "packed",
            f"{_plural(pack.bins, 'bin')} of {pack.bin_tokens:,} tokens, {pack.rows_per_bin:,.1f} rows each, "
            f"{percent(pack.fill)} full",
        )
        yield "not packed", f"padded micro-batches are {percent(pack.padded_fill)} full"
    if report.languages:
        yield "languages", _named([(name, percent(share)) for name, share in _largest(report.languages)])
    if report.sources:
        total = sum(report.sources.values()) or 1
        told = [(name, f"{rows:,} ({percent(rows / total)})") for name, rows in _largest(report.sources)]
        yield "sources", _named(told)


def _learnt_part(report: DatasetReport) -> str:
    if report.learnt_tokens_per_epoch is None:
        return ""
    share = report.learnt_tokens_per_epoch / max(1, report.tokens_per_epoch or 0)
    return f", of which {report.learnt_tokens_per_epoch:,} are learnt ({percent(share)})"


def _largest(amounts_by_name: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(amounts_by_name.items(), key=lambda item: -item[1])


def _named(values: list[tuple[str, str]]) -> str:
    shown = [f"{_shortened(name, 60)} {value}" for name, value in values[:_MOST_NAMED]]
    more = len(values) - _MOST_NAMED
    return ", ".join([*shown, *([f"and {more:,} more"] if more > 0 else [])])


def percentile_words(lengths: LengthSummary) -> list[tuple[str, str]]:
    """Percentiles, mean and longest row, as names and token counts."""
    told = [(name, f"{tokens:,}") for name, tokens in lengths.percentiles.items()]
    return [*told, ("mean", f"{lengths.mean:,.0f}"), ("longest", f"{lengths.longest:,}")]


def limit_mark(lengths: LengthSummary, limit: int) -> str:
    """Whether `limit` is the one that was counted with, the one that is suggested, or both."""
    marks = {"counted": lengths.max_length_tokens, "suggested": lengths.suggested_max_length_tokens}
    return ", ".join(name for name, value in marks.items() if value == limit)


def _plural(count: int, name: str) -> str:
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"
