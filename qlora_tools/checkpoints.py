"""Checkpoints on disk: which are complete, which is the last, what may go. Light: verifying needs no torch.

A checkpoint is a directory `checkpoints/step-N` below the output of a run. `COMPLETE.json` is written into it last and lists
its files with sizes and hashes; a directory without it, or with other content, is no checkpoint.
"""

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .durable import as_json, publish_directory, reached, replace_file, sync_directory
from .errors import UsageError

COMPLETE_FILE = "COMPLETE.json"
_STEP = re.compile(r"step-(\d{1,12})")
_BLOCK_BYTES = 2**20


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A directory that says it is complete, and the step after which it was written."""

    step: int
    directory: Path


def checkpoints_directory(output: Path) -> Path:
    """Where a run with this output directory keeps its checkpoints."""
    return output / "checkpoints"


def write_checkpoint(output: Path, step: int, fill: Callable[[Path], None]) -> Path:
    """Write checkpoint `step` beside its place by `fill(directory)`, mark it complete, and put it there by one rename.

    Returns its directory. One that is complete already is left alone, one that is not is moved aside. Raises `OSError`;
    then nothing stands under the name that was not there before.
    """
    directory = checkpoints_directory(output) / f"step-{step}"
    if directory.exists():
        if problem_of(directory) is None:
            return directory
        set_aside(directory)
    partial = directory.with_name(f".step-{step}.{secrets.token_hex(4)}.partial")
    reached("make", partial)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        files = {path.name: _described(path) for path in sorted(partial.iterdir())}
        replace_file(partial / COMPLETE_FILE, as_json({"step": step, "files": files}))
        publish_directory(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def problem_of(directory: Path) -> str | None:
    """Why `directory` is no complete checkpoint; None where every file has the size and the hash that was written down."""
    try:
        marked = json.loads((directory / COMPLETE_FILE).read_text(encoding="utf-8"))
        files = {str(name): dict(value) for name, value in marked["files"].items()}
    except FileNotFoundError:
        return f"it has no {COMPLETE_FILE}: it was not finished"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"its {COMPLETE_FILE} cannot be read"
    for name, wanted in files.items():
        if Path(name).name != name or not (directory / name).is_file():
            return f"{name} is missing"
        if (directory / name).stat().st_size != wanted.get("bytes"):
            return f"{name} has {(directory / name).stat().st_size} bytes instead of {wanted.get('bytes')}"
    changed = (name for name, wanted in files.items() if _described(directory / name) != wanted)
    broken = next(changed, None)
    return f"{broken} was changed or damaged: its SHA-256 is another" if broken else None


def checkpoints(output: Path) -> list[Checkpoint]:
    """All that are marked complete, by step; contents are not read."""
    return [found for found in _numbered(output) if (found.directory / COMPLETE_FILE).is_file()]


def last_complete(output: Path) -> Path | None:
    """The directory of the highest checkpoint whose contents are whole; None where there is none."""
    found = (one.directory for one in reversed(checkpoints(output)) if problem_of(one.directory) is None)
    return next(found, None)


def unusable_checkpoints(output: Path) -> list[tuple[Path, str]]:
    """Directories with the name of a checkpoint that are none, and why."""
    found = ((one.directory, problem_of(one.directory)) for one in _numbered(output))
    return [(directory, problem) for directory, problem in found if problem is not None]


def set_later_aside(output: Path, step: int) -> list[tuple[Path, str]]:
    """Rename all above `step`; returns the new places and why. Whole ones are called superseded, others damaged."""
    moved = []
    for found in reversed(_numbered(output)):
        if found.step <= step:
            break
        problem = problem_of(found.directory)
        aside = set_aside(found.directory, damaged=problem is not None)
        moved.append((aside, problem or f"the run goes on after step {step}, on another course"))
    return moved


def set_all_aside(output: Path) -> list[tuple[Path, str]]:
    """Rename all checkpoints, for a run that begins again."""
    return set_later_aside(output, -1)


def remove_superseded(output: Path) -> bool:
    """Remove whole checkpoints of courses that were left, for the sake of room; whether there were any."""
    found = list(checkpoints_directory(output).glob("superseded-step-*"))
    for directory in found:
        shutil.rmtree(directory, ignore_errors=True)
    return bool(found)


def set_aside(directory: Path, *, damaged: bool = True) -> Path:
    """Rename a directory, so that its name is free and its content still there."""
    word = "damaged" if damaged else "superseded"
    aside = directory.with_name(f"{word}-{directory.name}-{secrets.token_hex(4)}")
    reached("rename", aside)
    directory.rename(aside)
    sync_directory(aside.parent)
    return aside


def require_complete(directory: Path) -> int:
    """The step of the checkpoint `directory`; raises `UsageError` where it is none or not whole."""
    match = _STEP.fullmatch(directory.name)
    problem = problem_of(directory) if match else "its name is not step-N"
    if match is None or problem is not None:
        raise UsageError(
            f"{directory} is not a complete checkpoint: {problem}.",
            next_step=f"Take another one of {directory.parent}; the highest complete one is taken when none is named.",
        )
    return int(match[1])


def prune(output: Path, *, keep: int, best_step: int | None) -> list[Path]:
    """Remove the oldest checkpoints beyond `keep`; never the last complete one, nor that of `best_step`.

    Returns what was removed: nothing as long as the newest one is not whole. What cannot be removed stays.
    """
    found = checkpoints(output)
    removed: list[Path] = []
    if len(found) <= max(1, keep) or problem_of(found[-1].directory) is not None:
        return removed
    for one in found[: -max(1, keep)]:
        if one.step == best_step:
            continue
        # Unmarked first: what a crash leaves of it is then no checkpoint.
        reached("remove", one.directory)
        (one.directory / COMPLETE_FILE).unlink(missing_ok=True)
        shutil.rmtree(one.directory, ignore_errors=True)
        removed.append(one.directory)
    return removed


def remove_leftovers(output: Path) -> None:
    """Remove what writers that were killed left beside the checkpoints; only while no run writes to `output`."""
    for partial in checkpoints_directory(output).glob(".step-*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def _numbered(output: Path) -> list[Checkpoint]:
    try:
        entries = list(checkpoints_directory(output).iterdir())
    except OSError:
        return []
    matches = ((_STEP.fullmatch(path.name), path) for path in entries)
    return sorted(Checkpoint(int(match[1]), path) for match, path in matches if match and path.is_dir())


def _described(path: Path) -> dict[str, object]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
