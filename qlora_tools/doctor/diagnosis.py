"""From a log or an error text to causes, evidence, and the change of the config that mends it. Needs no torch."""

import re
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict

from ..config import RunConfig, parse_config
from ..errors import ConfigError, UsageError
from .evidence import masked_evidence
from .log_text import Line, LogText, read_log, text_of
from .metrics import metric_hits
from .origins import origin_hits
from .recognition import Hit, ranked, recognise
from .unknown import UNKNOWN_ERROR, UnknownError, unknown_error

_MOST_FINDINGS = 5
_FARTHEST = 60  # a finding this far below the first says nothing beside it
_EXCEPTION_LINE = re.compile(
    r"^\W{0,40}(?:[\w.]{1,100}\.)?\w{0,60}(?:Error|Exception|Exit|Interrupt)\b(?::"
    r"|$)|\b(?:error|fatal|ERROR|FATAL)\b ?:"
)


class Patch(BaseModel):
    """The changes in two forms: `settings` for `qlora plan` and `qlora resume`, `merge` as a JSON merge patch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: list[str]
    merge: dict[str, dict[str, Any]]


class Finding(BaseModel):
    """One cause that the log speaks for. `changes` are dotted config fields; `line` counts from 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    title: str
    cause: str
    evidence: str
    line: int
    confidence: Literal["certain", "likely", "possible"]
    changes: dict[str, Any]
    commands: list[str]
    next_step: str
    more: str


class DiagnosisReport(BaseModel):
    """Causes in order of likelihood; `patch` holds the changes of the first.

    Where nothing is recognised the one finding, if any, is called `unknown_error` and tells what kind of error it is;
    `last_error` is the line to start from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recognised: bool
    findings: list[Finding]
    patch: Patch | None
    last_error: str | None
    last_error_line: int | None
    next_step: str


def diagnose(log: str | Path | BinaryIO, *, config: RunConfig | None = None) -> DiagnosisReport:
    """Say why a run failed. A `Path` or binary file is read, a `str` is the text itself.

    `config` is the run's; changes are computed from it, and the effective batch stays. Raises `UsageError` for a file
    that cannot be read.
    """
    text = text_of(log) if isinstance(log, str) else _read(log) if isinstance(log, Path) else read_log(log)
    hits = ranked([*recognise(text), *metric_hits(text)]) or origin_hits(text)
    kept = [hit for hit in hits[:_MOST_FINDINGS] if hit.score > hits[0].score - _FARTHEST]
    findings = [_finding(hit, text, config) for hit in kept]
    last = _last_error(text)
    unknown = None if findings else unknown_error(text)
    return DiagnosisReport(
        recognised=bool(findings),
        findings=[_finding_of_unknown(unknown)] if unknown else findings,
        patch=patch_of(findings[0].changes) if findings and findings[0].changes else None,
        last_error=masked_evidence(last.text) if last else None,
        last_error_line=last.number if last else None,
        next_step=findings[0].next_step if findings else _where_to_look(last),
    )


def patch_of(changes: dict[str, Any]) -> Patch:
    """Dotted fields as settings and as a merge patch."""
    merge: dict[str, dict[str, Any]] = {}
    for field, value in changes.items():
        part, _, name = field.partition(".")
        merge.setdefault(part, {})[name] = value
    return Patch(settings=[f"{field}={_as_setting(value)}" for field, value in changes.items()], merge=merge)


def changed_config(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """The config with the changes; raises `ConfigError` where they do not go with it."""
    values = config.model_dump(mode="json", exclude_unset=True)
    for field, value in changes.items():
        part, _, name = field.partition(".")
        values.setdefault(part, {})[name] = value
    return parse_config(values, source="with the changes")


def _read(path: Path) -> LogText:
    try:
        with path.open("rb") as file:
            return read_log(file)
    except OSError as error:
        message = f"The log {path} cannot be read: {(error.strerror or str(error)).lower()}."
        raise UsageError(message, next_step="Check the path, or give - and pipe the log in.") from None


def _finding(hit: Hit, text: LogText, config: RunConfig | None) -> Finding:
    line, failure = text.line_at(hit.offset), hit.failure
    return Finding(
        id=failure.id,
        title=failure.title,
        cause=failure.cause,
        evidence=masked_evidence(line.text),
        line=line.number,
        confidence=hit.confidence,
        changes=_valid(failure.changes(config), config),
        commands=list(failure.commands),
        next_step=failure.next_step,
        more=failure.more,
    )


def _finding_of_unknown(error: UnknownError) -> Finding:
    return Finding(
        id=UNKNOWN_ERROR,
        title=error.title,
        cause=error.cause,
        evidence=masked_evidence(error.text),
        line=error.line,
        confidence="possible",
        changes={},
        commands=[],
        next_step=error.next_step,
        more="troubleshooting",
    )


def _valid(changes: dict[str, Any], config: RunConfig | None) -> dict[str, Any]:
    """The changes, or none where the rest of the config forbids them."""
    if config is not None and changes:
        try:
            changed_config(config, changes)
        except ConfigError:
            return {}
    return changes


def _last_error(text: LogText) -> Line | None:
    named = [line for line in text.lines if _EXCEPTION_LINE.search(line.text)]
    return named[-1] if named else (text.lines[-1] if text.lines else None)


def _where_to_look(last: Line | None) -> str:
    if last is None:
        return "The log is empty: give the output of the run with stderr, such as run.log of `... > run.log 2>&1`."
    return (
        f"No known failure is told. Read line {last.number} and the first traceback above it; run with "
        "CUDA_LAUNCH_BLOCKING=1 for errors of the GPU, and `qlora doctor` for the machine."
    )


def _as_setting(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list | tuple) else str(value)
