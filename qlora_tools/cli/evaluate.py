"""`qlora evaluate`."""

from pathlib import Path
from typing import TypedDict, Unpack

import click
from rich.table import Table

from ..evaluation import INSTRUMENTS, METRICS, USUAL_INSTRUMENTS, Instrument, evaluate
from ..evaluation.evaluate import MOST_ASKED_TOKENS, MOST_ROWS
from ..evaluation.verdict import said_of
from ..jobs.reading import adapter_of
from ..paths import as_path
from ..results import EvaluationResult
from ..untrusted import visible_text
from .console import json_option, print_json, stdout, working
from .detach import DetachOptions, detach_options, start_detached

_COLOURS = {"ship": "green", "do not ship": "red", "cannot tell": "yellow"}
_SHOWN_ANSWERS = 3
_SHOWN_LETTERS = 300


class _Options(TypedDict):
    """What is measured, and how."""

    output: Path | None
    metric: tuple[str, ...]
    metric_file: str | None
    max_rows: int
    max_new_tokens: int | None
    instrument: tuple[Instrument, ...]
    no_instruments: bool
    lm_eval: tuple[str, ...]
    seed: int
    detach: bool
    name: str | None
    idempotency_key: str | None
    workspace: Path | None


@click.command("evaluate")
@click.argument("adapter")
@click.option("--data", help="Rows that training can read.  [default: those that the training held out]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Directory for results, page and answers.")
@click.option(
    "--metric",
    multiple=True,
    help=f"Instead of what suits the references; may be given several times: {', '.join(METRICS)}.",
)
@click.option("--metric-file", help="FILE.py:FUNCTION, called with answer and reference for a number; it decides.")
@click.option(
    "--max-rows", type=click.IntRange(1, MOST_ROWS), default=500, show_default=True, help="Rows, spread evenly."
)
@click.option(
    "--max-new-tokens", type=click.IntRange(1, MOST_ASKED_TOKENS), help="Longest answer.  [default: by the references]"
)
@click.option(
    "--instrument",
    multiple=True,
    type=click.Choice(INSTRUMENTS),
    default=USUAL_INSTRUMENTS,
    show_default=True,
    help="What else is measured; may be given several times.",
)
@click.option("--no-instruments", is_flag=True, help="Measure losses and answers alone.")
@click.option(
    "--lm-eval", multiple=True, help="A task of lm-eval-harness, or a .yaml file of one; several are possible."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Fixes the resampling.")
@detach_options
@json_option
def command(adapter: str, data: str | None, as_json: bool, **options: Unpack[_Options]) -> int:
    """Compare ADAPTER with its base on the same rows, and say whether to ship it.

    ADAPTER is the output directory of a training run, an adapter directory, or a job's id.

    \b
      qlora evaluate out
      qlora evaluate out --data test.jsonl -o out/test --json
      qlora evaluate out --data test.jsonl --metric rouge --metric-file metrics.py:score

    Writes results.json, report.html, losses.jsonl and answers.jsonl. Run again with the same arguments, it goes on with
    what is there. Exit codes: 0 ship, or cannot tell; 3 do not ship.
    """
    found = (None if Path(adapter).is_dir() else adapter_of(adapter, workspace=options["workspace"])) or adapter
    instruments = () if options["no_instruments"] else options["instrument"]
    arguments = {
        "data": data,
        "output": options["output"],
        "metrics": list(options["metric"]) or "auto",
        "metric_file": options["metric_file"],
        "max_rows": options["max_rows"],
        "max_new_tokens": options["max_new_tokens"],
        "instruments": instruments,
        "lm_eval": options["lm_eval"],
        "seed": options["seed"],
    }
    if options["detach"]:
        detached = DetachOptions(**{name: options[name] for name in DetachOptions.__annotations__})  # type: ignore
        return start_detached("evaluate", {"adapter": str(as_path(str(found))), **arguments}, detached, as_json=as_json)
    with working("evaluating an adapter") as listener:
        result = evaluate(found, on_event=listener, **arguments)  # type: ignore[arg-type]
    print_json(result.as_document()) if as_json else _show(result)
    return 3 if result.verdict.decision == "do not ship" else 0


def _show(result: EvaluationResult) -> None:
    screen, verdict = stdout(), result.verdict
    screen.print(verdict.decision.upper(), style=f"bold {_COLOURS[verdict.decision]}")
    for reason in verdict.reasons:
        screen.print(f"  {reason.side}: {visible_text(reason.message)}")
    table = Table("measure", "base", "adapter", "difference (95 %)", "p", "better/worse/same", box=None, pad_edge=False)
    for metric in (result.loss.loss, *result.metrics):
        found = metric.comparison
        scale, digits, sign = (100, 1, " %") if found.is_share else (1, 3, "")
        base, adapter = (f"{scale * side.value:.{digits}f}{sign}" for side in (found.base, found.adapter))
        low, high = (f"{scale * end:+.{digits}f}" for end in (found.difference.low, found.difference.high))
        apart = f"{scale * found.difference.value:+.{digits}f} ({low} to {high})"
        counts = f"{found.better}/{found.worse}/{found.same}"
        table.add_row(found.name, base, adapter, apart, f"{found.p_value:.3g}", counts)
    screen.print(table)
    for score in result.harness:
        told = said_of(score.comparison) if score.comparison else f"base {score.base:.4f}, adapter {score.adapter:.4f}"
        screen.print(f"{score.task} {score.metric}: {told}")
    for answer in result.answers[:_SHOWN_ANSWERS]:
        screen.print(f"Row {answer.row}: {_cut(answer.prompt)}")
        for name, text in (("base", answer.base), ("adapter", answer.adapter), ("in the data", answer.reference)):
            screen.print(f"  {name}: {_cut(text)}")
    for missing in result.not_done:
        screen.print(f"Not done: {visible_text(missing)}")
    screen.print(f"Page: {result.page}")
    screen.print(f"Next: {result.next_step}")


def _cut(text: str) -> str:
    line = " ".join(visible_text(text).split())
    return line if len(line) <= _SHOWN_LETTERS else f"{line[: _SHOWN_LETTERS - 1]}…"
