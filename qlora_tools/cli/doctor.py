"""`qlora doctor`."""

import sys
from pathlib import Path

import click
from rich.table import Table

from ..config import RunConfig, dump_config, load_config
from ..disk import disk_errors
from ..doctor import DiagnosisReport, EnvironmentReport, Finding, changed_config, check_environment, diagnose
from ..errors import UsageError
from ..paths import as_path
from .console import json_option, print_json, stderr, stdout
from .job_screen import workspace_option

_SIGNS = {"ok": "✓", "warning": "!", "failed": "✗"}
_NOTHING_RECOGNISED = 3


@click.command("doctor")
@click.argument("log", required=False, metavar="[LOG|JOB]")
@click.option(
    "--config",
    "config_file",
    type=str,
    metavar="FILE",
    help="The run's config; changes are computed from it. A job's own is known.",
)
@click.option(
    "--apply", "target", type=str, metavar="OUT", help="Write the config with the changes to OUT, a new file."
)
@workspace_option
@json_option
def command(log: str | None, config_file: str | None, target: str | None, workspace: Path | None, as_json: bool) -> int:
    """Say what is broken on this machine, or why a run failed.

    Without LOG: versions, driver, GPU, bf16, bitsandbytes, attention, memory and disks. Exit code 3 when training cannot
    run here.

    With LOG (a file, or - for stdin) or JOB (an id, the beginning of one, or `last`): causes with their evidence and what
    to change. What is a file is read as a log. Exit code 3 when nothing is recognised.
    """
    if log is None:
        if config_file or target:
            raise UsageError(
                "--config and --apply go with a LOG.", next_step="Run: qlora doctor LOG --config FILE --apply OUT"
            )
        return _environment(as_json=as_json)
    path = _new_file(target) if target is not None else None
    config = load_config(as_path(config_file)) if config_file is not None else None
    if _is_log(log):
        if path is not None and config is None:
            raise UsageError("--apply needs the config that it changes.", next_step="Add --config FILE.")
        report = diagnose(sys.stdin.buffer if log == "-" else as_path(log), config=config)
    else:
        from ..jobs.diagnosing import diagnose_job

        report, config = diagnose_job(log, workspace=workspace, config=config)
        if path is not None and config is None:
            raise UsageError(
                f"The job {log} is no training: it has no config to change.", next_step="Leave --apply out."
            )
    written = _write(report, config, path) if path is not None and config is not None else None
    show_diagnosis(report, written, as_json=as_json)
    return 0 if report.recognised else _NOTHING_RECOGNISED


def _is_log(name: str) -> bool:
    """Whether a file is meant and no job: it is one, or is written like one."""
    return name == "-" or as_path(name).is_file() or Path(name).name != name or bool(Path(name).suffix)


def _environment(*, as_json: bool) -> int:
    with stderr().status("Looking at this machine (imports torch, about 10 s) ..."):
        report = check_environment()
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        show_report(report)
    return 0 if report.can_train else 3


def show_report(report: EnvironmentReport) -> None:
    """The checks as a table."""
    table = Table("", "check", "found", "what to do", box=None, pad_edge=False)
    for check in report.checks:
        table.add_row(_SIGNS[check.status], check.name, check.found, check.mend or "")
    stdout().print(table)
    stdout().print(
        f"\n{'This machine can train' if report.can_train else 'This machine cannot train yet'}: {report.device}"
    )


def show_diagnosis(report: DiagnosisReport, written: Path | None, *, as_json: bool) -> None:
    """Causes in order of likelihood, as text or as the JSON document; `written` is where the changed config is."""
    if as_json:
        print_json({**report.model_dump(mode="json"), "written_to": str(written) if written else None})
        return
    if not report.recognised:
        stdout().print("No known failure was recognised.")
    for number, finding in enumerate(report.findings, start=1):
        _show_finding(number, finding)
    if not report.recognised:
        if report.last_error:
            stdout().print(f"  last error, line {report.last_error_line}: {report.last_error}")
        stdout().print(f"  → {report.next_step}")
    if written is not None:
        stdout().print(f"Config with the changes: {written}")


def _show_finding(number: int, finding: Finding) -> None:
    out = stdout()
    out.print(f"{number}. {finding.title} ({finding.confidence}; {finding.id})")
    out.print(f"   line {finding.line}: {finding.evidence}")
    out.print(f"   why: {finding.cause}")
    out.print(f"   → {finding.next_step}")
    for field, value in finding.changes.items():
        out.print(f"   change {field}: {value}")
    for line in finding.commands:
        out.print(f"   $ {line}")
    out.print(f"   more: qlora guide {finding.more}\n")


def _new_file(target: str) -> Path:
    """Refuse a file that cannot be written before any work is done."""
    path = as_path(target)
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"{target} exists; it is not replaced.", next_step="Choose another --apply, or remove it first."
        )
    if not path.parent.is_dir():
        raise UsageError(f"There is no directory {path.parent}.", next_step="Make it, or choose another --apply.")
    return path


def _write(report: DiagnosisReport, config: RunConfig, path: Path) -> Path | None:
    """The changed config as a new file; None where the likeliest cause needs no change of the config."""
    if report.patch is None:
        click.echo("No change of the config mends this; nothing was written.", err=True)
        return None
    text = dump_config(changed_config(config, report.findings[0].changes))
    with disk_errors(path, left="nothing was written"), path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path
