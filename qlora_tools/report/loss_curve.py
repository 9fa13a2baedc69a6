"""The course of a run as a picture: losses above, learning rate below; a PNG file, or an SVG in the page's colours."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

from ..untrusted import visible_text
from .memory_plots import draw_title
from .pictures import new_figure, save_png

# Colours of the light page by the names that templates/job.html.j2 gives them; the SVG refers to the names.
CURVE_COLOURS = {
    "ink": "#1d2430",
    "soft": "#56606e",
    "training": "#1a5fa8",
    "each-step": "#a3c4e6",
    "evaluation": "#b4530a",
}
_INK, _SOFT, _TRAINING, _EACH_STEP, _EVALUATION = CURVE_COLOURS.values()
_SIZE, _PHONE_SIZE = (8, 4.8), (4.4, 4.2)
# Bins along the axis: more than pixels would show nothing more.
_BINS = 600
_MOST_DOTS = 60
_SMOOTHED_SHARE = 0.02
_LEAST_SMOOTHED = 20
# A run that diverged would flatten all that came before: how far above its first losses the picture goes.
_BEGINNING, _MOST_RISE, _SHOWN_RISE = 5, 5, 3
Points = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Curve:
    """What is drawn, by step. None among the losses is a gap. `resumed` and `recovered` are the steps before them."""

    losses: Mapping[int, float | None]
    evaluation_losses: Mapping[int, float] = field(default_factory=dict)
    learning_rates: Mapping[int, float | None] = field(default_factory=dict)
    resumed: Sequence[int] = ()
    recovered: Sequence[int] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.evaluation_losses and all(loss is None for loss in self.losses.values())


def write_loss_curve(path: Path, curve: Curve, *, title: str, below: str) -> bool:
    """Write `curve` as a PNG of 1,200 pixels; false, and nothing written, where there is no loss yet.

    Raises `MissingLibraryError` without matplotlib, and `MachineError` where the disk refuses.
    """
    if curve.is_empty:
        return False
    figure = new_figure(*_SIZE)
    axes = _draw(figure, curve)
    draw_title(axes, visible_text(title), visible_text(below))
    save_png(figure, path)
    return True


def course_svg(curve: Curve, *, narrow: bool = False) -> str:
    """An `<svg>` element whose colours are the CSS variables of the page, `narrow` for a phone.

    Raises `MissingLibraryError` without matplotlib.
    """
    figure = new_figure(*(_PHONE_SIZE if narrow else _SIZE))
    from matplotlib import rc_context

    _draw(figure, curve)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"course {narrow}"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    for name, colour in CURVE_COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text[text.index("<svg") :]


def _draw(figure: Any, curve: Curve) -> Any:
    """Both panels; returns the upper one."""
    rates = {step: rate for step, rate in curve.learning_rates.items() if rate is not None}
    if rates:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
        _draw_rates(lower, rates)
    else:
        upper = lower = figure.subplots()
    _draw_training(upper, curve.losses)
    _draw_evaluations(upper, curve.evaluation_losses)
    _draw_marks(upper, curve)
    _frame(upper, curve)
    lower.set_xlabel("step", color=_INK)
    lower.xaxis.set_major_formatter("{x:,.0f}")
    lower.xaxis.get_major_locator().set_params(integer=True)
    figure.align_ylabels()
    return upper


def _draw_training(axes: Any, losses: Mapping[int, float | None]) -> None:
    if not losses:
        return
    count = len(losses)
    is_smoothed = count >= _LEAST_SMOOTHED
    steps, values = thinned(losses)
    colour, width = (_EACH_STEP, 0.9) if is_smoothed else (_TRAINING, 1.8)
    marker = "o" if count < _LEAST_SMOOTHED else None
    axes.plot(steps, values, color=colour, linewidth=width, marker=marker, markersize=4,
              label="training loss" + (", each step" if is_smoothed else ""))  # fmt: skip
    if is_smoothed:
        steps, values = thinned(smoothed(losses), extremes=False)
        axes.plot(steps, values, color=_TRAINING, linewidth=2, label="smoothed")


def _draw_evaluations(axes: Any, losses: Mapping[int, float]) -> None:
    if not losses:
        return
    marker = "o" if len(losses) <= _MOST_DOTS else None
    axes.plot(list(losses), list(losses.values()), color=_EVALUATION, linewidth=1.4, marker=marker, markersize=5,
              label="evaluation loss", zorder=3)  # fmt: skip
    best = min(losses, key=lambda step: losses[step])
    axes.plot([best], [losses[best]], "*", color=_EVALUATION, markersize=15, markeredgecolor=_INK, markeredgewidth=0.6,
              label=f"best: {losses[best]:.3f} at step {best:,}", linestyle="none", zorder=4)  # fmt: skip


def _draw_marks(axes: Any, curve: Curve) -> None:
    for steps, words, style in ((curve.resumed, "resumed", "--"), (curve.recovered, "out of memory, went on", ":")):
        for index, step in enumerate(steps):
            label = None if index else words + (f" ({len(steps)} times)" if len(steps) > 1 else "")
            axes.axvline(step, color=_SOFT, linestyle=style, linewidth=1.2, label=label, zorder=1)


def _draw_rates(axes: Any, rates: Mapping[int, float]) -> None:
    steps, values = thinned(rates)
    marker = "o" if len(rates) == 1 else None
    axes.plot(steps, values, color=_SOFT, linewidth=1.4, marker=marker, markersize=4)
    peak = max(rates.values())
    axes.set_ylim(0, 1.15 * peak if peak else 1)
    axes.set_yticks([0, peak] if peak else [0], ["0", f"{peak:.2g}"] if peak else ["0"])
    axes.set_ylabel("learning\nrate", color=_INK)
    _quiet(axes)


def _frame(axes: Any, curve: Curve) -> None:
    shown = [loss for loss in (*curve.losses.values(), *curve.evaluation_losses.values()) if loss is not None]
    low, top = min(shown), max(shown)
    beginning = max(shown[:_BEGINNING])
    if top > _MOST_RISE * beginning:
        top = _SHOWN_RISE * beginning
    room = 0.06 * (top - low) or 0.1 * abs(top) or 0.1
    axes.set_ylim(0 if low < 0.4 * top else low - room, top + room)
    axes.set_ylabel("loss (nats a token)", color=_INK)
    if len(curve.losses) == 1 and not curve.evaluation_losses:
        step = next(iter(curve.losses))
        axes.set_xlim(step - 1, step + 1)
    _quiet(axes)
    _legend(axes, sum(loss > top for loss in shown))


def _legend(axes: Any, above: int) -> None:
    """Below the picture, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if above:
        handles, labels = [*handles, axes.plot([], [], " ")[0]], [*labels, f"{above:,} losses lie above the picture"]
    is_narrow = axes.figure.get_figwidth() < _SIZE[0]
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=1 if is_narrow else 3, frameon=False,
                       fontsize=9, labelcolor=_INK)  # fmt: skip


