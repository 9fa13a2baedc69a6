"""`qlora serve`."""

from pathlib import Path
from typing import TypedDict, Unpack

import click

from ..results import ServingPlan
from .adapter_source import directory_of
from .console import json_option, print_json
from .job_screen import workspace_option


class _Server(TypedDict):
    """Which server, and where it listens."""

    server: str
    host: str
    port: int
    extra: tuple[str, ...]


@click.command("serve", context_settings={"allow_interspersed_args": True})
@click.argument("source", metavar="SOURCE")
@click.argument("extra", nargs=-1, metavar="[-- SERVER OPTIONS]")
@click.option(
    "--with",
    "server",
    type=click.Choice(["auto", "transformers", "vllm"]),
    default="auto",
    show_default=True,
    help="auto: vLLM where it is installed and takes the model, else `transformers serve`.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where it listens; others than this machine are told."
)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Its port.")
@click.option("--dry-run", is_flag=True, help="Only show the command and the checks.")
@workspace_option
@json_option
def command(source: str, dry_run: bool, workspace: Path | None, as_json: bool, **server: Unpack[_Server]) -> None:
    """Serve SOURCE with the OpenAI-compatible server that is installed here: the right arguments, checked first.

    SOURCE is the output directory of a run, the id of a job, an adapter, or a merged model. This process becomes the
    server; Ctrl-C ends it. What stands after -- goes to the server as it is.

    \b
      qlora serve out
      qlora serve out --with vllm --dry-run
      qlora serve merged --port 8080 -- --log-level info
    """
    from ..serving import plan_serving, serve

    directory = directory_of(source, workspace)
    if dry_run:
        _show(plan_serving(directory, **server), as_json)  # type: ignore[arg-type]
        return
    serve(directory, **server, on_plan=lambda plan: _show(plan, as_json))  # type: ignore[arg-type]


def _show(plan: ServingPlan, as_json: bool) -> None:
    if as_json:
        print_json(plan.model_dump(mode="json"))
        return
    import shlex

    click.echo(f"{plan.server} {plan.version}, {plan.base}: {shlex.join(plan.command)}")
    for check in plan.checks:
        click.echo(f"{'✓' if check.passed else '✗'} {check.name}: {check.message}")
        if check.next_step:
            click.echo(f"  → {check.next_step}")
    for note in plan.notes:
        click.echo(f"! {note}")
    click.echo(
        f"\nIt answers at {plan.url} as the model {plan.model}, when it has loaded:\n  {plan.curl}\n\n{plan.python}"
    )
