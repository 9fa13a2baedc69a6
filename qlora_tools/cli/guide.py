"""`qlora guide`."""

import click

from ..guide import find_topic, read_topic, topics
from .console import json_option, print_json


@click.command("guide")
@click.argument("topic", required=False)
@json_option
def command(topic: str | None, as_json: bool) -> None:
    """Print the reference text TOPIC; without one, list the topics, each with a line on what it holds.

    A word for what a topic holds is understood too: nf4, packing, oom, merge, gguf.
    """
    if topic is not None:
        name = find_topic(topic)
        text = read_topic(name)
        print_json({"topic": name, "markdown": text}) if as_json else click.echo(text)
        return
    found = topics()
    if as_json:
        print_json({"topics": found})
        return
    width = max(map(len, found))
    for name, summary in found.items():
        click.echo(f"{name:{width}}  {summary}")
    click.echo("\nRead one: qlora guide TOPIC. Start with `qlora`, which names the command and tool of each part.")
