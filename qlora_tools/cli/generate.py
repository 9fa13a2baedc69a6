"""`qlora generate`."""

from pathlib import Path
from typing import TypedDict, Unpack

import click
from rich.table import Table

from ..data.examples import Message
from ..errors import UsageError
from ..results import GenerateResult
from .console import json_option, print_json, stdout, working


class _Sampling(TypedDict):
    """The options that say how answers are drawn."""

    max_new_tokens: int
    temperature: float
    seed: int


@click.command("generate")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("-p", "--prompt", "prompts", multiple=True, help="A user message; may be given several times.")
@click.option("--prompts-file", type=click.Path(path_type=Path), help="A text file with one prompt a line.")
@click.option("--system", help="System turn before each prompt: the one that was trained with.")
@click.option(
    "--side", type=click.Choice(["both", "base", "adapter"]), default="both", show_default=True, help="Who answers."
)
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 32_768), default=256, show_default=True, help="Longest answer."
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 5),
    default=0.0,
    show_default=True,
    help="0 = greedy; higher = more varied.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Fixes sampled answers.")
@json_option
def command(
    adapter: Path,
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    system: str | None,
    side: str,
    as_json: bool,
    **sampling: Unpack[_Sampling],
) -> None:
    """Answer prompts with ADAPTER (the output directory of a training run) and its base, side by side."""
    asked = [*prompts, *_read_prompts(prompts_file)]
    if not asked:
        raise UsageError("There is no prompt to answer.", next_step='Give -p "..." or --prompts-file.')
    from ..generation import generate

    with working("generating text") as listener:
        result = generate(
            adapter,
            [_turns(prompt, system) for prompt in asked],
            side=side,  # type: ignore[arg-type]
            **sampling,
            on_event=listener,
        )
    print_json(result.model_dump(mode="json")) if as_json else _show(result)


def _turns(prompt: str, system: str | None) -> list[Message]:
    before = [Message(role="system", content=system)] if system is not None else []
    return [*before, Message(role="user", content=prompt)]


def _read_prompts(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The prompts file {path} cannot be read: {error}.", next_step="Check path and encoding."
        ) from None


def _show(result: GenerateResult) -> None:
    sides = [name for name in ("base", "adapter") if getattr(result.answers[0], name) is not None]
    table = Table("prompt", *sides, show_lines=True)
    for answer in result.answers:
        table.add_row(answer.prompt, *(getattr(answer, name) for name in sides))
    stdout().print(table)
