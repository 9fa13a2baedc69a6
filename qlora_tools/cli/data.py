"""`qlora data`: inspect."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import click

from ..config import RunConfig, load_config
from ..config.overrides import settings_from_pairs
from ..errors import UsageError
from ..events import Listener
from ..paths import as_path
from ..report.dataset_page import check_dataset_page, write_dataset_page
from ..report.dataset_table import print_dataset_report
from ..report.dataset_words import visible_report
from ..report.length_histogram import check_histogram, write_histogram
from ..results import DatasetReport
from .console import json_option, print_json, stderr, stdout, watching, working

_NOT_READY = 3
_file = click.Path(path_type=Path)


class _Targets(TypedDict):
    """The options that name files to write."""

    html: Path | None
    picture: Path | None
    redact: Path | None


@dataclass(frozen=True)
class _Job:
    """What is inspected: rows with settings, or the data of a run."""

    data: str
    settings: Mapping[str, Any]
    model: str | None
    config: RunConfig | None = None


@click.group("data")
def command() -> None:
    """Check a dataset before it costs a night."""


@command.command()
@click.argument("words", nargs=-1, metavar="[PATH] [NAME=VALUE]...")
@click.option("--model", help="Catalogue name, directory or Hub id; without it lengths are estimated, masks not made.")
@click.option("--config", type=_file, help="Run config whose model, data and settings are used, instead of PATH.")
@click.option(
    "--rows",
    type=click.IntRange(1, 10_000_000),
    default=20_000,
    show_default=True,
    help="Rows that the checks which cost time look at, spread evenly.",
)
@click.option(
    "--show",
    type=click.IntRange(0, 100),
    default=3,
    show_default=True,
    help="Rows shown with what is learnt of them, at most ten.",
)
@click.option("--html", type=_file, help="Write all of it as a page, one file (.html).")
@click.option("--picture", type=_file, help="Write the lengths as a histogram (PNG).")
@click.option("--redact", type=_file, help="Write the rows without personal data and secrets (.jsonl).")
@json_option
def inspect(
    words: tuple[str, ...],
    model: str | None,
    config: Path | None,
    rows: int,
    show: int,
    as_json: bool,
    **targets: Unpack[_Targets],
) -> int:
    """Say whether the rows of PATH are ready to be trained on, and show what would be learnt of them.

    PATH is a file, a directory or a Hub id.

    \b
      qlora data inspect rows.jsonl
      qlora data inspect rows.jsonl --model qwen3-0.6b --html report.html --picture lengths.png
      qlora data inspect rows.jsonl --model qwen3-0.6b loss_on=assistant max_length_tokens=4096
      qlora data inspect --config run.yaml
      qlora data inspect rows.jsonl --redact clean.jsonl

    NAME=VALUE sets a field of the run config beside its defaults. `qlora config schema` lists them all.

    Exit codes: 0 ready, with warnings too, 3 not ready, 2 wrong usage or data that cannot be read, 4 see the message.
    """
    job = _job(words, model, config)
    files = _checked(targets)
    report = _inspected(job, rows)
    written = _write_views(report, files)
    if not as_json:
        print_dataset_report(stdout(), report, most_rows=show)
    redacted = _redacted(job, files["redact"]) if "redact" in files else None
    written += [files["redact"]] if "redact" in files else []
    shown = report.model_copy(update={"masks": report.masks[:show]})
    _show_files(shown, written, redacted, as_json=as_json)
    return _NOT_READY if report.verdict == "not ready" else 0


def _job(words: tuple[str, ...], model: str | None, config: Path | None) -> _Job:
    if config is not None:
        if words or model is not None:
            raise UsageError(
                "--config names model, data and settings; PATH, NAME=VALUE and --model cannot be given beside it.",
                next_step=f"Leave them out and change {config}, or leave out --config.",
            )
        run = load_config(config)
        fields = run.data.model_dump(exclude_defaults=True, exclude={"path"})
        return _Job(run.data.path, {f"data.{name}": value for name, value in fields.items()}, run.model.name, run)
    # A path may hold a "=", as the folders of a partitioned dataset do.
    if not words or ("=" in words[0] and not Path(words[0]).exists()):
        raise UsageError(
            "Nothing to inspect: PATH comes first, or --config names a run config.",
            next_step="Write for example: qlora data inspect rows.jsonl",
        )
    return _Job(words[0], settings_from_pairs(words[1:]), model)


def _checked(targets: _Targets) -> dict[str, Path]:
    """Where files go, checked before any work is done."""
    named = {"html": targets["html"], "picture": targets["picture"], "redact": targets["redact"]}
    paths = {name: as_path(str(path)) for name, path in named.items() if path is not None}
    checks = {"html": check_dataset_page, "picture": check_histogram, "redact": _check_copy}
    for name, path in paths.items():
        checks[name](path)
    return paths


def _check_copy(path: Path) -> None:
    if path.suffix != ".jsonl":
        raise UsageError(
            f"The copy {path} does not end in .jsonl.", next_step=f"Write for example {path.stem or 'clean'}.jsonl."
        )
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists; it is not replaced.", next_step="Choose another name, or remove it first.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no directory {path.parent}.", next_step=f"Make it first: mkdir {path.parent}")


def _work(job: _Job) -> AbstractContextManager[Listener]:
    """Only a model needs the training libraries."""
    return watching() if job.model is None else working("inspecting rows with a model")


def _inspected(job: _Job, rows: int) -> DatasetReport:
    with _work(job) as listener:
        from ..inspection import inspect_config, inspect_dataset

        if job.config is not None:
            return inspect_config(job.config, rows=rows, on_event=listener)
        return inspect_dataset(job.data, job.model, settings=job.settings, rows=rows, on_event=listener)


def _write_views(report: DatasetReport, files: Mapping[str, Path]) -> list[Path]:
    written = []
    if "html" in files:
        write_dataset_page(files["html"], report)
        written.append(files["html"])
    if "picture" in files:
        if write_histogram(files["picture"], report):
            written.append(files["picture"])
        else:
            stderr().print("No picture was drawn: no lengths are known.", markup=False)
    return written


def _redacted(job: _Job, target: Path) -> dict[str, int]:
    with watching() as listener:
        from ..inspection import redact_dataset

        return redact_dataset(job.data, target, settings=job.settings, on_event=listener)


def _show_files(report: DatasetReport, written: list[Path], redacted: dict[str, int] | None, *, as_json: bool) -> None:
    if as_json:
        document = visible_report(report, longest=None).model_dump(mode="json")
        found = {} if redacted is None else {"redacted": redacted}
        print_json({**document, "written": [str(path) for path in written], **found})
        return
    if redacted is not None:
        counts = ", ".join(f"{kind} {count:,}" for kind, count in redacted.items() if count)
        click.echo(f"Redacted: {counts or 'nothing was found'}")
    for path in written:
        click.echo(f"Written: {path}")
