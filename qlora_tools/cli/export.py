"""`qlora export`."""

from pathlib import Path
from typing import Any, TypedDict, Unpack

import click

from ..errors import UsageError
from ..paths import as_path
from ..results import ExportResult, PushResult
from .adapter_source import directory_of
from .console import json_option, print_json, watching
from .detach import DetachOptions, start_detached
from .job_screen import workspace_option


class _Asked(TypedDict):
    """What is exported, and how it is called."""

    to: str
    output: Path
    name: str | None
    base_name: str | None
    dtype: str | None


class _Push(TypedDict):
    """Where it is uploaded."""

    push: str | None
    private: bool
    yes: bool


class _Job(TypedDict):
    """Whether a job does it."""

    detach: bool
    idempotency_key: str | None


class _Options(_Asked, _Push, _Job):
    """All options of the command."""


@click.command("export")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--to",
    required=True,
    type=click.Choice(["adapter", "vllm", "gguf", "ollama"]),
    help="adapter: for PEFT, by itself. vllm: that, with the command. gguf: for llama.cpp. ollama: that, with a Modelfile.",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Directory to make; must not exist."
)
@click.option("--name", help="Name of the model there.  [default: the source's]")
@click.option(
    "--base-name", help="What the base is on the Hub, OWNER/NAME or OWNER/NAME@REVISION, where it is not known."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "f16", "bf16", "f32", "q8_0"]),
    help="Of the weights: float32 or bfloat16 of an adapter (else as stored), the others of GGUF (else f16).",
)
@click.option("--push", metavar="OWNER/NAME", help="Upload it to the Hub; without --yes only shown. Needs HF_TOKEN.")
@click.option("--private/--public", default=True, show_default=True, help="Who sees what is pushed.")
@click.option("--yes", is_flag=True, help="Really upload.")
@click.option("--detach", is_flag=True, help="Start it as a job and return at once.")
@click.option("--idempotency-key", help="With --detach, any text: the same with the same arguments starts one job.")
@workspace_option
@json_option
def command(source: str, workspace: Path | None, as_json: bool, **options: Unpack[_Options]) -> int:
    """Make a directory that other tools load, with a model card: an adapter package, GGUF, Ollama, vLLM.

    SOURCE is the output directory of a run, the id of a job, an adapter, or (for gguf and ollama) a merged model. For
    gguf and ollama an adapter is merged first, and the merge is checked.

    \b
      qlora export out --to adapter -o package
      qlora export out --to ollama -o tickets --dtype q8_0
      qlora export out --to adapter -o package --push me/tickets        shows what would be uploaded
    """
    from ..exporting import export, push
    from ..exporting.push import check_push

    repository, private, yes = options["push"], options["private"], options["yes"]
    asked: dict[str, Any] = {key: options[key] for key in _Asked.__annotations__}  # type: ignore[literal-required]
    if yes and repository is None:
        raise UsageError("--yes uploads, and there is no --push that says where.", next_step="Add --push OWNER/NAME.")
    if repository is not None:
        check_push(repository, dry_run=not yes)
    found = directory_of(source, workspace)
    if options["detach"]:
        return _detached(found, asked, options, workspace, as_json=as_json)
    with watching() as listener:
        made = export(found, on_event=listener, **asked)
        pushed = repository and push(made.directory, repository, private=private, dry_run=not yes, on_event=listener)
    if as_json:
        print_json({**made.model_dump(mode="json"), "push": pushed and pushed.model_dump(mode="json")})
        return 0
    _show(made)
    if pushed:
        _show_push(pushed)
    return 0


def _detached(found: Path, asked: dict[str, Any], options: _Options, workspace: Path | None, *, as_json: bool) -> int:
    if options["push"] is not None:
        raise UsageError("A job does not upload.", next_step="Leave --push out, and push what it made afterwards.")
    arguments = {**asked, "source": str(found), "output": str(as_path(str(asked["output"])))}
    detached = DetachOptions(
        detach=True, name=options["name"], idempotency_key=options["idempotency_key"], workspace=workspace
    )
    return start_detached("export", arguments, detached, as_json=as_json)


def _show(made: ExportResult) -> None:
    click.echo(f"Exported to {made.directory} ({made.to}, {made.size_bytes / 1e6:,.1f} MB): {made.name}")
    for file in made.files:
        click.echo(f"  {file.name}  {file.size_bytes:,}")
    if made.parity:
        click.echo(
            f"The merge was checked: {100 * made.parity.clear_agreement:.2f} % of tokens with a clear lead agree"
        )
    for note in made.notes:
        click.echo(f"! {note}")
    click.echo(f"Read {made.directory}/README.md and write what it is for.")


def _show_push(pushed: PushResult) -> None:
    visible = "private" if pushed.private else "public"
    if pushed.pushed:
        click.echo(f"Uploaded to {pushed.repository} ({visible}): {pushed.url}")
        return
    size = f"{len(pushed.files)} files, {pushed.size_bytes / 1e6:,.1f} MB"
    click.echo(f"Nothing was uploaded. With --yes it would be: {size}, to {pushed.repository} ({visible}).")
    for lack in [*pushed.missing, *pushed.notes]:
        click.echo(f"! {lack}")
