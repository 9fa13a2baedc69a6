"""`qlora generate`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import click
from rich.table import Table

from ..data.examples import Message
from ..errors import UsageError
from ..events import Listener, RunEvent
from ..generation import BasePrecision, Sampling, Side
from ..generation.adapters_asked import named_adapters
from ..generation.prompt_files import FilePrompt, read_prompts, with_system
from ..generation.sampling import MOST_NEW_TOKENS
from ..jobs.reading import adapter_of
from ..results import GenerateFileResult, GenerateResult
from ..untrusted import visible_text
from .console import json_option, print_json, stdout, working
from .job_screen import workspace_option
from .text_stream import streaming

_path = click.Path(path_type=Path)


class _Options(TypedDict):
    """How answers are drawn, and the settings of all ways to ask."""

    side: Side | None
    system: str | None
    base_precision: BasePrecision
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int
    stop_strings: tuple[str, ...]
    workspace: Path | None


@click.command("generate")
@click.argument("adapters", metavar="ADAPTER...", nargs=-1, required=True)
@click.option("-p", "--prompt", "prompts", multiple=True, help="A user message; may be given several times.")
@click.option(
    "--prompts-file", type=_path, help="One prompt a line, or rows with `prompt` or `messages` (.jsonl, ...)."
)
@click.option("-o", "--output", type=_path, help="Write the answers to --prompts-file here (.jsonl); goes on with it.")
@click.option("--chat", is_flag=True, help="Talk in the terminal; the turns are kept.")
@click.option("--system", help="System turn before each prompt: the one that was trained with.")
@click.option(
    "--side", type=click.Choice(["both", "base", "adapter"]), help="Who answers.  [default: both; adapter in a chat]"
)
@click.option(
    "--base-precision",
    type=click.Choice(["trained", "16bit"]),
    default="trained",
    show_default=True,
    help="The base as it was trained on, or in 16 bits.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1, MOST_NEW_TOKENS),
    default=256,
    show_default=True,
    help="Longest answer.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 5),
    default=0.0,
    show_default=True,
    help="0 = greedy; higher = more varied.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Draw from the likeliest tokens of this share; lower = less varied.",
)
@click.option(
    "--top-k", type=click.IntRange(0), default=0, show_default=True, help="Draw from so many likeliest tokens; 0 = all."
)
@click.option(
    "--repetition-penalty",
    type=click.FloatRange(0.1, 10),
    default=1.0,
    show_default=True,
    help="Above 1: tokens that were there already become less likely.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Fixes sampled answers.")
@click.option(
    "--stop", "stop_strings", multiple=True, help="An answer ends before this text; may be given several times."
)
@workspace_option
@json_option
def command(
    adapters: tuple[str, ...],
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    output: Path | None,
    chat: bool,
    as_json: bool,
    **options: Unpack[_Options],
) -> None:
    """Answer prompts with ADAPTER and its base, side by side.

    ADAPTER is the output directory of a training run, an adapter directory, or a job's id. Several on one base answer
    side by side; NAME=DIRECTORY names one.

    \b
      qlora generate out -p "Wake me at eight."
      qlora generate out --prompts-file tests.jsonl -o answers.jsonl --side adapter
      qlora generate first=out-1 second=out-2 --chat
    """
    found = _named(adapters, options["workspace"])
    side: Side = options["side"] or ("adapter" if chat else "both")
    sampling = _sampling(options)
    if chat:
        _require(not (prompts or prompts_file or output or as_json), "--chat takes no prompts, no -o and no --json")
        _require(side != "both", "In a chat one side answers, so --side is base or adapter")
        from .chat import run_chat

        precision = options["base_precision"]
        run_chat(found, base_precision=precision, sampling=sampling, system=options["system"], base=side == "base")
        return
    if output is not None:
        _require(prompts_file is not None and not prompts, "-o takes the prompts of --prompts-file alone")
        assert prompts_file is not None
        result = _answer_file(found, prompts_file, output, side, options)
        print_json(result.model_dump(mode="json")) if as_json else _tell(result)
        return
    _answer(found, prompts, prompts_file, side, as_json=as_json, options=options)


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise UsageError(f"{words}.", next_step="Run `qlora generate --help`.")


def _sampling(options: _Options) -> Sampling:
    return Sampling(
        max_new_tokens=options["max_new_tokens"],
        temperature=options["temperature"],
        top_p=options["top_p"],
        top_k=options["top_k"],
        repetition_penalty=options["repetition_penalty"],
        seed=options["seed"],
        stop_strings=options["stop_strings"],
    )


def _named(adapters: Sequence[str], workspace: Path | None) -> dict[str, Path]:
    """The adapters by name; a job's id stands for its output directory. Raises `UsageError`, `ModelError`."""
    found: dict[str, str | Path] = {}
    for given in adapters:
        name, is_named, place = given.partition("=")
        if "/" in name or not is_named or Path(given).is_dir():
            name, is_named, place = "", "", given
        directory = (None if Path(place).is_dir() else adapter_of(place, workspace=workspace)) or place
        if not is_named:
            (name,) = named_adapters(directory)
        _require(name not in found, f"Two adapters are called {name}; write NAME=DIRECTORY to name them")
        found[name] = directory
    return named_adapters(found)


