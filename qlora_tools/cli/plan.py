"""`qlora plan`."""

from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import click

from ..config.overrides import settings_from_pairs
from ..disk import disk_errors
from ..errors import UsageError
from ..paths import as_path
from ..planning import (
    GOALS,
    Comparison,
    Plan,
    commented_yaml,
    compare_strategies,
    create_config,
    largest_models,
    target_hardware,
)
from ..planning.documents import comparison_document, largest_document, plan_document
from ..planning.tables import print_comparison, print_largest, print_plan
from .console import json_option, print_json, stderr, stdout

_NOT_FITTING = 3


class _Job(TypedDict):
    """The options that say what is planned, and for which machine."""

    model: str | None
    data: str | None
    gpu: str | None
    memory_limit_gib: float | None
    goal: Any
    output: str | None
    rows_per_step: int


@click.command("plan")
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--model", help="Catalogue name, directory, or Hub id.")
@click.option("--data", help="Training rows: a .jsonl, .json, .csv, .tsv, .parquet or .txt file.")
@click.option("--gpu", help="Such as t4, 4090, a100-80gb, h100, or cpu. Without it: the GPU of this machine.")
@click.option(
    "--memory-limit-gib",
    type=click.FloatRange(0.5, 4096),
    help="Memory that is free, for a GPU by its size or one that others use too.",
)
@click.option(
    "--goal",
    type=click.Choice(GOALS),
    default="instructions",
    show_default=True,
    help="style: style or a domain; instructions: following instructions; hard: hard tasks.",
)
@click.option("--rows-per-step", type=click.IntRange(1, 4096), default=16, show_default=True, help="Effective batch.")
@click.option("--output", help="output.directory of the config.  [default: runs/MODEL-DATA]")
@click.option("-o", "--write", "target", type=click.Path(path_type=Path), help="File for the config, such as run.yaml.")
@click.option("--compare", "mode", flag_value="compare", help="Compare QLoRA, 16-bit LoRA and a larger model instead.")
@click.option("--largest", "mode", flag_value="largest", help="List the largest models that the GPU takes instead.")
@json_option
def command(
    settings: tuple[str, ...],
    target: Path | None,
    mode: Literal["compare", "largest"] | None,
    as_json: bool,
    **job: Unpack[_Job],
) -> int:
    """Plan a run that fits: a config with the reason, the source and the effect of each value.

    \b
      qlora plan --model llama-3.1-8b-instruct --data rows.jsonl --gpu 4090 -o run.yaml
      qlora plan --model qwen3-14b --data rows.jsonl --gpu t4 rank=64 max_length_tokens=2048
      qlora plan --model llama-3.1-8b-instruct --data rows.jsonl --gpu 4090 --compare
      qlora plan --gpu 4090 --largest

    NAME=VALUE sets a field of the config, which the plan keeps and works around. Where the run does not fit, the plan gives
    up as little as it can, in the order of what it costs the result, and says what each step saves.

    Exit codes: 0 it fits, 3 it does not fit whatever is given up, 2 wrong usage, config, data or model, 4 see the message.
    """
    given = settings_from_pairs(settings)
    if target is not None:
        _check_target(target, mode)
    if mode == "largest":
        _refuse_jobs(job)
        return _largest(job, given, as_json=as_json)
    if mode == "compare":
        return _compare(job, given, as_json=as_json)
    with stderr().status("Counting tokens and looking for what fits ..."):
        plan = create_config(
            _required(job["model"], "--model"),
            _required(job["data"], "--data"),
            gpu=job["gpu"],
            memory_limit_gib=job["memory_limit_gib"],
            goal=job["goal"],
            output=job["output"],
            settings=given,
            rows_per_step=job["rows_per_step"],
        )
    if target is not None:
        _write(plan, target)
    _show(plan, target, as_json=as_json)
    return 0 if plan.fits else _NOT_FITTING


def _refuse_jobs(job: _Job) -> None:
    named = [name for name in ("model", "data", "output") if job[name] is not None]  # type: ignore[literal-required]
    if named:
        raise UsageError(
            f"--largest lists the models that a GPU takes, and --{named[0]} has no part in that.",
            next_step=f"Leave out --{named[0]}, or leave out --largest.",
        )


def _required(value: str | None, option: str) -> str:
    if value is None:
        raise UsageError(f"A plan needs {option}.", next_step="Run `qlora plan --help`.")
    return value


def _check_target(target: Path, mode: str | None) -> None:
    """Refuse a file that cannot be written before any work is done."""
    if mode is not None:
        raise UsageError(
            f"--{mode} makes no config to write.", next_step="Leave out -o, or leave out the other option."
        )
    path = as_path(str(target))
    if path.exists() or path.is_symlink():
        raise UsageError(f"{target} exists; it is not replaced.", next_step="Choose another -o, or remove it first.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no directory {path.parent}.", next_step="Make it, or choose another -o.")


def _write(plan: Plan, target: Path) -> None:
    with (
        disk_errors(target.parent, left="nothing was written"),
        as_path(str(target)).open("x", encoding="utf-8") as file,
    ):
        file.write(commented_yaml(plan))


def _show(plan: Plan, target: Path | None, *, as_json: bool) -> None:
    if as_json:
        print_json({**plan_document(plan), "written_to": str(target) if target else None})
        return
    print_plan(stdout(), plan)
    if target is not None:
        click.echo(f"Config: {target}")


def _largest(job: _Job, settings: dict[str, Any], *, as_json: bool) -> int:
    hardware = target_hardware(job["gpu"], job["memory_limit_gib"])
    models = largest_models(hardware, settings)
    if as_json:
        print_json(largest_document(hardware, models))
    else:
        print_largest(stdout(), hardware, models)
    return 0 if models else _NOT_FITTING


def _compare(job: _Job, settings: dict[str, Any], *, as_json: bool) -> int:
    hardware = target_hardware(job["gpu"], job["memory_limit_gib"])
    with stderr().status("Counting tokens and looking for what fits ..."):
        found: Comparison = compare_strategies(
            _required(job["model"], "--model"), gpu=hardware, data=job["data"], settings=settings
        )
    if as_json:
        print_json(comparison_document(found))
    else:
        print_comparison(stdout(), found)
    here = [way for way in found.strategies if way.gpu == hardware.name]
    return 0 if any(way.fits for way in here) else _NOT_FITTING
