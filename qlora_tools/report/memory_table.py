"""A memory report for a terminal: a bar against the GPU's size, the parts, and what the figures mean."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results import HostMemory, MemoryReport, ProbeResult
from .memory_parts import GIB, Part, gib_text, gpu_text, settings_line, shown_parts, task_title, verdict

_WIDEST = 100
# Of the bar: (letter without colours, block with colours, colour).
_BESIDE, _MARGIN, _FREE, _EDGE = ("+", "▓", "#777777"), ("?", "░", "#777777"), (".", "·", "#777777"), "|"
Cell = tuple[str, str]


def print_memory_report(console: Console, report: MemoryReport, settings: Mapping[str, Any]) -> None:
    """Show `report` of a run with `settings`, in colours where the console has them, in letters elsewhere."""
    plain = not console.is_terminal or console.no_color or console.color_system is None
    parts = shown_parts(report)
    _say(console, _header(report))
    _say(console, Text(f"{task_title(report, settings)}: {settings_line(report, settings)}"))
    console.print()
    console.print(memory_bar(report, min(console.width, _WIDEST), plain=plain), no_wrap=True, crop=False)
    if report.host is None:
        _say(console, _bar_legend(report, plain=plain))
    console.print()
    console.print(_parts_table(report, parts, plain=plain))
    console.print()
    console.print(_figures_table(_host_figures(report.host) if report.host else _figures(report)))
    for note in [*report.notes, *_past(report)]:
        _say(console, Text(f"Note: {note}"))
    _say(console, Text(f"Next: {report.next_step}"))


def _past(report: MemoryReport) -> list[str]:
    past = report.past
    if past is None:
        return []
    runs = "1 run" if past.runs == 1 else f"{past.runs} runs"
    return [
        f"In {runs} on such a device here, the peak was {past.median_error:+.1%} from the prediction in the median, "
        f"{past.largest_error:+.1%} at most."
    ]


def print_probe(console: Console, probe: ProbeResult) -> None:
    """Show what a real step took beside what was predicted."""
    table = Table("part", "predicted", "measured", "off by", box=None, pad_edge=False)
    for part in probe.parts:
        predicted, measured = part.predicted_bytes, part.measured_bytes
        table.add_row(
            part.name,
            f"{predicted / 2**30:.2f} GiB",
            f"{measured / 2**30:.2f} GiB",
            f"{predicted / measured - 1:+.1%}" if measured > 0 else "",
        )
    console.print()
    _say(
        console,
        Text(
            f"Probe on {probe.device}: {probe.seconds_per_step:.2f} s a step, {probe.tokens_per_second:,.0f} tokens/s "
            "(random weights in the model's shape)"
        ),
    )
    console.print(table)


def _say(console: Console, text: Text) -> None:
    # Lines that go to a file or a pipe stay whole.
    console.print(text, soft_wrap=not console.is_terminal)


def _header(report: MemoryReport) -> Text:
    words = [f"{report.parameters / 1e9:.3g} billion parameters"]
    words.append(f"licence {report.licence}" if report.licence else "licence unknown")
    return Text.assemble((report.model, "bold"), " · ", " · ".join([*words, report.source]))


def memory_bar(report: MemoryReport, width: int, *, plain: bool) -> Text:
    """One line of `width` characters: the parts, what torch does not count, the margin, and what is free.

    An edge marks the size of the GPU where one is named; what does not fit stands beyond it.
    """
    total = sum(report.parts.values())
    ends = (
        [(total, _BESIDE)]
        if report.host
        else [
            (max(report.device_bytes, total), _BESIDE),
            (max(report.needed_bytes, total), _MARGIN),
        ]
    )
    longest = max(ends[-1][0], report.gpu_bytes or 0)
    cells = width if report.gpu_bytes is None else width - 1
    line = list(_filled(shown_parts(report), ends, cells / longest, plain=plain))
    line += [_cell(_FREE, plain=plain)] * (cells - len(line))
    if report.gpu_bytes is not None:
        line.insert(round(report.gpu_bytes * cells / longest), (_EDGE if plain else "┃", "bold"))
    return Text.assemble(
        *(("".join(cell[0] for cell in run), style) for style, run in groupby(line, key=itemgetter(1)))
    )


def _filled(
    parts: list[Part], ends: list[tuple[int, tuple[str, str, str]]], scale: float, *, plain: bool
) -> Iterator[Cell]:
    """The cells up to the last end. Each part ends at the rounded sum so far, so that errors do not add up."""
    done, reached = 0, 0
    for part in parts:
        reached += part.size
        end = round(reached * scale)
        yield from [_cell((part.mark, "█", part.colour), plain=plain)] * (end - done)
        done = end
    for size, look in ends:
        end = round(size * scale)
        yield from [_cell(look, plain=plain)] * (end - done)
        done = end


def _cell(look: tuple[str, str, str], *, plain: bool) -> Cell:
    letter, block, colour = look
    return (letter, "") if plain else (block, colour)


def _bar_legend(report: MemoryReport, *, plain: bool) -> Text:
    said = [(_BESIDE, "reserve, context, paged state"), (_MARGIN, "margin to be sure")]
    if report.gpu_bytes is not None and report.fits:
        said.append((_FREE, "free"))
    explained = [Text.assemble(_cell(look, plain=plain), f" {words}") for look, words in said]
    if report.gpu_bytes is not None:
        edge = (_EDGE if plain else "┃", "bold")
        explained.append(Text.assemble(edge, f" {gpu_text(report, report.gpu_bytes)}"))
    return Text("   ").join(explained)


def _parts_table(report: MemoryReport, parts: list[Part], *, plain: bool) -> Table:
    total = sum(part.size for part in parts)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("part")
    table.add_column("GiB", justify="right")
    table.add_column("share", justify="right")
    for part in parts:
        mark = Text(*_cell((part.mark, "██", part.colour), plain=plain))
        name = f"{part.name} ({', '.join(part.holds)})" if part.holds else part.name
        table.add_row(mark, name, f"{part.size / GIB:,.2f}", f"{part.size / total:.1%}")
    whole = "host memory" if report.host else "allocated by torch"
    table.add_row("", Text(whole, "bold"), Text(f"{total / GIB:,.2f}", "bold"), "100.0%")
    return table


def _figures_table(rows: Iterator[tuple[str, Text | str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, words in rows:
        table.add_row(name, words)
    return table


def _host_figures(host: HostMemory) -> Iterator[tuple[str, Text | str]]:
    yield "host memory", gib_text(host.memory_bytes)
    yield "disk for the result", gib_text(host.disk_bytes)


def _figures(report: MemoryReport) -> Iterator[tuple[str, Text | str]]:
    band = " / ".join(f"{size / GIB:,.2f}" for size in (report.low_bytes, report.mid_bytes, report.high_bytes))
    yield "allocated by torch", f"{band} GiB (low / mid / high)"
    yield "reserved by torch", gib_text(report.reserved_bytes)
    yield "not counted by torch", f"{gib_text(report.context_bytes)} CUDA context"
    if report.paged_bytes:
        yield "", f"{gib_text(report.paged_bytes)} paged optimiser state, which may move to the host"
    yield "nvidia-smi would show", gib_text(report.device_bytes)
    yield "needed to be sure", Text(gib_text(report.needed_bytes), "bold")
    yield "fullest moment", report.moment
    if report.gpu_bytes is not None:
        yield gpu_text(report, report.gpu_bytes), _coloured_verdict(report, report.gpu_bytes)


def _coloured_verdict(report: MemoryReport, gpu_bytes: int) -> Text:
    colour = "green" if report.fits else "yellow" if report.device_bytes <= gpu_bytes else "red"
    return Text(verdict(report, gpu_bytes), f"bold {colour}")
