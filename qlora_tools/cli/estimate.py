"""`qlora estimate`."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import click

from ..config.overrides import config_with, settings_from_pairs
from ..errors import UsageError
from ..events import RunEvent
from ..memory.here import Target
from ..models.known import find_model
from ..paths import as_path
from ..report.memory_heat_map import heat_map_lengths, write_heat_map
from ..report.memory_parts import LENGTH, ROWS
from ..report.memory_plots import write_bar
from ..report.memory_table import print_memory_report, print_probe
from ..report.pictures import check_picture
from ..results import MemoryReport, ProbeResult
from .console import json_option, print_json, stdout, working

_MICRO_BATCHES = (1, 2, 4, 8, 16)
_picture = click.Path(dir_okay=False, path_type=Path)


class _Machine(TypedDict):
    """The options that say what the task should fit into."""

    gpu: str | None
    memory_limit_gib: float | None


@click.command("estimate")
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--model", required=True, help="Catalogue name, directory with a config.json, or Hub id.")
@click.option(
    "--gpu", help="Such as t4, 4090, a100-80gb, h100, or cpu. Without it: the GPU of this machine, if it has one."
)
@click.option(
    "--memory-limit-gib",
    type=click.FloatRange(0.5, 4096),
    help="Memory that is free, for a GPU by its size or one that others use too.",
)
@click.option(
    "--task",
    type=click.Choice(["training", "full", "inference", "merging"]),
    default="training",
    show_default=True,
    help="full: fine-tuning of all weights, to compare with.",
)
@click.option("--plot", type=_picture, help="Write the parts against the GPU as a bar (PNG).")
@click.option("--heat-map", type=_picture, help="Write the memory of other lengths and micro-batches (PNG).")
@click.option("--probe", is_flag=True, help="Run a real step on this machine too, and show predicted beside measured.")
@json_option
def command(
    model: str,
    task: Any,
    settings: tuple[str, ...],
    plot: Path | None,
    heat_map: Path | None,
    probe: bool,
    as_json: bool,
    **machine: Unpack[_Machine],
) -> int:
    """Estimate the peak memory of a task on a model: its parts, how sure it is, and whether it fits a GPU.

    Takes a second: no weights are read or downloaded, and no GPU is needed.

    \b
      qlora estimate --model llama-3.1-8b-instruct --gpu 4090
      qlora estimate --model qwen3-14b --gpu t4 max_length_tokens=4096 rank=64
      qlora estimate --model ./my-model --memory-limit-gib 20 --plot bar.png --heat-map map.png
      qlora estimate --model qwen3-0.6b --probe

    NAME=VALUE sets a field of the run config beside its defaults: micro_batch_size=4, gradient_checkpointing=false,
    quantization.kind=none. `qlora config schema` lists them all. With --task inference, max_length_tokens is prompt and
    answer together and micro_batch_size counts prompts at once.

    Exit codes: 0 it fits or no GPU was named or found, 3 it does not fit for sure, 2 wrong usage, 4 see the message.
    """
    given = settings_from_pairs(settings)
    pictures = _pictures(plot, heat_map, task)
    estimate = partial(Target.named_or_here(**machine, task=task).estimate, model, task=task)
    report = estimate(settings=given)
    if plot is not None:
        write_bar(pictures["plot"], report, given)
    if heat_map is not None:
        needed = _needed(estimate, given, heat_map_lengths(find_model(model).shape.max_length))
        write_heat_map(pictures["heat_map"], report, given, needed)
    measured = _probe(model, given, task) if probe else None
    _show(report, given, list(pictures.values()), measured, as_json=as_json)
    return 3 if report.fits is False else 0


def _pictures(plot: Path | None, heat_map: Path | None, task: str) -> dict[str, Path]:
    """Where pictures go, checked before any work is done."""
    if heat_map is not None and task == "merging":
        raise UsageError(
            "--heat-map shows row lengths and micro-batches, and merging has neither.",
            next_step="Leave --heat-map out, or choose another --task.",
        )
    asked = {"plot": plot, "heat_map": heat_map}
    paths = {name: as_path(str(path)) for name, path in asked.items() if path is not None}
    for path in paths.values():
        check_picture(path)
    if len(set(paths.values())) < len(paths):
        raise UsageError("--plot and --heat-map name the same file.", next_step="Give each picture a file of its own.")
    return paths


def _needed(
    estimate: Callable[..., MemoryReport], settings: Mapping[str, Any], lengths: tuple[int, ...]
) -> dict[tuple[int, int], int]:
    """Bytes needed to be sure, by row length and micro-batch."""
    cells = [(length, rows) for length in lengths for rows in _MICRO_BATCHES]
    return {
        (length, rows): estimate(settings={**settings, LENGTH: length, ROWS: rows}).needed_bytes
        for length, rows in cells
    }


def _probe(model: str, settings: Mapping[str, Any], task: str) -> ProbeResult:
    if task != "training":
        raise UsageError("--probe measures training only.", next_step="Leave --task out.")
    known = find_model(model)
    with working("a probe") as listener:
        listener(RunEvent("phase", f"Building {known.name} with random weights and training two steps"))
        from ..engine.probe import probe

        return probe(config_with(settings, model=model), known.config, known.name)


def _show(
    report: MemoryReport,
    settings: Mapping[str, Any],
    pictures: list[Path],
    probe: ProbeResult | None,
    *,
    as_json: bool,
) -> None:
    if as_json:
        measured = {} if probe is None else {"probe": probe.model_dump(mode="json")}
        print_json({**report.model_dump(mode="json"), "plots": [str(path) for path in pictures], **measured})
        return
    print_memory_report(stdout(), report, settings)
    if probe is not None:
        print_probe(stdout(), probe)
    for path in pictures:
        click.echo(f"Picture: {path}")