def _answer(
    adapters: Mapping[str, Path],
    prompts: Sequence[str],
    prompts_file: Path | None,
    side: Side,
    *,
    as_json: bool,
    options: _Options,
) -> None:
    from ..generation import generate

    streams = not as_json and len(prompts) == 1 and prompts_file is None and sys.stdout.isatty()
    with streaming() if streams else working("generating text") as listener:
        system = options["system"]
        asked = [with_system([Message(role="user", content=prompt)], system) for prompt in prompts]
        asked += _read(prompts_file, system, listener) if prompts_file is not None else []
        if not asked:
            raise UsageError("There is no prompt to answer.", next_step='Give -p "..." or --prompts-file.')
        result = generate(
            adapters,
            asked,
            side=side,
            base_precision=options["base_precision"],
            on_event=listener,
            **_sampling(options).options(),
        )
    if not streams:
        print_json(result.model_dump(mode="json")) if as_json else _show(result)


def _read(path: Path, system: str | None, on_event: Listener) -> list[tuple[Message, ...]]:
    turns = []
    for row in read_prompts(path, system):
        if isinstance(row, FilePrompt):
            turns.append(row.turns)
        else:
            on_event(RunEvent("warning", f"Row {row.row} is left out ({row.place}: {row.problem})."))
    return turns


def _answer_file(
    adapters: Mapping[str, Path], prompts_file: Path, output: Path, side: Side, options: _Options
) -> GenerateFileResult:
    from ..generation import generate_file

    with working("generating text") as listener:
        return generate_file(
            adapters,
            prompts_file,
            output,
            side=side,
            system=options["system"],
            base_precision=options["base_precision"],
            on_event=listener,
            **_sampling(options).options(),
        )


def _tell(result: GenerateFileResult) -> None:
    kept = f", {result.kept:,} were there already" if result.kept else ""
    broken = f", {result.broken_rows:,} rows could not be asked" if result.broken_rows else ""
    click.echo(f"{result.answered:,} prompts answered in {result.seconds:.1f} s{kept}{broken}: {result.output}")


def _show(result: GenerateResult) -> None:
    several = list(result.answers[0].adapters)
    adapters = several or (["adapter"] if result.answers[0].adapter is not None else [])
    sides = [*(["base"] if result.answers[0].base is not None else []), *adapters]
    table = Table("prompt", *sides, show_lines=True)
    for answer in result.answers:
        said = {"base": answer.base, "adapter": answer.adapter} | answer.adapters
        table.add_row(visible_text(answer.prompt), *(visible_text(said[name] or "") for name in sides))
    stdout().print(table)
