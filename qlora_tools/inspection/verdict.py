"""From findings to one verdict, and refusing a dataset that is not ready."""

import shlex
from collections.abc import Sequence
from typing import Literal

from ..errors import CheckFailed
from ..results import DatasetReport, Finding
from .scan import Scan

Verdict = Literal["ready", "ready with warnings", "not ready"]

_ORDER = {"error": 0, "warning": 1, "note": 2}
_MOST_SHOWN = 10


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """The severest first, of equals those with most rows."""
    return sorted(findings, key=lambda item: (_ORDER[item.severity], -item.count))


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """What follows from the severest finding."""
    severities = {item.severity for item in findings}
    return "not ready" if "error" in severities else "ready with warnings" if "warning" in severities else "ready"


def summary_line(found: Scan, findings: Sequence[Finding], refused: int) -> str:
    """Rows, formats and findings in one line; `refused` rows fit their format and not the chat template."""
    counts = {severity: sum(item.severity == severity for item in findings) for severity in _ORDER}
    formats = " and ".join(dict.fromkeys(mapping.format for mapping in found.mappings))
    parts = [f"{found.usable - refused:,} of {found.rows:,} rows can be used, read as {formats}"]
    parts += [f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count]
    return "; ".join(parts) + "."


def next_step(verdict: Verdict, path: str, model: str | None, *, from_config: bool) -> str:
    """What to do now."""
    if verdict == "not ready":
        return (
            "Mend what is marked as an error and inspect again. (data.check: warn trains on what can be used all the same, "
            "where the person agrees.)"
        )
    plan = f"qlora plan --model {shlex.quote(model) if model else 'MODEL'} --data {shlex.quote(path)} -o run.yaml"
    step = "Train with this config: `qlora train`." if from_config else f"Plan the run: `{plan}`."
    return step if verdict == "ready" else f"Look at the warnings and the masks. {step}"


def require_ready(report: DatasetReport) -> None:
    """Raise `CheckFailed` with the errors that were found, unless the dataset is ready."""
    if report.verdict != "not ready":
        return
    errors = [found for found in report.findings if found.severity == "error"]
    lines = "".join(f"\n  - {_line(found)}" for found in errors[:_MOST_SHOWN])
    raise CheckFailed(
        f"The dataset {report.path} is not ready:{lines}",
        next_step="`qlora data inspect --config` with this config shows the rows, their masks and what to do. Set "
        "data.check: warn to train on what can be used all the same.",
    )


def _line(found: Finding) -> str:
    rows = ", ".join(map(str, found.rows[:5])) + (", ..." if found.count > 5 else "")
    return f"{found.message} (rows {rows})" if found.rows else found.message
