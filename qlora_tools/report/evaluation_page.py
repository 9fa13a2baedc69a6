"""An evaluation as one HTML file: nothing is loaded from elsewhere, and every value is escaped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..disk import disk_errors
from ..errors import MissingLibraryError
from ..hiding import hidden_secrets
from ..results import Comparison, EvaluationResult, MetricResult, ScoreInterval
from ..untrusted import visible_text
from .dataset_page import with_code
from .evaluation_plots import differences_svg, loss_change_svg
from .pages import page_template

_SIGN = '<meta name="generator" content="qlora-tools evaluate">'
_TONES = {"ship": "good", "do not ship": "bad", "cannot tell": "warn"}
_SYMBOLS = {"good": "✓", "bad": "✗", "warn": "?"}
_REASONS = {"for": "good", "against": "bad", "unsure": "warn", "note": "note"}
_LAYERS = 20


def write_evaluation_page(path: Path, result: EvaluationResult) -> None:
    """Write the page of `result`; raises `MachineError` where the disk refuses."""
    page = evaluation_page(result)
    with disk_errors(path, left="the page was not written"):
        path.write_text(page, encoding="utf-8")


def evaluation_page(result: EvaluationResult) -> str:
    """The page of `result`; without matplotlib the figures stand in tables alone."""
    tone = _TONES[result.verdict.decision]
    return page_template(
        "evaluation.html.j2", with_code=with_code, visible=_visible, percent=_percent
    ).render(
        sign=Markup(_SIGN),  # noqa: S704
        result=result,
        tone=tone,
        symbol=_SYMBOLS[tone],
        tones=_REASONS,
        figures=list(_figures(result)),
        measures=[_measure(found) for found in (result.loss.loss, *result.metrics)],
        change=_pictures(loss_change_svg, result.row_losses),
        differences=_pictures(differences_svg, [found.comparison for found in result.metrics]),
        rows=list(_rows(result)),
        layers=result.adapter_effect.layers[:_LAYERS] if result.adapter_effect else [],
    )


def _visible(text: str) -> str:
    return hidden_secrets(visible_text(text))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _figures(result: EvaluationResult) -> Iterator[tuple[str, str]]:
    """Headline numbers, each with what it is."""
    if result.metrics:
        first = result.metrics[0].decisive
        yield f"{first.name}, base → adapter", f"{_value(first, first.base)} → {_value(first, first.adapter)}"
    loss = result.loss
    yield "loss, base → adapter", f"{loss.loss.comparison.base.value:.3f} → {loss.loss.comparison.adapter.value:.3f}"
    yield "perplexity", f"{loss.base_perplexity.value:.3g} → {loss.adapter_perplexity.value:.3g}"
    yield "rows", f"{result.rows.used:,}"
    yield "in the training data", f"{result.leakage.leaked:,}"
    if result.stopping is not None:
        yield "answers that never stop", f"{result.stopping.base:,} → {result.stopping.adapter:,}"


def _value(found: Comparison, side: ScoreInterval) -> str:
    return f"{100 * side.value:.1f} %" if found.is_share else f"{side.value:.3f}"


def _interval(found: Comparison, side: ScoreInterval, *, signed: bool = False) -> str:
    scale, digits = (100, 1) if found.is_share else (1, 3)
    sign = "+" if signed else ""
    return f"{scale * side.low:{sign}.{digits}f} to {scale * side.high:{sign}.{digits}f}"


def _measure(metric: MetricResult) -> dict[str, Any]:
    """One measure as the cells of a table."""
    found, clean = metric.comparison, metric.without_leaked
    scale, digits = (100, 1) if found.is_share else (1, 3)
    verdict = "" if found.p_value >= 0.05 else "better" if found.gain > 0 else "worse"
    return {
        "name": found.name,
        "base": _value(found, found.base),
        "base_interval": _interval(found, found.base),
        "adapter": _value(found, found.adapter),
        "adapter_interval": _interval(found, found.adapter),
        "difference": f"{scale * found.difference.value:+.{digits}f}",
        "difference_interval": _interval(found, found.difference, signed=True),
        "p": "< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}",
        "floor": "" if found.noise_floor is None else f"{scale * found.noise_floor:.{digits}f}",
        "counts": f"{found.better:,} / {found.worse:,} / {found.same:,}",
        "verdict": verdict or "no difference shown",
        "tone": {"better": "good", "worse": "bad"}.get(verdict, "note"),
        "clean": None if clean is None else f"{_value(clean, clean.base)} → {_value(clean, clean.adapter)}",
        "clean_rows": None if clean is None else f"{clean.rows:,}",
        "test": found.test,
    }


def _pictures(draw: Any, values: Any) -> list[tuple[str, Markup]]:
    """A picture for a broad and a narrow page, where there is something to draw and something to draw with."""
    if not values:
        return []
    try:
        # Drawn by us from numbers: the one markup that is put in as it is.
        return [("broad", Markup(draw(values))), ("narrow", Markup(draw(values, narrow=True)))]  # noqa: S704
    except MissingLibraryError:
        return []


def _rows(result: EvaluationResult) -> Iterator[tuple[str, str]]:
    rows = result.rows
    yield "rows from", rows.source
    yield "read", f"{rows.read:,}"
    yield "measured", f"{rows.used:,}, {result.loss.tokens:,} answer tokens"
    for name, count in (
        ("not chosen, since there are more than --max-rows", rows.left_out),
        ("unusable", rows.unusable),
        ("without an answer to learn", rows.nothing_to_learn),
        ("longer than the training's limit, measured up to it", rows.cut),
        ("longer than the training's limit, left out", rows.dropped_long),
    ):
        if count:
            yield name, f"{count:,}"
    yield "with an answer in text", f"{rows.with_reference:,}"
    yield "measures", result.metrics_reason
