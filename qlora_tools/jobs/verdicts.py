"""Verdicts: how an attempt ended, written once and for ever, even when the disk is full."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import durable
from ..disk import DISK_FULL
from .causes import cause_of_death
from .clock import stamp
from .facts import Document, JobFacts, read_document, read_facts
from .layout import TRAINING, AttemptFolder, JobFolder
from .logs import log_tail
from .states import needs_verdict, state_of_dead

SPARE_BYTES = 64 * 1024
_LAST_LINES = 5
_STOPPED = 130
# Entries at each end of a list, and letters of a text, by which a verdict is made to fit the spare file.
_SHORTER = ((100, 4000), (10, 1500), (1, 1500))


def verdict(state: str, exit_code: int, message: str, next_step: str, **more: Any) -> Document:
    """A verdict as `exit.json` holds it; `more` are error, checkpoint, result and cause."""
    document = {"state": state, "exit_code": exit_code, "message": message, "next_step": next_step}
    return {**document, **more, "ended": stamp()}


def write_verdict(attempt: AttemptFolder, document: Document) -> Document:
    """Write the verdict, and return the one that stands: that of whoever came first. Raises `OSError`."""
    try:
        _write(attempt, document)
    except OSError:
        # Another was faster, or has cleared away what was half written here.
        if not attempt.exit_file.exists():
            raise
    stands = read_document(attempt.exit_file)
    return document if stands is None else stands


def end_unstarted(attempt: AttemptFolder, document: Document) -> Document | None:
    """End an attempt that waits; None when it has begun by now. Who writes `started.json` decides which of both."""
    claim = {"began": False, "verdict": document, "when": stamp()}
    try:
        durable.write_once(attempt.started_file, durable.as_json(claim))
    except FileExistsError:
        started = read_document(attempt.started_file) or {}
        if started.get("began") is not False:
            return None
        document = started.get("verdict") or document
    return write_verdict(attempt, document)


def settled(job: JobFolder) -> JobFacts | None:
    """The facts of `job`, after writing the verdict of an attempt that ended without one."""
    facts = read_facts(job)
    if facts is None or not needs_verdict(facts.last):
        return facts
    document = (facts.last.started or {}).get("verdict") or _of_the_dead(job, facts)
    try:
        document = write_verdict(job.attempt(facts.last.number), document)
    except OSError:
        # The truth can be told though it cannot be written: the disk is full or read-only.
        return replace(facts, attempts=(*facts.attempts[:-1], replace(facts.last, exit=document)))
    return read_facts(job)


def resume_step(job_id: str, plan: Document, checkpoint: str | None) -> str:
    """How to go on after an ended attempt."""
    where = f"it goes on from {checkpoint}" if checkpoint else "it has no checkpoint, so it begins again"
    if plan.get("kind", TRAINING) != TRAINING:
        where = "it goes on from what it has written"
    return f"Run `qlora resume {job_id}`: {where}."


def step_after(state: str, job_id: str, plan: Document, checkpoint: str | None) -> str:
    """What to do after an attempt that did not succeed."""
    return "It was cancelled and cannot be resumed." if state == "cancelled" else resume_step(job_id, plan, checkpoint)


def newest_checkpoint(plan: Document, request: Document) -> str | None:
    """The highest checkpoint of the job that is marked complete, else the one that the attempt went on from.

    It tells no more than the disk does; sizes and hashes are checked when somebody resumes.
    """
    from ..checkpoints import COMPLETE_FILE, checkpoints  # a waiting process does without

    output, origin = plan.get("output_directory"), request.get("resume_from")
    if plan.get("kind", TRAINING) != TRAINING:
        return None
    try:
        found = checkpoints(Path(output)) if output else []
        if found:
            return str(found[-1].directory)
        return origin if origin and (Path(origin) / COMPLETE_FILE).is_file() else None
    except OSError:
        return None


def _of_the_dead(job: JobFolder, facts: JobFacts) -> Document:
    cause, words = cause_of_death(facts)
    state = state_of_dead(facts.last)
    checkpoint = newest_checkpoint(facts.plan, facts.last.request)
    of_this = facts.status if facts.status.get("attempt") == facts.last.number else {}
    at = f" at step {of_this['step']}" if of_this.get("step") else ""
    message = f"The run ended without a word{at}: {words}."
    lines = log_tail(job.log_file, _LAST_LINES)
    if cause == "killed" and lines:
        message += " Last lines of the log: " + " / ".join(lines)
    step = step_after(state, job.id, facts.plan, checkpoint)
    code = _STOPPED if state in ("stopped", "cancelled") else 1
    return verdict(state, code, message, step, checkpoint=checkpoint, cause=cause, steps=of_this.get("step"))


def make_spare(attempt: AttemptFolder) -> None:
    """Keep some disk for the verdict: real bytes, since holes of a file are no space."""
    durable.reached("spare", attempt.spare_file)
    attempt.spare_file.write_bytes(b"\n" * SPARE_BYTES)


def _write(attempt: AttemptFolder, document: Document) -> None:
    try:
        durable.write_once(attempt.exit_file, durable.as_json(document))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        _write_into_spare(attempt, document)
    else:
        attempt.spare_file.unlink(missing_ok=True)


def _write_into_spare(attempt: AttemptFolder, document: Document) -> None:
    """Write over the spare file, which has its space already, and give it the verdict's name. Raises `OSError`."""
    mine = attempt.path / f".exit.{secrets.token_hex(4)}.partial"
    attempt.spare_file.rename(mine)
    try:
        with mine.open("r+b") as file:
            durable.reached("write", mine)
            file.write(_short(document))
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        durable.reached("link", attempt.exit_file)
        os.link(mine, attempt.exit_file)
    finally:
        mine.unlink(missing_ok=True)
    durable.sync_directory(attempt.path)


def _short(document: Document) -> bytes:
    """The document if it fits the spare file, else what of it matters most."""
    whole = durable.as_json(document)
    for entries, letters in _SHORTER:
        if len(whole) <= SPARE_BYTES:
            return whole
        cut = _cut(document, entries, letters)
        whole = durable.as_json({**cut, "message": f"{cut['message']} (This record is shortened: the disk was full.)"})
    return whole if len(whole) <= SPARE_BYTES else durable.as_json({**cut, "result": None, "error": None})


def _cut(value: Any, entries: int, letters: int) -> Any:
    """`value` with the first and last `entries` of its lists, and of what is told by step, and so much of its texts."""
    if isinstance(value, str):
        return value[:letters]
    if isinstance(value, list | tuple):
        kept = value if len(value) <= 2 * entries else [*value[:entries], *value[-entries:]]
        return [_cut(item, entries, letters) for item in kept]
    if isinstance(value, Mapping):
        names = list(value)
        if len(names) > 2 * entries and all(str(name).isdecimal() for name in names):
            names = [*names[:entries], *names[-entries:]]
        return {name: _cut(value[name], entries, letters) for name in names}
    return value
