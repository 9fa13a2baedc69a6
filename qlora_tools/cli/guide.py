"""`qlora guide`."""

import click

from ..guide import read_topic, topics
from .console import json_option, print_json


@click.command("guide")
@click.argument("topic", required=False)
@json_option
def command(topic: str | None, as_json: bool) -> None:
    """Print the reference text TOPIC; without one, list the topics."""
    if topic is not None:
        text = read_topic(topic)
        print_json({"topic": topic, "markdown": text}) if as_json else click.echo(text)
        return
    found = topics()
    if as_json:
        print_json({"topics": found})
        return
    width = max(map(len, found))
    for name, summary in found.items():
        click.echo(f"{name:{width}}  {summary}")
