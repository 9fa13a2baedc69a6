"""`qlora script`: a config as a script, and what is wrong in somebody's script."""

from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from ..config.files import parse_config_text
from ..errors import UsageError
from ..foreign.files import text_of_file
from ..results import LintResult, ScriptExplanation, ScriptLines, ScriptResult
from ..untrusted import visible_text
from .console import json_option, print_json, stderr, stdout

_FAILED = 3
_COLORS = {"error": "red", "warning": "yellow", "note": "dim"}


class _ScriptCommand(click.Command):
    """The first word is a config file, or `lint`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the command that the first word means."""
        if args[:1] == ["lint"]:
            return lint.make_context("script lint", args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)


@click.command("script", cls=_ScriptCommand)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--kind", default="train", show_default=True, help="What to make; see above.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File for the script, such as train.py.")
@click.option("--adapter", type=click.Path(path_type=Path), help="Adapter of inference, merge and evaluate.")
@click.option("--overwrite", is_flag=True, help="Replace the file of -o where it exists.")
@json_option
def command(file: Path, settings: tuple[str, ...], kind: str, as_json: bool, **options: Any) -> None:
    """Write the config FILE as a script in plain Transformers, PEFT and TRL, which runs without this package.

    \b
      qlora script run.yaml -o train.py                    train; then: python train.py --dry-run
      qlora script run.yaml --kind inference -o ask.py     answer with the adapter that it trains
      qlora script run.yaml --kind slurm -o train.sbatch gpus=4 hours=12
      qlora config explain run.yaml --script --line 90     why does line 90 stand there?
      qlora script lint somebodys_train.py                 what is stale or wrong in a script?

    \b
    Kinds:
      train, notebook                 the training, as a file or in cells
      inference, merge, evaluate      of the adapter: answers, one merged model, held-out rows
      accelerate, fsdp                for accelerate launch: several GPUs, each whole or shared out
      slurm, skypilot, dockerfile     a cluster, a cloud, a container

    The script goes to stdout or to the file of -o, notes to stderr. NAME=VALUE are settings of the kind. Every name and
    argument in it is looked up in the installed libraries first.

    Exit codes: 0 written, 2 wrong config, kind, setting or file, 4 an installed library lacks a name, or the disk refuses.
    """
    from ..scripts.render import render_script

    result = render_script(file, kind=kind, settings=_settings(settings), **options)
    if as_json:
        print_json(result.as_document())
        return
    if result.path is None:
        click.echo(result.text, nl=False)
    _print_account(result)


@click.command("lint")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def lint(file: Path, as_json: bool) -> int:
    """Find what is stale or wrong in the training script or notebook FILE, with the mending. Nothing of it is run.

    Exit codes: 0 no errors (warnings and notes are shown), 2 FILE is no Python, 3 errors.
    """
    from ..foreign import lint_script

    result = lint_script(text_of_file(file, name=str(file)), name=file.name)
    if as_json:
        print_json(result.as_document())
    else:
        _print_findings(result)
    return _FAILED if result.errors else 0


def show_explanation(config: Path, *, script: Path | None, kind: str, line: int | None, as_json: bool) -> None:
    """What the lines of the script of `config` are there for, as `qlora config explain --script` prints it."""
    from ..scripts.changed import explain_script

    found = explain_script(config, script=script, kind=kind, line=line)
    if as_json:
        print_json(found.as_document())
    elif line is not None:
        _print_line(found)
    else:
        _print_explanation(found)


def _print_account(result: ScriptResult) -> None:
    console = stderr()
    told = [f"Written to {', '.join([result.path, *result.files])}."] if result.path else []
    if result.checked:
        versions = ", ".join(f"{name} {version}" for name, version in result.checked.items())
        told.append(f"Every name in it exists in {versions}.")
    for words in (*told, *result.unchecked, *result.notes):
        console.print(Text(visible_text(words)), soft_wrap=True)
    console.print(Text(f"  → {visible_text(result.next_step)}", style="cyan"), soft_wrap=True)


def _print_findings(result: LintResult) -> None:
    console = stdout()
    if result.findings:
        table = Table("where", "what is wrong", "why it matters", "mending")
        for item in result.findings:
            about = Text(f"{item.severity} {item.rule}\n", style=_COLORS[item.severity]) + Text(visible_text(item.what))
            table.add_row(visible_text(item.where), about, visible_text(item.why), visible_text(item.fix))
        console.print(table)
    counts = f"{result.errors} errors, {result.warnings} warnings, {result.notes} notes"
    console.print(Text(visible_text(f"{result.name}: {counts}.")), soft_wrap=True)
    for words in result.not_checked:
        console.print(Text(visible_text(f"Not checked: {words}"), style="dim"), soft_wrap=True)
    console.print(Text(f"  → {visible_text(result.next_step)}", style="cyan"), soft_wrap=True)


def _print_explanation(found: ScriptExplanation) -> None:
    console = stdout()
    table = Table.grid(padding=(0, 2))
    for item in found.lines:
        head, *told = _about(item)
        table.add_row(_lines(item.first, item.last), Text(visible_text(head), style="bold"))
        for words in told:
            table.add_row("", visible_text(words))
    console.print(table)
    _print_changes(found)
    for words in found.notes:
        console.print(Text(visible_text(words), style="dim"), soft_wrap=True)


def _print_line(found: ScriptExplanation) -> None:
    console = stdout()
    console.print(Text(visible_text(f"{found.line}: {found.text}"), style="bold"), soft_wrap=True)
    for item in found.lines:
        head, *told = _about(item)
        console.print(Text(visible_text(f"{head} (lines {_lines(item.first, item.last)})")), soft_wrap=True)
        for words in told:
            console.print(Text(visible_text(f"  {words}")), soft_wrap=True)
    _print_changes(found)
    if not found.lines and not found.changed:
        console.print("A blank line.")


def _about(item: ScriptLines) -> list[str]:
    value = "" if item.value is None else f" = {item.value}"
    told = [
        f"{item.title}{value}",
        f"why: {item.reason} ({item.source})",
        f"otherwise: {item.effect}",
    ]
    return told + ([f"memory: {item.memory}"] if item.memory else [])


def _print_changes(found: ScriptExplanation) -> None:
    console = stdout()
    for item in found.changed:
        about = f", for {', '.join(item.about)}" if item.about else ""
        console.print(Text(_change(item.first, item.last, rendered=bool(item.rendered)) + about, style="yellow"))
        for line in item.rendered:
            console.print(Text(f"  rendered: {visible_text(line)}"), soft_wrap=True)


def _change(first: int, last: int, *, rendered: bool) -> str:
    if last < first:
        return f"Before line {first}, lines were taken out"
    what = "not as rendered" if rendered else "new"
    return f"Line {first} is {what}" if first == last else f"Lines {first}-{last} are {what}"


def _lines(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE as a mapping; values are read as a config's are."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name or "\n" in pair or name in found:
            what = "is given twice" if name in found else "is no setting of the form name=value"
            raise UsageError(f"{pair!r} {what}.", next_step="Write each setting once, such as gpus=4.")
        found[name] = parse_config_text(f"value: {value}", source=pair)["value"]
    return found
