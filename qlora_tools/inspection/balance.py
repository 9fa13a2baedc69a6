"""How evenly rows come from their sources."""

from collections.abc import Mapping

from ..results import Finding
from .findings import finding, shown

_TOO_MUCH, _TOO_LITTLE = 0.9, 0.001
_NAMED = 5


def check_balance(counts: Mapping[str, int]) -> list[Finding]:
    """Sources or categories by rows: warns where one of several has more than 90 %, or any less than 0.1 %."""
    total = sum(counts.values())
    if len(counts) < 2 or not total:
        return []
    largest = max(counts, key=lambda name: counts[name])
    rare = [name for name, count in counts.items() if count < _TOO_LITTLE * total]
    findings = []
    if counts[largest] > _TOO_MUCH * total:
        message = f"One of {len(counts)} sources has {counts[largest] / total:.1%} of the rows: {shown(largest, 60)}"
        findings.append(_counted(message, counts[largest], total))
    if rare:
        named = ", ".join(f"{shown(name, 40)} ({counts[name]:,})" for name in rare[:_NAMED])
        message = f"{len(rare)} of {len(counts)} sources have less than {_TOO_LITTLE:.1%} of the rows each: {named}"
        findings.append(_counted(message, sum(counts[name] for name in rare), total))
    return findings


def _counted(message: str, count: int, total: int) -> Finding:
    step = "Name the sources apart with weights in the config, or add rows of what is rare."
    found = finding("balance", "warning", message, [], total, next_step=step)
    return found.model_copy(update={"count": count, "share": count / total})
