"""What other row lengths and micro-batches would need, as a heat map."""

from collections.abc import Mapping
from math import log
from pathlib import Path
from typing import Any

from ..results import MemoryReport
from .memory_parts import GIB, gpu_text, row_size, settings_line, task_title
from .memory_plots import draw_title
from .pictures import ink_on, new_figure, save_png

_SHORTEST, _LONGEST = 512, 32_768
_DARK, _GREY = "#222222", "#555555"
_UNFIT: dict[str, Any] = {"facecolor": "#EEEEEE", "edgecolor": "#BBBBBB", "hatch": "///", "linewidth": 0.5}
_BOUNDARY: dict[str, Any] = {"color": "#B22222", "linewidth": 4, "solid_capstyle": "round"}
Place = tuple[int, int]
Needed = Mapping[Place, int]


def heat_map_lengths(longest: int | None) -> tuple[int, ...]:
    """Row lengths of a heat map in tokens, doubling from 512 to the model's `longest`, at most 32,768."""
    last = min(longest or _LONGEST, _LONGEST)
    lengths = [_SHORTEST << step for step in range(7) if _SHORTEST << step <= last]
    return tuple(lengths or [last])


def write_heat_map(path: Path, report: MemoryReport, settings: Mapping[str, Any], needed: Needed) -> None:
    """Write the bytes `needed` by (row length, micro-batch) as a heat map, a PNG; what does not fit is hatched.

    `report` tells the GPU; the cell of `settings` is framed. Raises `MissingLibraryError` without matplotlib, and
    `MachineError` where the disk refuses.
    """
    lengths, batches = (sorted({cell[side] for cell in needed}) for side in (0, 1))
    figure = new_figure(3 + 1.1 * max(4, len(lengths)), 5.8)
    axes = figure.subplots()
    _frame(axes, lengths, batches)
    places = {cell: (lengths.index(cell[0]), batches.index(cell[1])) for cell in needed}
    for cell, colour in _colours(needed, report.gpu_bytes).items():
        _draw_cell(axes, places[cell], needed[cell], colour)
    fits = {places[cell]: size <= (report.gpu_bytes or size) for cell, size in needed.items()}
    _draw_boundary(axes, fits)
    own = places.get(row_size(settings))
    if own is not None:
        _draw_frame(axes, own)
    where = "" if report.gpu_bytes is None else f" on {gpu_text(report, report.gpu_bytes)}"
    below = f"GiB needed to be sure{where}; {settings_line(report, settings, sized=False)}"
    draw_title(axes, f"{report.model}: {task_title(report, settings)}", below)
    _legend(figure, report, set(fits.values()), framed=own is not None)
    save_png(figure, path)


def _frame(axes: Any, lengths: list[int], batches: list[int]) -> None:
    axes.set_xlim(0, len(lengths))
    axes.set_ylim(0, len(batches))
    axes.set_xticks([index + 0.5 for index in range(len(lengths))], [f"{length:,}" for length in lengths])
    axes.set_yticks([index + 0.5 for index in range(len(batches))], [str(rows) for rows in batches])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("row length in tokens")
    axes.set_ylabel("micro-batch in rows")


def _colours(needed: Needed, gpu_bytes: int | None) -> dict[Place, Any]:
    """The fuller the darker: as a share of the GPU, or without one on a logarithmic scale. None does not fit."""
    from matplotlib import colormaps

    # Of one hue at the light end, so that black text is read on every shade.
    shades = colormaps["Blues"]
    if gpu_bytes is not None:
        shares = {cell: size / gpu_bytes for cell, size in needed.items()}
        return {cell: shades(0.05 + 0.5 * share**2) if share <= 1 else None for cell, share in shares.items()}
    least, most = min(needed.values()), max(needed.values())
    return {cell: shades(0.05 + 0.5 * log(size / least) / log(most / least)) for cell, size in needed.items()}


def _draw_cell(axes: Any, place: Place, size: int, colour: Any) -> None:
    from matplotlib.patches import Rectangle

    look = _UNFIT if colour is None else {"facecolor": colour, "edgecolor": "white", "linewidth": 1}
    axes.add_patch(Rectangle(place, 1, 1, **look))
    gib = size / GIB
    words = f"{gib:.1f}" if gib < 99.95 else f"{gib:,.0f}"
    box = {"facecolor": "white", "edgecolor": "none", "boxstyle": "round,pad=0.2"} if colour is None else None
    ink = _GREY if colour is None else ink_on(colour)
    axes.text(place[0] + 0.5, place[1] + 0.5, words, ha="center", va="center", fontsize=11, color=ink, bbox=box)


def _draw_boundary(axes: Any, fits: Mapping[Place, bool]) -> None:
    """A thick line between neighbours of which one fits and the other does not."""
    for (column, row), here in fits.items():
        if fits.get((column + 1, row), here) != here:
            axes.plot([column + 1, column + 1], [row, row + 1], **_BOUNDARY)
        if fits.get((column, row + 1), here) != here:
            axes.plot([column, column + 1], [row + 1, row + 1], **_BOUNDARY)


def _draw_frame(axes: Any, place: Place) -> None:
    from matplotlib.patches import Rectangle

    inside = (place[0] + 0.08, place[1] + 0.08)
    for colour, width in (("white", 5), (_DARK, 2)):
        axes.add_patch(Rectangle(inside, 0.84, 0.84, fill=False, edgecolor=colour, linewidth=width))


def _legend(figure: Any, report: MemoryReport, fits: set[bool], *, framed: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown: list[Any] = []
    if report.gpu_bytes is not None and False in fits:
        shown.append(Patch(**_UNFIT, label=f"more than {report.gpu} has free"))
    if len(fits) == 2:
        shown.append(Line2D([], [], **_BOUNDARY, label="edge of what fits"))
    if framed:
        shown.append(Patch(fill=False, edgecolor=_DARK, linewidth=2, label="the settings given"))
    if shown:
        figure.legend(handles=shown, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
