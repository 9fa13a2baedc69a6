"""A dataset report as one HTML file: nothing is loaded from elsewhere, and every value is escaped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from ..disk import disk_errors
from ..errors import MissingLibraryError
from ..results import DatasetReport, LengthSummary
from .dataset_words import (
    SEVERITIES,
    amounts,
    facts,
    finding_counts,
    finding_rows,
    limit_mark,
    mask_runs,
    mask_title,
    ordered_findings,
    percent,
    percentile_words,
    visible_report,
)
from .length_histogram import histogram_svg
from .pages import check_page, page_template

_SIGN = '<meta name="generator" content="qlora-tools data inspect">'
_LONGEST_PIECE, _MOST_PIECES = 4_000, 300
_MOST_OPEN = 3


def check_dataset_page(path: Path) -> None:
    """Raise `UsageError` unless the page of a dataset may be written to `path`."""
    check_page(path, _SIGN)


def write_dataset_page(path: Path, report: DatasetReport) -> None:
    """Write `report` as a page; raises `MachineError` where the disk refuses."""
    page = dataset_page(report)
    with disk_errors(path, left="the page was not written"):
        path.write_text(page, encoding="utf-8")


def dataset_page(report: DatasetReport) -> str:
    """The page of `report`; without matplotlib the lengths stand in tables alone."""
    shown = visible_report(report)
    return page_template("dataset.html.j2", percent=percent, with_code=with_code).render(
        sign=Markup(_SIGN),  # noqa: S704
        report=shown,
        figures=_figures(shown),
        facts=list(facts(shown)),
        amounts=list(amounts(shown)),
        finding_counts=finding_counts(shown),
        groups=_groups(shown),
        lengths=_lengths(shown.lengths),
        masks=[
            {"title": mask_title(row), "runs": mask_runs(row, longest=_LONGEST_PIECE, most=_MOST_PIECES)}
            for row in shown.masks
        ],
        most_open=_MOST_OPEN,
    )


def _figures(report: DatasetReport) -> list[tuple[str, str]]:
    """Headline numbers, each with what it is."""
    told = [("rows", f"{report.rows:,}"), ("unusable", f"{report.unusable_rows:,}")]
    if report.tokens_per_epoch:
        told.append(("tokens an epoch", _rounded(report.tokens_per_epoch)))
        if report.learnt_tokens_per_epoch is not None:
            told.append(("of them learnt", percent(report.learnt_tokens_per_epoch / report.tokens_per_epoch)))
    if report.lengths is not None:
        told.append(("suggested length", f"{report.lengths.suggested_max_length_tokens:,}"))
    if report.packing is not None:
        told.append(("full when packed", percent(report.packing.fill)))
    return told


def _rounded(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * size or (count >= size and size > 10**3):
            return f"{count / size:,.1f} {letter}"
    return f"{count:,}"


def _groups(report: DatasetReport) -> list[tuple[str, list[dict[str, Any]]]]:
    """The findings by severity, those of a severity that has any."""
    cards = [(item.severity, {"finding": item, "rows": finding_rows(item)}) for item in ordered_findings(report)]
    groups = [(name, [card for severity, card in cards if severity == name]) for name in SEVERITIES]
    return [(name, found) for name, found in groups if found]


def _lengths(lengths: LengthSummary | None) -> Mapping[str, Any] | None:
    if lengths is None:
        return None
    return {
        "summary": lengths,
        "svg": _picture(lengths),
        "narrow_svg": _picture(lengths, narrow=True),
        "percentiles": percentile_words(lengths),
        "limits": [(limit, limit_mark(lengths, limit.max_length_tokens)) for limit in lengths.limits],
    }


def _picture(lengths: LengthSummary, *, narrow: bool = False) -> Markup | None:
    if not lengths.histogram:
        return None
    try:
        return Markup(histogram_svg(lengths, narrow=narrow))  # noqa: S704
    except MissingLibraryError:
        return None


def with_code(text: str) -> Markup:
    """What stands between backticks as code, all of it escaped."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    marked = [Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)]
    return Markup("").join(marked)
