"""`qlora doctor`."""

import click
from rich.table import Table

from ..doctor import EnvironmentReport, check_environment
from .console import json_option, print_json, stderr, stdout

_SIGNS = {"ok": "✓", "warning": "!", "failed": "✗"}


@click.command("doctor")
@json_option
def command(as_json: bool) -> int:
    """Check versions, GPU, bf16, bitsandbytes, memory and disk. Exit code 3 when training cannot run here."""
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
