"""`qlora train`."""

from pathlib import Path

import click

from ..config import load_config
from ..results import RowCounts, TrainResult
from .console import json_option, print_json, working


@click.command("train")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def command(file: Path, as_json: bool) -> None:
    """Train an adapter as the run config FILE (YAML or JSON) says, in the foreground.

    Writes adapter/, config.yaml, metrics.jsonl and result.json into output.directory. The shortest config:

    \b
      model: {name: smollm2-135m-instruct}
      data: {path: rows.jsonl}
      output: {directory: out}
    """
    config = load_config(file)
    with working("training") as listener:
        from ..engine.train import train

        result = train(config, on_event=listener)
    print_json(result.model_dump(mode="json")) if as_json else _show(result)


def _show(result: TrainResult) -> None:
    rows = result.training_rows
    click.echo(
        f"Trained {result.steps} steps in {result.train_seconds:.0f} s ({result.tokens_per_second:,.0f} tokens/s)."
    )
    if result.losses:
        click.echo(f"Loss {result.losses[0]:.4f} -> {result.losses[-1]:.4f}{_evaluation(result)}")
    click.echo(f"Rows: {rows.used:,} of {rows.read:,} used{_left_out(rows)}")
    click.echo(f"Engine: {result.engine} ({result.engine_reason}); packing: {result.packing}; {result.device}")
    click.echo(
        f"Peak memory: {result.peak_allocated_bytes / 2**30:.2f} GiB allocated, "
        f"{result.peak_reserved_bytes / 2**30:.2f} GiB reserved"
    )
    click.echo(f"Adapter: {result.adapter_directory}")
    click.echo(f'Next: qlora generate {result.output_directory} -p "..."')


def _evaluation(result: TrainResult) -> str:
    if not result.evaluation_losses:
        return ""
    last = list(result.evaluation_losses.values())[-1]
    early = ", stopped early" if result.stopped_early else ""
    return f"; held out {last:.4f}, saved the adapter of step {result.saved_step}{early}"


def _left_out(rows: RowCounts) -> str:
    reasons = (
        (rows.cut, "cut"),
        (rows.dropped_long, "too long"),
        (rows.dropped_nothing_to_learn, "with nothing to learn"),
        (rows.dropped_unusable, "that cannot be used"),
    )
    said = [f"{count:,} {reason}" for count, reason in reasons if count]
    return f" ({', '.join(said)})" if said else ""
