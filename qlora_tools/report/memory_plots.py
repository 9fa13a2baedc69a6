"""A memory report as a picture: its parts as one bar against the GPU's memory."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..results import MemoryReport
from .memory_parts import GIB, gib_text, gpu_text, settings_line, shown_parts, task_title, verdict
from .pictures import ink_on, new_figure, save_png

_WIDTH = 11
_DARK, _BEYOND = "#222222", "#B22222"
# Narrower segments have no room for a number. Shares of the axis.
_LEAST_LABELLED = 0.045
_ROOM_FOR_HALF_A_LABEL = 0.12
_LETTERS_PER_INCH, _SMALL_LETTERS_PER_INCH = 8, 12
Segment = tuple[str, int, dict[str, Any]]


def write_bar(path: Path, report: MemoryReport, settings: Mapping[str, Any]) -> None:
    """Write the parts of `report` as one stacked bar against the GPU's memory, a PNG.

    Raises `MissingLibraryError` without matplotlib, and `MachineError` where the disk refuses.
    """
    figure = new_figure(_WIDTH, 4.8 if report.host is None else 3)
    axes = figure.subplots()
    parts = [(part.name, part.size, {"color": part.colour}) for part in shown_parts(report)]
    beside = _beside(report)
    end = sum(size for _, size, _ in (*parts, *beside))
    longest = 1.03 * max(end, report.gpu_bytes or 0) / GIB
    _frame(axes, longest, low=report.host is not None)
    bars = _stack(axes, [*parts, *beside], longest)
    if report.host is None:
        _band(axes, report, longest)
    if report.gpu_bytes is not None:
        _gpu_edge(axes, report, report.gpu_bytes, longest)
    draw_title(axes, f"{report.model}: {task_title(report, settings)}", settings_line(report, settings))
    _legends(figure, report, bars[: len(parts)], bars[len(parts) :])
    save_png(figure, path)


def draw_title(axes: Any, title: str, below: str) -> None:
    """A title that keeps its end where it is too long, and a line below it that keeps its beginning."""
    inches = axes.figure.get_figwidth()
    longest = int(_LETTERS_PER_INCH * inches)
    shown = title if len(title) <= longest else f"…{title[-longest:]}"
    axes.set_title(shown, loc="left", fontsize=13, fontweight="bold", pad=26, parse_math=False)
    place = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 9), "textcoords": "offset points"}
    line = textwrap.shorten(below, int(_SMALL_LETTERS_PER_INCH * inches), placeholder=" …")
    axes.annotate(line, **place, fontsize=10, color=_DARK, parse_math=False)


def _frame(axes: Any, longest: float, *, low: bool) -> None:
    axes.set_xlim(0, longest)
    axes.set_ylim(*((-0.5, 0.5) if low else (-0.8, 1.1)))
    axes.set_yticks([])
    axes.set_xlabel("GiB")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.spines[["top", "right", "left"]].set_visible(False)


def _beside(report: MemoryReport) -> list[Segment]:
    """What comes on top of the parts, hatched: torch does not allocate it."""
    found: list[Segment] = [
        ("reserved by torch, unused", report.reserved_bytes - report.mid_bytes, {"color": "#C8C8C8", "hatch": "...."}),
        ("CUDA context", report.context_bytes, {"color": "#A8A8A8", "hatch": "////"}),
        ("paged optimiser state", report.paged_bytes, {"color": "#888888", "hatch": "\\\\\\\\"}),
        ("margin to be sure", report.needed_bytes - report.device_bytes, {"color": "#E4E4E4", "hatch": "xx"}),
    ]
    return [item for item in found if item[1] > 0]


def _stack(axes: Any, segments: list[Segment], longest: float) -> list[Any]:
    bars, start = [], 0.0
    for name, size, look in segments:
        gib = size / GIB
        bars.append(axes.barh(0, gib, 0.7, start, edgecolor="white", linewidth=0.4, **look))
        bars[-1].set_label(f"{name}: {gib_text(size)}")
        if gib > _LEAST_LABELLED * longest and "hatch" not in look:
            place = {"ha": "center", "va": "center", "color": ink_on(look["color"]), "fontsize": 10}
            # Its ground hides the GPU's edge, should that run through the number.
            ground = {"facecolor": look["color"], "edgecolor": "none", "pad": 1}
            axes.text(start + gib / 2, 0, f"{gib:,.2f}", **place, bbox=ground)
        start += gib
    return bars


def _band(axes: Any, report: MemoryReport, longest: float) -> None:
    """Above the bar the band of what torch allocates, below it what is needed to be sure."""
    low, middle, high = (size / GIB for size in (report.low_bytes, report.mid_bytes, report.high_bytes))
    band = [[middle - low], [high - middle]]
    axes.errorbar(middle, 0.45, xerr=band, fmt="|", markersize=10, color=_DARK, capsize=5, linewidth=1.5)
    _label(axes, (low, high), 0.58, f"torch allocates {low:,.2f} to {gib_text(report.high_bytes)}", longest)
    needed = report.needed_bytes / GIB
    axes.plot([needed, needed], [-0.48, -0.36], color=_DARK, linewidth=1.5)
    _label(axes, (needed, needed), -0.64, f"needed to be sure: {gib_text(report.needed_bytes)}", longest)


def _label(axes: Any, span: tuple[float, float], height: float, words: str, longest: float) -> None:
    """Text centred on `span`, or from its end where the picture ends."""
    share = (span[0] + span[1]) / 2 / longest
    place, side = (span[0] + span[1]) / 2, "center"
    if share < _ROOM_FOR_HALF_A_LABEL:
        place, side = span[0], "left"
    elif share > 1 - _ROOM_FOR_HALF_A_LABEL:
        place, side = span[1], "right"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    axes.text(place, height, words, ha=side, fontsize=10, color=_DARK, bbox=box)


def _gpu_edge(axes: Any, report: MemoryReport, gpu_bytes: int, longest: float) -> None:
    size, colour = gpu_bytes / GIB, _DARK if report.fits else _BEYOND
    axes.axvline(size, color=colour, linewidth=2.5)
    axes.axvspan(size, longest, color=colour, alpha=0.08, linewidth=0, zorder=0)
    side, gap = ("right", -0.007) if size > longest / 2 else ("left", 0.007)
    words = f"{gpu_text(report, gpu_bytes)}: {verdict(report, gpu_bytes)}"
    axes.text(size + gap * longest, 0.92, words, ha=side, fontsize=10.5, fontweight="bold", color=colour)


def _legends(figure: Any, report: MemoryReport, parts: list[Any], beside: list[Any]) -> None:
    look: dict[str, Any] = {"frameon": False, "fontsize": 9, "alignment": "left"}
    total = gib_text(sum(report.parts.values()))
    title = f"{'host memory' if report.host else 'allocated by torch'}, {total}, when fullest ({report.moment})"
    figure.legend(handles=parts, loc="outside lower left", ncols=2, title=title, **look)
    if beside:
        figure.legend(
            handles=beside, loc="outside lower right", title="beside it (torch does not allocate this)", **look
        )
