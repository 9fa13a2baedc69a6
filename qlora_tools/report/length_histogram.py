"""The lengths of a dataset's rows as a picture: a PNG file, or an SVG that takes its colours from the page around it."""

import io
import warnings
from collections.abc import Sequence
from math import log
from pathlib import Path, PurePath
from typing import Any

from ..results import DatasetReport, LengthSummary
from .dataset_words import percent, visible_report
from .memory_plots import draw_title
from .pictures import check_picture, new_figure, save_png

# Colours of the light page by the names that templates/dataset.html.j2 gives them; the SVG refers to the names.
PICTURE_COLOURS = {"ink": "#1d2430", "soft": "#56606e", "bar": "#5b94c9", "limit": "#a4262c", "suggested": "#14733f"}
_INK, _SOFT, _BAR, _LIMIT, _SUGGESTED = PICTURE_COLOURS.values()
_SHOWN_PERCENTILES = ("p50", "p90", "p99")
_FONT_SIZE = 10
_WIDTH, _PAGE_SIZE, _PHONE_SIZE = 10, (8, 3.8), (4.4, 3.4)
# Inches: of a letter, of the gaps around a label, of a label's height, and beside the axes. Generous, as fonts differ.
_LETTER, _GAP, _LEVEL, _MARGIN = 0.086, 0.13, 0.25, 0.85
Line = tuple[int, str, str]


def check_histogram(path: Path) -> None:
    """Raise `UsageError` or `MissingLibraryError` unless a histogram can be drawn and may be written to `path`."""
    check_picture(path)
    new_figure(1, 1)


def write_histogram(path: Path, report: DatasetReport) -> bool:
    """Write the lengths of `report` as a PNG; false, and nothing written, where the report has none.

    Raises `MissingLibraryError` without matplotlib, and `MachineError` where the disk refuses.
    """
    if report.lengths is None or not report.lengths.histogram:
        return False
    figure = new_figure(_WIDTH, _WIDTH / 2)
    axes = figure.subplots()
    _draw(axes, report.lengths)
    draw_title(axes, f"{PurePath(visible_report(report).path).name}: row lengths", _below(report.lengths))
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        save_png(figure, path)
    return True


def histogram_svg(lengths: LengthSummary, *, narrow: bool = False) -> str:
    """An `<svg>` element whose colours are the CSS variables of the page, `narrow` for a phone.

    Raises `MissingLibraryError` without matplotlib.
    """
    figure = new_figure(*(_PHONE_SIZE if narrow else _PAGE_SIZE))
    from matplotlib import rc_context

    _draw(figure.subplots(), lengths)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"lengths {narrow}"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    for name, colour in PICTURE_COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text[text.index("<svg") :]


def _below(lengths: LengthSummary) -> str:
    over = next((item for item in lengths.limits if item.max_length_tokens == lengths.max_length_tokens), None)
    shares = "" if over is None else f"; {percent(over.share_over)} longer than the limit"
    return f"{lengths.rows:,} rows{shares}. {lengths.note}"


def _draw(axes: Any, lengths: LengthSummary) -> None:
    edges = _edges([end for end, _ in lengths.histogram])
    counts = [rows for _, rows in lengths.histogram]
    axes.stairs(counts, edges, fill=True, color=_BAR)
    lines = _lines(lengths)
    _frame(axes, edges, lines, lengths)
    _draw_lines(axes, lines, max(1, *counts))


def _edges(ends: Sequence[int]) -> list[float]:
    """Where bars begin and end; the first is as wide as the second on a logarithmic scale."""
    first = max(1, ends[0])
    ratio = min(2.0, ends[1] / first) if len(ends) > 1 else 1.25
    return [first / ratio, float(first), *map(float, ends[1:])]


def _lines(lengths: LengthSummary) -> list[Line]:
    """Places, words and colours of the lines, shortest first; what falls on one place shares a line."""
    named: list[Line] = [
        (lengths.percentiles[name], name, _SOFT) for name in _SHOWN_PERCENTILES if name in lengths.percentiles
    ]
    limit, better = lengths.max_length_tokens, lengths.suggested_max_length_tokens
    named += [(limit, "limit", _LIMIT)] if limit != better else [(limit, "limit, as suggested", _SUGGESTED)]
    named += [(better, "suggested", _SUGGESTED)] if limit != better else []
    places = sorted({place for place, _, _ in named})
    found = []
    for place in places:
        here = [(words, colour) for spot, words, colour in named if spot == place]
        found.append((max(1, place), f"{', '.join(words for words, _ in here)} {place:,}", here[-1][1]))
    return found


def _frame(axes: Any, edges: list[float], lines: Sequence[Line], lengths: LengthSummary) -> None:
    first = max(0.5, min(edges[0], *(place for place, _, _ in lines))) * 0.93
    # A label stands to the right of its line: where the scale must end for it to have room.
    ends = [
        first * (place / first) ** (1 / (1 - width))
        for (place, _, _), width in zip(lines, _widths(axes, lines), strict=True)
    ]
    axes.set_xscale("log", base=2)
    axes.minorticks_off()
    axes.set_xlim(first, max(edges[-1] * 1.05, *ends))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("tokens a row" + ("" if lengths.how == "tokenizer" else ", estimated from characters"), color=_INK)
    axes.set_ylabel("rows", color=_INK)
    axes.tick_params(colors=_SOFT, labelcolor=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_SOFT)


def _draw_lines(axes: Any, lines: Sequence[Line], highest: int) -> None:
    """Each line ends at its label, which stands above those further right that it would run into."""
    transform = axes.get_xaxis_transform()
    left, right = axes.get_xlim()
    shares = [log(place / left) / log(right / left) for place, _, _ in lines]
    levels = label_levels(shares, _widths(axes, lines))
    level_height = _LEVEL / (axes.figure.get_figheight() - _MARGIN)
    top = 1 - level_height * (max(levels) + 1)
    axes.set_ylim(0, highest / (top - 0.02))
    for (place, words, colour), level in zip(lines, levels, strict=True):
        height = top + level_height * (level + 0.45)
        heavy = colour != _SOFT
        axes.plot([place, place], [0, height + 0.03], color=colour, linewidth=1.8 if heavy else 1.1,
                  linestyle="-" if heavy else "--", transform=transform)  # fmt: skip
        axes.annotate(
            words, (place, height), xycoords=transform, xytext=(4, 0), textcoords="offset points", va="center",
            color=colour, fontsize=_FONT_SIZE, fontweight="bold" if heavy else "normal", annotation_clip=False,
        )  # fmt: skip


def _widths(axes: Any, lines: Sequence[Line]) -> list[float]:
    """Of the labels, as shares of the axes' width."""
    room = axes.figure.get_figwidth() - _MARGIN
    return [min(0.6, (_LETTER * len(words) + _GAP) / room) for _, words, _ in lines]


def label_levels(places: Sequence[float], widths: Sequence[float]) -> list[int]:
    """The level of each label, 0 the lowest, so that none meets another label or line.

    Places, ascending, and widths are shares of the axes' width; a label stands to the right of its place.
    """
    levels = [0] * len(places)
    for index in reversed(range(len(places))):
        end = places[index] + widths[index]
        met = [levels[other] for other in range(index + 1, len(places)) if places[other] <= end]
        levels[index] = max(met, default=-1) + 1
    return levels
