"""`qlora config`: schema, validate, explain, compare, and import of other tools' recipes."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..config import config_schema, explain_config, load_config
from ..config.overrides import settings_from_pairs
from ..disk import disk_errors
from ..errors import UsageError
from ..foreign.files import text_of_file
from ..paths import as_path
from ..results import CarriedValue, ConfigDifference, ConfigFigures, ImportedConfig
from ..untrusted import visible_text
from .console import json_option, print_json, stderr, stdout

_GIB = 2**30

_file = click.argument("file", type=click.Path(path_type=Path))


@click.group("config")
def command() -> None:
    """Read, check, explain, compare and import run configs (YAML or JSON)."""


@command.command()
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of a run config: every field, its type, bounds, default and effect."""
    print_json(config_schema())


@command.command()
@_file
@json_option
def validate(file: Path, as_json: bool) -> None:
    """Check FILE; all problems are reported at once (exit code 2)."""
    config = load_config(file)
    if as_json:
        print_json({"valid": True, "file": str(file), "config": config.model_dump(mode="json")})
    else:
        click.echo(
            f"{file} is valid: model {config.model.name}, data {config.data.path}, output {config.output.directory}."
        )


@command.command()
@_file
@click.option(
    "--script",
    is_flag=False,
    flag_value="",
    metavar="[PATH]",
    help="Explain the lines of its script; with PATH, of that script, which may have been changed.",
)
@click.option("--kind", default="train", show_default=True, help="The kind of that script, as of qlora script.")
@click.option("--line", type=click.IntRange(min=1), help="Explain this line of the script alone.")
@json_option
def explain(file: Path, script: str | None, kind: str, line: int | None, as_json: bool) -> None:
    """Show every value of FILE: whether it is the default, what it does, and who reads it.

    \b
      qlora config explain run.yaml
      qlora config explain run.yaml --script               every line of the script that qlora script writes
      qlora config explain run.yaml --script --line 90     why does line 90 stand there?
      qlora config explain run.yaml --script train.py      the same of a script that somebody changed
    """
    if script is not None or line is not None:
        from .script import show_explanation

        path = Path(script) if script else None
        show_explanation(file, script=path, kind=kind, line=line, as_json=as_json)
        return
    explanations = explain_config(load_config(file))
    if as_json:
        print_json({"file": str(file), "fields": [asdict(item) for item in explanations]})
        return
    table = Table("field", "value", "what it does and which way it moves quality and memory", "read by")
    for item in explanations:
        value = str(item.value) + (" (default)" if item.is_default else "")
        table.add_row(item.field, value, item.meaning, item.passed_to, style="dim" if item.is_default else "")
    stdout().print(table)


@command.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@json_option
def diff(before: Path, after: Path, as_json: bool) -> None:
    """Compare two configs: what changes, what it means for quality, memory and speed, and whether a run may go on with it."""
    from ..planning import compare_configs

    difference = compare_configs(load_config(before), load_config(after))
    if as_json:
        print_json(difference.as_document())
    else:
        _print_difference(difference)


@command.command("import")
@_file
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
@click.option(
    "--kind", type=click.Choice(["auto", "script", "axolotl", "llamafactory"]), default="auto", help="What FILE is."
)
@click.option("--data", help="data.path of the config, in place of the recipe's datasets.")
@click.option("--output", help="output.directory of the config.")
@click.option(
    "--dataset-info",
    type=click.Path(path_type=Path),
    help="LLaMA-Factory's dataset_info.json, which says what its names of datasets mean.",
)
@click.option("-o", "--write", "target", type=click.Path(path_type=Path), help="File for the config, such as run.yaml.")
@click.option("--replace", is_flag=True, help="Replace the file of -o where it exists.")
@json_option
def import_(file: Path, settings: tuple[str, ...], target: Path | None, as_json: bool, **options: Any) -> None:
    """Read a recipe of Axolotl or LLaMA-Factory, a training script or a notebook into a run config.

    \b
      qlora config import axolotl.yaml -o run.yaml
      qlora config import train.py --data rows.jsonl --output runs/tickets > run.yaml
      qlora config import llama3_lora_sft.yaml --dataset-info data/dataset_info.json -o run.yaml

    The config goes to stdout or to the file of -o; what was carried, changed and left out goes to stderr. Nothing of FILE is
    run. NAME=VALUE sets a field of the config in place of what the recipe says.

    Exit codes: 0 imported, 2 it is no such recipe, or does not say model, data or output.
    """
    from ..foreign.importing import import_config

    if target is not None:
        _check_target(target, replace=options["replace"])
    given = settings_from_pairs(settings)
    info = options["dataset_info"]
    imported = import_config(
        text_of_file(as_path(str(file)), name=str(file)),
        name=file.name,
        kind=options["kind"],
        output=options["output"],
        settings={**given, "data.path": options["data"]} if options["data"] else given,
        dataset_info=text_of_file(as_path(str(info)), name=str(info)) if info is not None else None,
    )
    if target is not None:
        with disk_errors(target.parent, left="nothing was written"):
            as_path(str(target)).write_text(imported.config_yaml, encoding="utf-8")
    if as_json:
        print_json({**imported.as_document(), "written_to": str(target) if target else None})
        return
    if target is None:
        click.echo(imported.config_yaml, nl=False)
    _print_account(imported, target)


