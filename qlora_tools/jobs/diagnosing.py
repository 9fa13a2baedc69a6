"""Why a job failed."""

from pathlib import Path

from ..config import RunConfig, load_config
from ..doctor import DiagnosisReport, diagnose
from .layout import Workspace
from .reading import get_job


def diagnose_job(
    name: str, *, workspace: Path | None = None, config: RunConfig | None = None
) -> tuple[DiagnosisReport, RunConfig]:
    """Causes of a job's failure, and its config: the log is read where its last message tells nothing.

    Raises `UsageError` for an unknown job.
    """
    status = get_job(name, workspace=workspace)
    job = Workspace.at(workspace).job(status.id)
    config = config or load_config(job.config_file)
    report = diagnose(status.message or "", config=config)
    return (report if report.recognised else diagnose(job.log_file, config=config)), config
