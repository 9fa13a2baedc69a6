"""Draw speed against memory for all engines of a result file, and where a step's time goes.

    python benchmarks/roofline.py benchmarks/results/engine_speed_h100.json docs/performance.png

A panel is a shape of work. Points of one engine with all kept, with a memory limit and with checkpointing are joined; dashed
lines are the floors of `engine_cases.FLOORS`.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine_cases import FLOORS
from engine_report import GIB, case_words

from qlora_tools.report.pictures import check_picture, new_figure, save_png

COLOURS = {
    "fast": "#1f6f5c",
    "lora16": "#7ab8a6",
    "stock": "#2b6cb0",
    "trl": "#8a6d3b",
    "trl-liger": "#c9973f",
    "tutorial": "#999999",
    "unsloth": "#b22222",
}
KINDS = {
    "matrix products": "#1f6f5c",
    "attention": "#2b6cb0",
    "decoding of 4-bit weights": "#c9973f",
    "element-wise": "#b22222",
    "head and loss": "#7a5ea8",
    "optimiser": "#8a6d3b",
    "copies": "#777777",
    "no kernel": "#dddddd",
}
COLUMNS = 4
Point = tuple[float, float]


def main() -> None:
    """Draw the file named first into the one named second."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    check_picture(target)
    save_png(picture(json.loads(source.read_text(encoding="utf-8"))["cases"]), target)


def picture(cases: Mapping[str, Any]) -> Any:
    """The figure: panels of speed over memory, and bars of time below them where any step was profiled."""
    shapes, bars = panels(cases), time_bars(cases)
    rows = -(-len(shapes) // COLUMNS)
    heights = [2.9 * rows, *([1.2 + 0.3 * len(bars)] if bars else [])]
    figure = new_figure(3.4 * COLUMNS, sum(heights) + 0.4)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for place, (title, names) in enumerate(shapes.items()):
        _draw_panel(parts[0].add_subplot(rows, COLUMNS, place + 1), title, {name: cases[name] for name in names})
    _legend(parts[0], {engine for case in cases.values() for engine in case["engines"]})
    if bars:
        _draw_bars(parts[1].add_subplot(), bars)
    return figure


def panels(cases: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of the cases that share a panel, by its title: those that differ only in what is kept."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, case in cases.items():
        if any("tokens_per_second" in one and one.get("peak_allocated_bytes") for one in case["engines"].values()):
            found[case_words({**case["case"], "kept": False, "limit_gib": None})].append(name)
    return dict(found)


def points(cases: Mapping[str, Any]) -> dict[str, list[Point]]:
    """GiB allocated and tokens a second of each engine, by memory."""
    found: dict[str, list[Point]] = defaultdict(list)
    for case in cases.values():
        for engine, one in case["engines"].items():
            if "tokens_per_second" in one and one.get("peak_allocated_bytes"):
                found[engine].append((one["peak_allocated_bytes"] / GIB, one["tokens_per_second"]))
    return {engine: sorted(each) for engine, each in found.items()}


def _draw_panel(axes: Any, title: str, cases: Mapping[str, Any]) -> None:
    for engine, each in points(cases).items():
        memory, speed = zip(*each, strict=True)
        width = 2.2 if engine == "fast" else 1.2
        axes.plot(memory, speed, "o-", color=COLOURS[engine], linewidth=width, markersize=5, clip_on=False)
    for floor in sorted({floor for name in cases for floor in FLOORS.get(name, ())}):
        axes.axhline(floor, color="#444444", linestyle="--", linewidth=0.8)
    axes.set_title(title.replace("-instruct", "").replace(", chat-like", "\nchat-like"), fontsize=9, loc="left")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("peak allocated, GiB", fontsize=8)
    axes.set_ylabel("tokens/s", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def time_bars(cases: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    """Each profiled step with its milliseconds by kind."""
    return [
        (f"{case_words(case['case'])}, {engine}".replace("-instruct", ""), one["kernel_milliseconds"])
        for case in cases.values()
        for engine, one in case["engines"].items()
        if one.get("kernel_milliseconds")
    ]


def _draw_bars(axes: Any, bars: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    for place, (_, found) in enumerate(bars):
        left, whole = 0.0, sum(found.values())
        for kind, colour in KINDS.items():
            share = 100 * found.get(kind, 0.0) / whole
            axes.barh(place, share, left=left, color=colour, label=kind if place == 0 else None)
            left += share
        axes.text(100.5, place, f"{whole:,.0f} ms", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [words for words, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 106)
    axes.set_xlabel("part of one step's time, %", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(KINDS), fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0))


def _legend(figure: Any, engines: set[str]) -> None:
    from matplotlib.lines import Line2D

    marks: list[Any] = [
        Line2D([], [], color=COLOURS[name], marker="o", label=name) for name in COLOURS if name in engines
    ]
    marks.append(Line2D([], [], color="#444444", linestyle="--", linewidth=0.8, label="floor of the card"))
    figure.legend(handles=marks, ncols=len(marks), loc="outside upper center", fontsize=8, frameon=False)


if __name__ == "__main__":
    main()
