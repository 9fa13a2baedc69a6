"""`qlora merge`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict, Unpack, get_args

import click

from ..errors import UsageError
from ..jobs.reading import adapter_of
from ..merging import MergeBase, MergeDtype
from ..results import MergeResult, ParityResult
from .console import json_option, print_json, working
from .detach import DetachOptions, detach_options, start_detached


class _Options(TypedDict):
    """How it is merged."""

    base: MergeBase
    base_model: str | None
    dtype: MergeDtype
    check: bool


class _All(_Options, DetachOptions):
    """All options but the adapters and where to."""


@click.command("merge")
@click.argument("adapter")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Directory to make; must not exist."
)
@click.option("--also", multiple=True, metavar="ADAPTER=WEIGHT", help="Another adapter of the same base; several.")
@click.option("--weight", type=float, default=1.0, show_default=True, help="Of ADAPTER; 1 is what was trained.")
@click.option(
    "--base",
    type=click.Choice(get_args(MergeBase)),
    default="trained",
    show_default=True,
    help="trained: the (dequantised) weights that the adapter saw, so answers stay. original: the published weights. "
    "nf4, fp4, int8: the base dequantised from that kind, for adapters that do not tell.",
)
@click.option("--base-model", help="Directory or Hub id of the base, where it is not where it was.")
@click.option(
    "--dtype", type=click.Choice(get_args(MergeDtype)), default="bfloat16", show_default=True, help="Of the result."
)
@click.option("--check/--no-check", default=True, show_default=True, help="Compare answers before and after.")
@detach_options
@json_option
def command(
    adapter: str, output: Path, also: tuple[str, ...], weight: float, as_json: bool, **options: Unpack[_All]
) -> int:
    """Merge ADAPTER (a run's output directory, an adapter directory or a job) into one plain model directory.

    \b
      qlora merge out -o out-merged
      qlora merge out -o out-original --base original
      qlora merge style -o both --weight 0.7 --also facts=0.5

    It works from file to file and holds no model in memory; one that was cut off goes on when it is started again. The
    merged model is compared with base plus adapter; one that answers differently is not written (exit code 3).
    """
    workspace = options["workspace"]
    chosen = {name: options[name] for name in _Options.__annotations__}  # type: ignore[literal-required]
    arguments = {"adapter": _adapters(adapter, also, weight, workspace), "output": str(output), **chosen}
    if options["detach"]:
        return start_detached("merge", arguments, options, as_json=as_json)
    from ..exporting import merge_with_card

    with working("merging") as listener:
        result = merge_with_card(**arguments, on_event=listener)
    print_json(result.model_dump(mode="json")) if as_json else _show(result)
    return 0


def _adapters(adapter: str, also: tuple[str, ...], weight: float, workspace: Path | None) -> str | dict[str, float]:
    if not also and weight == 1:
        return _directory(adapter, workspace)
    weights = {_directory(adapter, workspace): weight}
    for other, value in (_weighted(text) for text in also):
        directory = _directory(other, workspace)
        if directory in weights:
            raise UsageError(f"The adapter {directory} is named twice.", next_step="Give it one weight.")
        weights[directory] = value
    return weights


def _directory(adapter: str, workspace: Path | None) -> str:
    return str(adapter_of(adapter, workspace=workspace) or adapter)


def _weighted(text: str) -> tuple[str, float]:
    adapter, _, number = text.rpartition("=")
    try:
        return adapter, float(number)
    except ValueError:
        raise UsageError(
            f"--also {text[:80]!a} has no weight.", next_step="Write ADAPTER=WEIGHT, such as --also facts=0.5"
        ) from None


def _show(result: MergeResult) -> None:
    for line in _lines(result):
        click.echo(line)


def _lines(result: MergeResult) -> Iterator[str]:
    files = f"{result.shards} files" if result.shards > 1 else "one file"
    yield f"Merged model ({result.dtype}, {result.size_bytes / 1e9:.2f} GB, {files}) in {result.directory}"
    if result.untied:
        yield "Head and embedding were one tensor and are two now: one of them was adapted."
    if result.parity:
        yield f"Parity with base plus adapter: {_agreement(result.parity)}"
    difference = result.base_difference
    if difference and difference.weights_relative is not None:
        yield f"The dequantised base is {100 * difference.weights_relative:.1f} % (Frobenius) off the original weights."
    if difference and difference.answers:
        yield f"Against the base that was trained on: {_agreement(difference.answers)}"
    yield f"Next: qlora export {result.directory} --to gguf -o DIR, or qlora serve {result.directory}"


def _agreement(parity: ParityResult) -> str:
    return (
        f"{parity.same_answers} of {parity.prompts} answers equal, top-1 agreement {100 * parity.top1_agreement:.2f} % "
        f"({100 * parity.clear_agreement:.2f} % where the lead is clear), "
        f"mean KL {parity.mean_kl:.1e} nats ({parity.method})"
    )