def _quiet(axes: Any) -> None:
    axes.grid(color=_SOFT, alpha=0.2)
    axes.tick_params(colors=_SOFT, labelcolor=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_SOFT)


def smoothed(losses: Mapping[int, float | None]) -> dict[int, float | None]:
    """A running mean that forgets with about a fiftieth of the course, five values at least; gaps stay gaps."""
    weight = 1 / max(5.0, _SMOOTHED_SHARE * len(losses))
    total = seen = 0.0
    found: dict[int, float | None] = {}
    for step, loss in losses.items():
        if loss is not None:
            total = (1 - weight) * total + weight * loss
            seen = (1 - weight) * seen + weight
        found[step] = None if loss is None else total / seen
    return found


def thinned(values: Mapping[int, float | None], *, extremes: bool = True) -> Points:
    """At most 1,800 points: the least and the largest value of each bin of steps, or its last one; gaps stay gaps."""
    steps = list(values)
    if len(steps) <= 2 * _BINS:
        return [float(step) for step in steps], [nan if value is None else value for value in values.values()]
    first, width = steps[0], (steps[-1] - steps[0] + 1) / _BINS
    bins: dict[int, list[tuple[int, float | None]]] = {}
    for step, value in values.items():
        bins.setdefault(int((step - first) / width), []).append((step, value))
    chosen = [point for members in bins.values() for point in _chosen(members, extremes)]
    return [step for step, _ in chosen], [value for _, value in chosen]


def _chosen(members: Sequence[tuple[int, float | None]], extremes: bool) -> list[tuple[float, float]]:
    known = [(value, step) for step, value in members if value is not None]
    if not known:
        return [(members[0][0], nan)]
    points = sorted({(step, value) for value, step in ((min(known), max(known)) if extremes else known[-1:])})
    gap = [(float(members[-1][0]), nan)] if len(known) < len(members) else []
    return [*((float(step), value) for step, value in points), *gap]
