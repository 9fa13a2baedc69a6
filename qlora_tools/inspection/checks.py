"""Running the content checks, with progress, and saying which could not be made."""

from collections import Counter
from collections.abc import Mapping, Sequence

from ..events import Listener, RunEvent
from ..results import Finding
from . import identify, near
from .balance import check_balance
from .content import CONTENT_CHECKS
from .overlap import OverlapPair, check_overlap
from .redact import missing_libraries
from .rows import CheckedRow


def run_content_checks(
    rows: Sequence[CheckedRow], sources: Mapping[str, int], overlap: OverlapPair | None, on_event: Listener
) -> tuple[list[Finding], list[str]]:
    """What the checks of texts found, and those that were left out, with what they need."""
    findings, left_out = check_balance(sources), []
    total = len(CONTENT_CHECKS)
    on_event(RunEvent("phase", f"Checking the texts of {len(rows):,} rows"))
    for done, check in enumerate(CONTENT_CHECKS):
        on_event(RunEvent("progress", check.name, {"done": done, "total": total}))
        if missing := missing_libraries(check.requires):
            left_out.append(_needs(check.name, missing))
        else:
            findings += check.run(rows)
    on_event(RunEvent("progress", "texts", {"done": total, "total": total}))
    if overlap is not None:
        findings += check_overlap(overlap)
        if missing := missing_libraries(near.REQUIRED_LIBRARIES):
            left_out.append(_needs("evaluation rows that are nearly the same as training rows", missing))
    return findings, left_out


def _needs(name: str, missing: Sequence[str]) -> str:
    return f"{name}: {', '.join(missing)} is not installed (pip install 'qlora-tools[train]')"


def language_shares(rows: Sequence[CheckedRow]) -> dict[str, float]:
    """Languages by their share of the rows that have enough prose to tell; empty where nothing can tell."""
    if missing_libraries(identify.REQUIRED_LIBRARIES):
        return {}
    known = Counter(row.language for row in rows if row.language is not None)
    total = sum(known.values())
    return {language: count / total for language, count in known.most_common()}
