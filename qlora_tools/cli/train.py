"""`qlora train`."""

from pathlib import Path

import click

from ..config import load_config
from ..jobs import JobStatus
from ..jobs.layout import TRAINING
from ..results import RowCounts, TrainResult
from .console import json_option, print_json
from .foreground import follow_to_end
from .job_screen import show_status, workspace_option


@click.command("train")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--detach", is_flag=True, help="Return at once; the run goes on by itself.")
@click.option("--name", help="What the job is called in lists. Otherwise as its output directory.")
@click.option("--idempotency-key", help="Any text: the same text with the same config starts one job only.")
@click.option("--dry-run", is_flag=True, help="Show what would be started, and write nothing.")
@workspace_option
@json_option
def command(
    file: Path,
    detach: bool,
    name: str | None,
    idempotency_key: str | None,
    dry_run: bool,
    workspace: Path | None,
    as_json: bool,
) -> int:
    """Train an adapter as the run config FILE (YAML or JSON) says.

    The run is a job: a process of its own, which outlives this command and waits for its turn where others run. This
    command shows it until it ends, or returns at once with --detach.

    Writes adapter/, config.yaml, metrics.jsonl and result.json into output.directory. The shortest config:

    \b
      model: {name: smollm2-135m-instruct}
      data: {path: rows.jsonl}
      output: {directory: out}

    Ctrl-C asks: detach (Enter and Ctrl-D do that too), stop with a checkpoint (Ctrl-C again), or continue. SIGTERM, and
    Ctrl-C without a terminal, stop with a checkpoint. One more after that ends the run at once. `qlora resume last`
    goes on from the checkpoint.

    Exit codes: 0 trained (or detached), 2 wrong usage, config, data or model, 3 the data is not ready or the result
    failed its check, 4 this machine cannot, 130 stopped, 1 a bug or the run was killed.
    """
    from ..jobs import start_training

    config = load_config(file)
    status = start_training(config, workspace=workspace, idempotency_key=idempotency_key, name=name, dry_run=dry_run)
    return finish(status, workspace, detach=detach or dry_run, as_json=as_json)


def finish(status: JobStatus, workspace: Path | None, *, detach: bool, as_json: bool) -> int:
    """Show a job that was started or resumed: its start alone, or all of it with its result as `train` prints it."""
    if detach:
        print_json(status.model_dump(mode="json")) if as_json else show_status(status)
        return 0
    click.echo(f"Job {status.id}; it goes on if this command ends. `qlora status {status.id}` shows it.", err=True)
    status = follow_to_end(status.id, workspace)
    return _ended(status, workspace, as_json=as_json)


def _ended(status: JobStatus, workspace: Path | None, *, as_json: bool) -> int:
    from ..jobs.following import raise_unless_succeeded
    from ..jobs.states import TERMINAL

    if status.state not in TERMINAL:
        return finish(status, workspace, detach=True, as_json=as_json)
    if status.attempts[-1].cause == "bug":
        from ..jobs import read_log

        click.echo(read_log(status.id, lines=30, workspace=workspace).text, err=True)
    raise_unless_succeeded(status)
    if as_json:
        print_json(status.result)
    elif status.kind == TRAINING:
        _show(TrainResult.model_validate(status.result))
    else:
        show_status(status)
    return 0


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
