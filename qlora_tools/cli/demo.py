"""`qlora demo`."""

from pathlib import Path

import click

from ..demo.run import DemoResult, run_demo
from ..doctor import check_environment
from ..requirements import require_training_libraries
from .console import json_option, print_json, stderr, working


@click.command("demo")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="New directory for all results.  [default: qlora-demo, qlora-demo-2, ...]",
)
@click.option(
    "--model",
    default="smollm2-135m-instruct",
    show_default=True,
    help="A chat model: catalogue name, directory, or Hub id such as HuggingFaceTB/SmolLM2-135M-Instruct.",
)
@click.option("--steps", type=click.IntRange(1), help="Training steps.  [default: 34 on a CPU, 120 on a GPU]")
@json_option
def command(output: Path | None, model: str, steps: int | None, as_json: bool) -> int:
    """Run the whole path on a small real model, on CPU or GPU: four to seven minutes on two cores.

    Checks the machine, plans a config, trains a QLoRA adapter that turns spoken requests into JSON calls, asks base and
    adapter 150 held-out requests, merges, checks the merged model, and writes report.html.
    """
    require_training_libraries("the demo")
    report = check_environment()
    for check in report.checks:
        if check.status != "ok" or check.name in ("GPU", "host memory", "GPU memory", "bfloat16"):
            stderr().print(f"{check.name}: {check.found}", markup=False)
    with working("the demo") as listener:
        result = run_demo((output or _free_name()).absolute(), model=model, on_event=listener, steps=steps)
    print_json(_as_json(result)) if as_json else _show(result)
    return 0 if result.passed else 3


def _free_name() -> Path:
    number = 1
    while (path := Path("qlora-demo" if number == 1 else f"qlora-demo-{number}")).exists():
        number += 1
    return path


def _as_json(result: DemoResult) -> dict[str, object]:
    return {
        "passed": result.passed,
        "output_directory": str(result.output_directory),
        "report": str(result.report),
        "exact_match_percent": {"base": result.base.percent, "adapter": result.adapter.percent},
        "held_out_rows": result.base.total,
        "training": result.training.model_dump(mode="json"),
        "merge": result.merged.model_dump(mode="json") if result.merged else None,
        "merge_failure": result.merge_failure,
        "seconds": result.seconds,
    }


def _show(result: DemoResult) -> None:
    for answer, expected in list(zip(result.generation.answers, result.references, strict=True))[:3]:
        click.echo(
            f"\n  asked    {answer.prompt}\n  base     {_one_line(answer.base)}\n  adapter  {_one_line(answer.adapter)}"
        )
        click.echo(f"  expected {expected}")
    click.echo(
        f"\nExact match on {result.base.total} held-out requests: base {result.base.percent:.1f} %, "
        f"adapter {result.adapter.percent:.1f} % ({result.rise_points:+.1f} points)"
    )
    click.echo(_merge_line(result))
    click.echo(f"Report:  {result.report}\nAdapter: {result.training.adapter_directory}")
    click.echo(f"Time: {result.seconds:.0f} s, of which training {result.training.train_seconds:.0f} s")
    if not result.passed:
        click.secho(
            "MISSED: at most 20 % for the base, 40 points more for the adapter, and a merged model were expected.",
            fg="red",
            bold=True,
        )
    click.echo(f'Next: qlora generate {result.output_directory} -p "turn the hallway lights off"')


def _merge_line(result: DemoResult) -> str:
    if result.merged is None or result.merged.parity is None:
        return f"No merged model: {result.merge_failure}"
    parity = result.merged.parity
    return (
        f"Merged model in {result.merged.directory}: {parity.same_answers} of {parity.prompts} answers as the adapter gave "
        f"them, {100 * parity.clear_agreement:.2f} % of tokens with a clear lead agree, mean KL {parity.mean_kl:.1e}"
    )


def _one_line(text: str | None) -> str:
    joined = " ".join((text or "").split())
    return joined if len(joined) <= 100 else joined[:97] + "..."
