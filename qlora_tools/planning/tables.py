"""Plans, comparisons and lists of models for a terminal."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..models.hardware import Hardware
from .compare import Comparison, Strategy
from .documents import next_step
from .ladder import Rung
from .largest import LargeModel
from .plan import Plan
from .schedule import Schedule

_GIB = 2**30
_MIB = 2**20
_HOUR = 3600
# Narrower terminals get lists instead of tables; what goes to a file or a pipe has room.
_NARROW, _PIPED = 120, 160
_STATUS = {
    "applied": "bold green",
    "not needed": "dim",
    "asked for": "yellow",
    "not available": "dim",
    "proposed": "cyan",
}


def print_plan(console: Console, plan: Plan) -> None:
    """The values with their reasons, the memory, the ladder where it was climbed, the time, and what to do next."""
    _widen(console)
    narrow = console.width < _NARROW
    print_values = _list_values if narrow else _tabulate_values
    print_values(console, plan)
    _say(console, _memory(plan))
    if plan.ladder:
        console.print("\nLadder: what makes it fit, by what each step costs the result", style="bold")
        print_ladder = _list_ladder if narrow else _tabulate_ladder
        print_ladder(console, plan)
    _say(console, Text(_time(plan.schedule)))
    for note in plan.notes:
        _say(console, Text(f"Note: {note}"))
    _say(console, Text(f"Next: {next_step(plan)}"))


def _tabulate_values(console: Console, plan: Plan) -> None:
    table = _table("value", "reason", "what another value does", "source")
    for value in plan.values:
        table.add_row(f"{value.field} = {value.value}", value.reason, value.effect, value.source)
    console.print(table)


def _list_values(console: Console, plan: Plan) -> None:
    for value in plan.values:
        console.print(Text(f"{value.field} = {value.value}", "bold"))
        console.print(Padding(f"{value.reason} ({value.source})\n{value.effect}", (0, 0, 0, 2)))


def _widen(console: Console) -> None:
    if not console.is_terminal:
        console.width = max(console.width, _PIPED)


def _table(*headings: str) -> Table:
    return Table(*headings, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))


def _say(console: Console, text: Text) -> None:
    # Lines that go to a file or a pipe stay whole.
    console.print(text, soft_wrap=not console.is_terminal)


def _memory(plan: Plan) -> Text:
    estimate, free = plan.estimate, plan.hardware.free_memory_bytes
    left = (free - plan.needed_bytes) / _GIB
    verdict = (f"fits, {left:.2f} GiB to spare", "bold green") if plan.fits else (f"{-left:.2f} GiB short", "bold red")
    band = " / ".join(f"{size / _GIB:.2f}" for size in (estimate.low_bytes, estimate.mid_bytes, estimate.high_bytes))
    figures = f"{band} GiB (low / mid / high), {plan.needed_bytes / _GIB:.2f} GiB needed to be sure"
    return Text.assemble(f"\nMemory: {figures}; {plan.hardware.name}, {free / _GIB:.2f} GiB free: ", verdict)


def _tabulate_ladder(console: Console, plan: Plan) -> None:
    table = _table("", "step", "saves", "time", "costs in quality", "beside the field's usual order")
    for rung in plan.ladder:
        step = "\n".join((rung.name, *_changes(rung)))
        status = Text(rung.status, _STATUS[rung.status])
        table.add_row(status, step, _size(rung.saved_bytes), _factor(rung), rung.quality, rung.order)
    console.print(table)


def _list_ladder(console: Console, plan: Plan) -> None:
    for rung in plan.ladder:
        saving = f"saves {_size(rung.saved_bytes)}" if rung.saved_bytes else ""
        time = f"time {_factor(rung)}" if rung.time_factor is not None else ""
        figures = ", ".join(word for word in (saving, time) if word)
        console.print(Text.assemble((rung.status, _STATUS[rung.status]), f": {rung.name}"))
        said = (", ".join(_changes(rung)), figures, f"quality: {rung.quality}", rung.order)
        console.print(Padding("\n".join(line for line in said if line), (0, 0, 0, 2)))


def _changes(rung: Rung) -> list[str]:
    return [f"{name}={value}" for name, value in rung.settings.items()]


def _factor(rung: Rung) -> str:
    return "" if rung.time_factor is None else f"x {rung.time_factor:.2f}"


def _size(size: int) -> str:
    if size == 0:
        return ""
    return f"{size / _GIB:,.2f} GiB" if size >= _GIB else f"{size / _MIB:,.0f} MiB"


def _time(times: Schedule) -> str:
    steps = f"\nTime: {times.steps:,} steps of {times.rows_per_step} rows, {times.tokens / 1e6:.2f} million tokens"
    if times.seconds is None or times.tokens_per_second is None:
        return f"{steps}; {times.basis}"
    return f"{steps}, about {_duration(times.seconds)} at {times.tokens_per_second:,.0f} tokens/s ({times.basis})"


def _duration(seconds: float) -> str:
    if seconds < 2 * 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.1f} h"


def print_comparison(console: Console, comparison: Comparison) -> None:
    """The strategies as columns."""
    _widen(console)
    table = _table("", *(strategy.name for strategy in comparison.strategies))
    for name, cells in _comparison_rows(comparison.strategies):
        table.add_row(name, *cells)
    console.print(table)
    _say(console, Text(f"\nCompared on {comparison.note}"))


def _comparison_rows(strategies: Sequence[Strategy]) -> Iterator[tuple[str, list[str]]]:
    yield "model", [way.model for way in strategies]
    yield "GPU", [way.gpu for way in strategies]
    yield "expected peak", [f"{way.mid_bytes / _GIB:.1f} GiB" for way in strategies]
    yield (
        "needed to be sure",
        [f"{way.needed_bytes / _GIB:.1f} of {way.free_bytes / _GIB:.1f} GiB" for way in strategies],
    )
    yield "fits", ["yes" if way.fits else "NO" for way in strategies]
    yield "given up", [", ".join(way.given_up) or "nothing" for way in strategies]
    yield "micro-batch", [f"{way.micro_batch_size}{_checkpointed(way)}" for way in strategies]
    yield "tokens/s", [_known(way.tokens_per_second, ",.0f") for way in strategies]
    yield "hours", [_known(way.hours, ".1f") for way in strategies]
    yield "speed", [way.speed_basis for way in strategies]
    yield "expected quality", [way.quality for way in strategies]
    yield "source", [way.source for way in strategies]


def _checkpointed(way: Strategy) -> str:
    return ", checkpointing" if way.gradient_checkpointing else ""


def _known(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def print_largest(console: Console, hardware: Hardware, models: Sequence[LargeModel]) -> None:
    """The models that fit, largest first, with the longest row that each takes."""
    _widen(console)
    free = hardware.free_memory_bytes / _GIB
    console.print(
        f"{hardware.name}, {free:.2f} GiB free: {len(models)} models fit (NF4, rows one by one, checkpointing)"
    )
    table = _table("model", "parameters", "needs for 512 tokens", "longest row", "made for", "licence")
    for column in table.columns[1:5]:
        column.justify = "right"
    for model in models:
        row = model.longest_row
        made_for = f"{row.model_tokens:,}" if row.model_tokens else "unknown"
        names = ", ".join((model.name, *model.also))
        needed = f"{model.needed_bytes / _GIB:.1f} GiB"
        table.add_row(
            names, f"{model.parameters / 1e9:.2f} B", needed, f"{row.fitting_tokens:,}", made_for, model.licence
        )
    if models:
        console.print(table)
    if any(model.longest_row.tokens < model.longest_row.fitting_tokens for model in models):
        _say(console, Text("Longest row: what memory takes; a model cannot use more than it was made for."))
