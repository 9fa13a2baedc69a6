"""The environment report. Libraries are probed in a process of their own: a broken one may crash what imports it."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ..requirements import TRAINING_LIBRARIES
from ..subprocesses import child_environment

_PROBE_SECONDS = 120


class Check(BaseModel):
    """One thing that was looked at. `mend` is the command or change that helps, where something is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    status: Literal["ok", "warning", "failed"]
    found: str
    mend: str | None = None


class EnvironmentReport(BaseModel):
    """All checks; `can_train` says whether `qlora train` can run here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    can_train: bool
    device: str
    checks: list[Check]


def check_environment(directory: Path | None = None) -> EnvironmentReport:
    """Look at Python, libraries, GPU, bitsandbytes, memory and the disk of `directory` (default: the current one)."""
    checks = [_python(), *map(_library, TRAINING_LIBRARIES), _disk(directory or Path.cwd())]
    if all(check.status != "failed" for check in checks[1:-1]):
        device, probed = _probe()
        checks.extend(probed)
    else:
        device = "unknown (training libraries are missing)"
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
    if floor is not None and _numbers(found) < _numbers(floor):
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


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.13.0+cpu is (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _disk(directory: Path) -> Check:
    free = shutil.disk_usage(directory).free
    found = f"{free / 2**30:.1f} GiB free"
    if free > 5 * 2**30:
        return Check(name="disk", status="ok", found=found)
    return Check(
        name="disk", status="warning", found=found, mend="An 8B model in 16 bits takes 16 GB; free some space."
    )


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
        answer = json.loads(done.stdout.splitlines()[-1])
        return str(answer["device"]), [Check.model_validate(check) for check in answer["checks"]]
    except subprocess.TimeoutExpired:
        reason = f"gave no answer in {_PROBE_SECONDS} s"
    except (ValueError, IndexError, KeyError):
        reason = _last_line(done.stderr) or f"ended with code {done.returncode}"
    mend = "Reinstall the libraries: pip install --force-reinstall 'qlora-tools[train]'"
    return "unknown", [Check(name="libraries", status="failed", found=f"importing them {reason}", mend=mend)]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return f"failed: {lines[-1][:300]}" if lines else ""
