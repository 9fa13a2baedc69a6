"""The results of an evaluation as a card shows them, read as a document: other versions may have told more or less."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..untrusted import visible_text
from .source import read_document

EVALUATION_RESULT = "results.json"
_MOST_MEASURES = 12


class Measure(BaseModel):
    """Base and adapter on the same rows; each with the ends of its 95 % interval."""

    model_config = ConfigDict(frozen=True)

    name: str
    rows: int
    base: tuple[float, float, float]
    adapter: tuple[float, float, float]
    difference: tuple[float, float, float]


def read_measures(run: Path) -> dict[str, Any]:
    """Verdict, summary and measures of the newest evaluation below `run`, for a `RunRecord`; empty where there is none."""
    found = [path for path in run.glob(f"evaluation*/{EVALUATION_RESULT}") if path.is_file()]
    if not found:
        return {}
    told = read_document(max(found, key=lambda path: path.stat().st_mtime))
    verdict = told.get("verdict")
    decided = verdict if isinstance(verdict, dict) else {}
    return {
        "verdict": _text(decided.get("decision")),
        "verdict_summary": _text(decided.get("summary")),
        "measures": list(_measures(told))[:_MOST_MEASURES],
    }


def _measures(told: Mapping[str, Any]) -> Iterator[Measure]:
    loss = told.get("loss")
    parts = [loss.get("loss") if isinstance(loss, dict) else None, *_list(told.get("metrics"))]
    for part in parts:
        comparison = part and isinstance(part, dict) and (part.get("without_leaked") or part.get("comparison"))
        measure = _measure(comparison) if isinstance(comparison, dict) else None
        if measure is not None:
            yield measure


def _measure(told: Mapping[str, Any]) -> Measure | None:
    try:
        base, adapter, difference = (_interval(told[name]) for name in ("base", "adapter", "difference"))
        name = _text(told["name"]) or "unnamed"
        return Measure(name=name, rows=int(told["rows"]), base=base, adapter=adapter, difference=difference)
    except (KeyError, TypeError, ValueError):
        return None


def _interval(told: Mapping[str, Any]) -> tuple[float, float, float]:
    value, low, high = (float(told[name]) for name in ("value", "low", "high"))
    if not all(math.isfinite(number) for number in (value, low, high)):
        raise ValueError("no number")
    return value, low, high


def _text(value: Any) -> str | None:
    return " ".join(visible_text(value).split())[:400] if isinstance(value, str) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
