"""`qlora merge`."""

from pathlib import Path

import click

from .console import json_option, print_json, working


@click.command("merge")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Directory to make; must not exist."
)
@click.option(
    "--base",
    type=click.Choice(["trained", "original"]),
    default="trained",
    show_default=True,
    help="trained: the (dequantised) weights that the adapter saw, so answers stay. original: the 16-bit weights.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Of the result.",
)
@click.option("--check/--no-check", default=True, show_default=True, help="Compare answers before and after.")
@json_option
def command(adapter: Path, output: Path, base: str, dtype: str, check: bool, as_json: bool) -> None:
    """Merge ADAPTER (a training run's output directory) into one plain model directory.

    The merged model is compared with base plus adapter; one that answers differently is not written (exit code 3).
    """
    from ..merging import merge

    with working("merging") as listener:
        result = merge(
            adapter,
            output,
            base=base,  # type: ignore[arg-type]
            dtype=dtype,  # type: ignore[arg-type]
            check=check,
            on_event=listener,
        )
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    click.echo(f"Merged model ({result.dtype}, {result.size_bytes / 1e9:.2f} GB) in {result.directory}")
    if result.parity:
        parity = result.parity
        click.echo(
            f"Parity with base plus adapter: {parity.same_answers} of {parity.prompts} answers equal, "
            f"top-1 agreement {100 * parity.top1_agreement:.2f} %, mean KL {parity.mean_kl:.1e} nats"
        )
