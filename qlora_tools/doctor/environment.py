"""The environment report. Libraries are probed in a process of their own: a broken one may crash what imports it."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ..requirements import TRAINING_LIBRARIES
from ..subprocesses import child_environment
from .check import Check, numbers
from .known_bad import check_combinations
from .machine import check_disks, check_driver, check_host_memory, check_visibility

_PROBE_SECONDS = 120


class EnvironmentReport(BaseModel):
    """All checks; `can_train` says whether `qlora train` can run here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    can_train: bool
    device: str
    checks: list[Check]


def check_environment(directory: Path | None = None) -> EnvironmentReport:
    """Look at Python, libraries, driver, GPU, bitsandbytes, attention, memory and disks.

    `directory` is where results would go (default: the current one). Needs neither a GPU nor the training libraries.
    """
    libraries = [_library(name) for name in TRAINING_LIBRARIES]
    checks = [_python(), *libraries, *check_combinations(), *check_driver(), *check_visibility()]
    checks += [check_host_memory(), *check_disks(directory or Path.cwd())]
    if all(check.status != "failed" for check in libraries):
        device, probed = _probe()
        checks.extend(probed)
    else:
        device = "unknown (training libraries are missing or too old)"
    can_train = all(check.status != "failed" for check in checks)
    return EnvironmentReport(can_train=can_train, device=device, checks=checks)


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 14):
        return Check(name="Python", status="ok", found=found)
    return Check(name="Python", status="warning", found=found, mend="Use Python 3.11 to 3.14.")


def _library(name: str) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name=name, status="failed", found="not installed", mend="pip install 'qlora-tools[train]'")
    floor = _floors().get(name)
    if floor is not None and numbers(found) < numbers(floor):
        mend = f"pip install --upgrade '{name}>={floor}'"
        return Check(name=name, status="failed", found=f"{found}; at least {floor} is needed", mend=mend)
    return Check(name=name, status="ok", found=found)


def _floors() -> dict[str, str]:
    """The lowest version of each library that this package states; none in a checkout that is not installed."""
    try:
        stated = requires("qlora-tools") or []
    except PackageNotFoundError:
        return {}
    found = (re.match(r"([A-Za-z0-9_-]+)[^;]*>=([0-9.]+)", line) for line in stated)
    return {match[1]: match[2] for match in found if match}


def _probe() -> tuple[str, list[Check]]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "qlora_tools.doctor.probe"],
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            env=child_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _unprobed(f"gave no answer in {_PROBE_SECONDS} s", "")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return str(answer["device"]), [Check.model_validate(check) for check in answer["checks"]]
    except (ValueError, IndexError, KeyError, TypeError):
        return _unprobed(_last_line(done.stderr) or f"ended with code {done.returncode}", done.stderr)


def _unprobed(reason: str, said: str) -> tuple[str, list[Check]]:
    """A library that cannot be imported: the table of known failures says how to mend it."""
    # The table is read where something is broken only.
    from .diagnosis import diagnose

    findings = diagnose(said).findings
    commands = ", then: ".join(findings[0].commands[:2]) if findings else ""
    mend = commands or "pip install --force-reinstall 'qlora-tools[train]'"
    return "unknown", [Check(name="libraries", status="failed", found=f"importing them {reason}", mend=mend)]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return f"failed: {lines[-1][:300]}" if lines else ""
