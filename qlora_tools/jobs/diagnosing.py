"""Why a job failed."""

from pathlib import Path

from ..config import RunConfig
from ..doctor import DiagnosisReport, Finding, diagnose
from .facts import read_document
from .layout import TRAINING, Workspace
from .reading import get_job, read_log
from .records import JobStatus
from .training import with_changes


def diagnose_job(
    name: str, *, workspace: Path | None = None, config: RunConfig | None = None
) -> tuple[DiagnosisReport, RunConfig | None]:
    """Causes of a job's failure, and its config where it is a training. The log is read where its last message tells nothing.

    One that has not failed has no causes.

    Raises `UsageError` for an unknown job.
    """
    status = get_job(name, workspace=workspace)
    job = Workspace.at(workspace).job(status.id)
    if status.kind == TRAINING:
        config = config or with_changes(read_document(job.config_file) or {}, {})
    if status.state not in ("failed", "interrupted"):
        return _has_not_failed(status), config
    report = diagnose(status.message or "", config=config)
    if not report.recognised:
        report = diagnose(read_log(status.id, workspace=workspace).text, config=config)
    return _with_own_error(report, status), config


def _has_not_failed(status: JobStatus) -> DiagnosisReport:
    return DiagnosisReport(
        recognised=False,
        findings=[],
        patch=None,
        last_error=None,
        last_error_line=None,
        next_step=f"The job is {status.state}; it has not failed. {status.next_step}",
    )


def _with_own_error(report: DiagnosisReport, status: JobStatus) -> DiagnosisReport:
    """What a run of this package said of itself is the cause, unless a change of the config is known that mends it."""
    error = status.error or {}
    message, step = error.get("message"), error.get("next_step")
    if status.attempts[-1].cause != "error" or not message or not step or (report.patch is not None):
        return report
    own = Finding(
        id="own_error",
        title=str(error.get("error")),
        cause=str(message),
        evidence=str(message),
        line=1,
        confidence="certain",
        changes={},
        commands=[],
        next_step=str(step),
        more="troubleshooting",
    )
    others = [finding for finding in report.findings if finding.changes]
    return report.model_copy(update={"recognised": True, "findings": [own, *others], "next_step": str(step)})
