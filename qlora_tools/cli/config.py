"""`qlora config`: schema, validate, explain."""

from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from ..config import config_schema, explain_config, load_config
from .console import json_option, print_json, stdout

_file = click.argument("file", type=click.Path(path_type=Path))


@click.group("config")
def command() -> None:
    """Read, check and explain run configs (YAML or JSON)."""


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
@json_option
def explain(file: Path, as_json: bool) -> None:
    """Show every value of FILE: whether it is the default, what it does, and who reads it."""
    explanations = explain_config(load_config(file))
    if as_json:
        print_json({"file": str(file), "fields": [asdict(item) for item in explanations]})
        return
    table = Table("field", "value", "what it does and which way it moves quality and memory", "read by")
    for item in explanations:
        value = str(item.value) + (" (default)" if item.is_default else "")
        table.add_row(item.field, value, item.meaning, item.passed_to, style="dim" if item.is_default else "")
    stdout().print(table)
