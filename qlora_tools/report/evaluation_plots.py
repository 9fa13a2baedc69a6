"""Pictures of an evaluation: what the adapter changed in each row's loss, and how sure each measure's difference is."""

import io
from collections.abc import Sequence
from typing import Any

from ..results import Comparison
from .pictures import new_figure

# Colours of the light page by the names that templates/evaluation.html.j2 gives them; the SVG refers to the names.
COLOURS = {"ink": "#1d2430", "soft": "#56606e", "good": "#14733f", "bad": "#a4262c", "note": "#1a5fa8"}
_INK, _SOFT, _GOOD, _BAD, _NOTE = COLOURS.values()
_WIDTH, _NARROW = 8, 4.4
_MOST_BARS = 800


def loss_change_svg(losses: Sequence[tuple[int, float, float]], *, narrow: bool = False) -> str:
    """Each row's loss with the adapter less that of the base, sorted: what got better lies below zero.

    `losses` has (row, base, adapter) in nats a token. Raises `MissingLibraryError` without matplotlib.
    """
    changes = sorted(adapter - base for _, base, adapter in losses)
    step = -(-len(changes) // _MOST_BARS)
    shown = changes[::step]
    figure = new_figure(_NARROW if narrow else _WIDTH, 3)
    axes = figure.subplots()
    places = [step * index for index in range(len(shown))]
    axes.bar(places, shown, width=step, color=[_GOOD if change < 0 else _BAD for change in shown], linewidth=0)
    axes.axhline(0, color=_INK, linewidth=1)
    better = sum(change < 0 for change in changes)
    axes.set_xlabel(f"rows, sorted: {better:,} of {len(changes):,} got better", color=_INK)
    axes.set_ylabel("change of loss\n(nats a token)", color=_INK)
    axes.set_xlim(-0.5 - step / 2, len(changes) - 0.5 + step / 2)
    axes.set_xticks([])
    _quiet(axes)
    return _svg(figure, f"change {narrow}")


def differences_svg(measures: Sequence[Comparison], *, narrow: bool = False) -> str:
    """The difference of each measure with its 95 % interval, and the noise floor as a band around nothing.

    Raises `MissingLibraryError` without matplotlib.
    """
    figure = new_figure(_NARROW if narrow else _WIDTH, 1.1 + 0.42 * len(measures))
    axes = figure.subplots()
    for place, found in enumerate(measures):
        floor = found.noise_floor or 0.0
        axes.barh(place, 2 * floor, left=-floor, height=0.6, color=_SOFT, alpha=0.22, linewidth=0)
        low, value, high = found.difference.low, found.difference.value, found.difference.high
        colour = _SOFT if found.p_value >= 0.05 else _GOOD if found.gain > 0 else _BAD
        axes.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([value], [place], "o", color=colour, markersize=7)
    axes.axvline(0, color=_INK, linewidth=1)
    axes.set_yticks(range(len(measures)), [found.name[:24] for found in measures])
    axes.set_ylim(len(measures) - 0.4, -0.6)
    axes.set_xlabel("adapter less base; grey: the noise floor", color=_INK)
    _quiet(axes)
    return _svg(figure, f"differences {narrow}")


def _quiet(axes: Any) -> None:
    axes.grid(color=_SOFT, alpha=0.2)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, labelcolor=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_SOFT)


def _svg(figure: Any, salt: str) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text[text.index("<svg") :]
