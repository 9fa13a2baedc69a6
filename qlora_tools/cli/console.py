"""How commands show things: one JSON document or text on stdout, progress and errors on stderr."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..errors import QloraError
from ..events import Listener, RunEvent
from ..requirements import quiet_libraries, require_training_libraries
from ..untrusted import visible_text

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout instead of text.")


def stderr() -> Console:
    """The console for progress; made anew so that it follows a redirected stderr."""
    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    """The console for tables; markup in users' values is never interpreted.

    A letter that the encoding of stdout lacks becomes a question mark.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, markup=False)


def print_json(document: Any) -> None:
    """The one document of a `--json` command."""
    in_ascii = "utf" not in (sys.stdout.encoding or "utf-8").lower()
    click.echo(json.dumps(document, indent=2, ensure_ascii=in_ascii, allow_nan=False))


def show_error(error: QloraError, *, as_json: bool) -> None:
    """An error as text on stderr, or as the command's JSON document."""
    if as_json:
        print_json(error.as_dict())
        return
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(error.message, err=True)
    click.secho("  → ", fg="cyan", nl=False, err=True)
    click.echo(error.next_step, err=True)


@contextmanager
def working(purpose: str) -> Iterator[Listener]:
    """Shows the events of long work on stderr, and keeps what libraries print off stdout.

    Raises `MissingLibraryError` where the light install cannot do it.
    """
    require_training_libraries(purpose)
    quiet_libraries()
    with watching() as listener:
        yield listener


@contextmanager
def watching() -> Iterator[Listener]:
    """As `working`, for work that the light install can do."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _AmountColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr(), transient=True) as progress, redirect_stdout(sys.stderr):
        yield _ProgressListener(progress)


class _AmountColumn(ProgressColumn):
    """Done and total as `120/4,000`, of bytes as `1.2/5.0 GiB`; done alone where nobody knows the total."""

    def render(self, task: Task) -> Text:
        """What stands beside the bar of `task`."""
        unit, size = _byte_unit(task.total or task.completed) if task.fields.get("bytes") else ("", 1)
        amounts = [task.completed] if task.total is None else [task.completed, task.total]
        shown = "/".join(f"{amount / size:,.1f}" if unit else f"{int(amount):,}" for amount in amounts)
        return Text(f"{shown} {unit}".rstrip(), "progress.download")


def _byte_unit(size: float) -> tuple[str, int]:
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
    return next((unit for unit in units if size >= unit[1]), ("KiB", 2**10))


class _ProgressListener:
    """One bar for the phase that runs; the phases and the course of the loss stay as lines."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar: TaskID | None = None
        self._last_printed = 0

    def __call__(self, event: RunEvent) -> None:
        if event.kind in ("phase", "note", "warning", "checkpoint", "sample"):
            self._end_bar()
            word = "" if event.kind in ("phase", "note") else f"  {event.kind}: "
            self._progress.console.print(Text(visible_text(word + event.message)))
        elif event.kind == "progress":
            values = event.values
            self._advance(event.message, values["done"], values.get("total"), in_bytes=bool(values.get("bytes")))
        else:
            self._metrics(event)

    def _metrics(self, event: RunEvent) -> None:
        step, planned = int(event.values["step"]), int(event.values["planned_steps"])
        if "loss" in event.values:
            self._advance(f"step · loss {event.values['loss']:.3f}", step, planned)
        # About ten lines a run, whatever its length: enough to see the course in a log file.
        if "evaluation_loss" in event.values or step == planned or step - self._last_printed >= max(1, planned // 10):
            self._last_printed = step
            self._progress.console.print(_metrics_line(event), markup=False)

    def _advance(self, description: str, done: float, total: float | None, *, in_bytes: bool = False) -> None:
        shown = escape(visible_text(description))
        if self._bar is None:
            self._bar = self._progress.add_task(shown, total=total, bytes=in_bytes)
        self._progress.update(self._bar, description=shown, completed=done, total=total)
        if total is not None and done >= total:
            self._end_bar()

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None


def _metrics_line(event: RunEvent) -> str:
    values = event.values
    words = [f"  step {int(values['step'])}/{int(values['planned_steps'])}"]
    if "loss" in values:
        words.append(f"loss {values['loss']:.4f}")
    if "evaluation_loss" in values:
        words.append(f"evaluation loss {values['evaluation_loss']:.4f}")
    if "tokens_per_second" in values:
        words.append(f"{values['tokens_per_second']:,.0f} tokens/s")
    words.append(f"peak {values['peak_allocated_bytes'] / 2**30:.2f} GiB")
    return " · ".join(words)