def _check_target(target: Path, *, replace: bool) -> None:
    """Refuse a file that cannot be written before any work is done."""
    path = as_path(str(target))
    if path.is_dir() or ((path.exists() or path.is_symlink()) and not replace):
        raise UsageError(
            f"{target} exists; it is not replaced.", next_step="Choose another -o, or say --replace for a file."
        )
    if not path.parent.is_dir():
        raise UsageError(f"There is no directory {path.parent}.", next_step="Make it, or choose another -o.")


def _print_account(imported: ImportedConfig, target: Path | None) -> None:
    console = stderr()

    def say(text: str, style: str = "") -> None:
        console.print(Text(visible_text(text), style=style), soft_wrap=True)

    say(f"{imported.name} ({imported.kind}): {len(imported.carried)} values carried as they are.", "bold")
    _say_each(say, "Carried with another meaning:", (_changed(entry) for entry in imported.changed))
    _say_each(
        say,
        "Not carried:",
        (
            f"{entry.name} = {entry.value}: {entry.why}. {entry.what_to_do}"
            for entry in imported.not_carried
            if not entry.harmless
        ),
    )
    harmless = [entry.name for entry in imported.not_carried if entry.harmless]
    _say_each(say, "Not carried, and no loss:", [", ".join(harmless)] if harmless else [])
    _say_each(
        say,
        "Left out by the recipe, taken as its tool does:",
        (f"{entry.field} = {entry.taken} ({entry.of}; ours is {entry.our_default})" for entry in imported.missing),
    )
    _say_each(say, "Notes:", imported.notes)
    say(f"Written to {target}." if target else "")
    say(f"  → {imported.next_step}", "cyan")


def _say_each(say: Any, title: str, lines: Iterable[str]) -> None:
    listed = list(lines)
    if listed:
        say(title, "bold")
        for line in listed:
            say(f"  {line}")


def _changed(entry: CarriedValue) -> str:
    return f"{entry.name} = {entry.value} -> {entry.field} = {entry.our_value}: {entry.why}"


def _print_difference(difference: ConfigDifference) -> None:
    console = stdout()
    for change in difference.changes:
        after = f"{change.after} ({change.direction})" if change.direction != "other" else str(change.after)
        console.print(visible_text(f"{change.field}: {change.before} -> {after}"), style="bold", markup=False)
        # A table of these would cut names and break each sentence into a column of words.
        console.print(Padding(Text(change.effect), (0, 0, 0, 4)))
    for name, figures in (("before", difference.before), ("after", difference.after)):
        console.print(f"{name}: {_figures(figures)}")
    if difference.changes:
        console.print(
            "A checkpoint of the first goes on with the second."
            if difference.resumable
            else f"No checkpoint goes on with it: {visible_text('; '.join(difference.resume_problems))}.",
            markup=False,
        )
    for note in difference.notes:
        console.print(visible_text(note))
    console.print(f"  → {difference.next_step}")


def _figures(figures: ConfigFigures) -> str:
    peak = f"{figures.peak_bytes / _GIB:.2f} GiB at the peak" if figures.peak_bytes is not None else "peak not known"
    trained = f"{figures.trainable_parameters:,} parameters trained" if figures.trainable_parameters is not None else ""
    rows = (
        f"{figures.rows_per_step} rows a step" if figures.rows_per_step is not None else "rows a step by their lengths"
    )
    words = [peak, trained, rows, f"at most {figures.tokens_per_step_at_most:,} tokens a step"]
    return ", ".join(word for word in words if word)
