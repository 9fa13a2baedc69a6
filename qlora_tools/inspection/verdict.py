"""Refusing a dataset that is not ready."""

from ..errors import CheckFailed
from ..results import DatasetReport, Finding

_MOST_SHOWN = 10


def require_ready(report: DatasetReport) -> None:
    """Raise `CheckFailed` with the errors that were found, unless the dataset is ready."""
    if report.verdict != "not ready":
        return
    errors = [found for found in report.findings if found.severity == "error"]
    lines = "".join(f"\n  - {_line(found)}" for found in errors[:_MOST_SHOWN])
    raise CheckFailed(
        f"The dataset {report.path} is not ready:{lines}",
        next_step="`qlora data inspect` shows the rows, their masks and what to do. Set data.check: warn to train on what "
        "can be used all the same.",
    )


def _line(found: Finding) -> str:
    rows = f" (rows {', '.join(map(str, found.rows[:5]))}{', ...' if found.count > 5 else ''})" if found.rows else ""
    count = f"{found.count:,}: " if found.count else ""
    return f"{count}{found.message}{rows}"
