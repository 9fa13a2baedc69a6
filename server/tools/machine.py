"""check_environment and diagnose_failure."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver.context import Context
from mcp.types import CallToolResult
from pydantic import Field

import qlora_tools
from qlora_tools.errors import UsageError

from ..answers import Structured, answered
from ..arguments import JobId, PathText, PlannedConfig
from .toolset import Toolset

if TYPE_CHECKING:
    from qlora_tools.doctor import DiagnosisReport, EnvironmentReport

_MOST_LOG = 400_000
_STILL = "It is still being checked. Make the same call again to get the report."


class CheckAnswer(Structured):
    """One check of the machine."""

    name: str
    status: str
    found: str
    mend: str | None = None


class EnvironmentAnswer(Structured):
    """What the machine can do; nothing while it is being checked."""

    can_train: bool | None = None
    device: str | None = None
    checks: list[CheckAnswer] = Field(default_factory=list)
    next_call: str


class Cause(Structured):
    """One cause of a failure."""

    id: str
    title: str
    cause: str
    confidence: str
    evidence: str
    changes: dict[str, Any]
    commands: list[str]
    next_step: str


class DiagnosisAnswer(Structured):
    """Causes, the likeliest first."""

    recognised: bool
    causes: list[Cause]
    last_error: str | None = None
    next_call: str


class MachineTools(Toolset):
    """The machine, and what went wrong on it."""

    async def check_environment(self, context: Context[Any, Any]) -> Annotated[CallToolResult, EnvironmentAnswer]:
        """Can this machine train? Checks Python, libraries, driver, GPU, 4-bit, memory, disk. About 10 s. Call it first."""
        found = await self._worked("environment", {"directory": str(self.options.workspace)}, context)
        if found is None:
            return answered(_STILL, EnvironmentAnswer(next_call=_STILL))
        from qlora_tools.doctor import EnvironmentReport

        report = EnvironmentReport.model_validate(found)
        checks = [CheckAnswer(**check.model_dump()) for check in report.checks]
        call = _after_environment(report)
        answer = EnvironmentAnswer(can_train=report.can_train, device=report.device, checks=checks, next_call=call)
        return answered(_environment_words(report, call), answer)

    async def diagnose_failure(
        self,
        job_id: JobId | None = None,
        log_text: Annotated[str, Field(max_length=_MOST_LOG, description="An error or log from anywhere.")]
        | None = None,
        log_path: Annotated[PathText, Field(description="A log file in the workspace.")] | None = None,
        config: PlannedConfig | None = None,
    ) -> Annotated[CallToolResult, DiagnosisAnswer]:
        """Why did a run fail, and which change mends it? Give one of job_id, log_text, log_path; config for its changes."""
        sources = {"job_id": job_id, "log_text": log_text, "log_path": log_path}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) != 1:
            raise UsageError(
                f"{len(given)} of job_id, log_text and log_path were given ({', '.join(given) or 'none'}); exactly one is "
                "allowed.",
                next_step="Give job_id for a job of this workspace, log_text for anything else.",
            )
        report = await self._aside(self._diagnosed, job_id, log_text, log_path, config)
        call = _after_diagnosis(report, job_id)
        causes = [Cause(**finding.model_dump(include=set(Cause.model_fields))) for finding in report.findings]
        answer = DiagnosisAnswer(
            recognised=report.recognised, causes=causes, last_error=report.last_error, next_call=call
        )
        return answered(_diagnosis_words(report, call), answer)

    def _diagnosed(
        self, job_id: str | None, log_text: str | None, log_path: str | None, config: dict[str, Any] | None
    ) -> "DiagnosisReport":
        run = qlora_tools.parse_config(config, source="given") if config is not None else None
        if job_id is not None:
            from qlora_tools.jobs.diagnosing import diagnose_job

            return diagnose_job(job_id, workspace=self.options.workspace, config=run)[0]
        source: str | Path = log_text or "" if log_path is None else self.options.access.to_read(log_path, "log_path")
        return qlora_tools.diagnose(source, config=run)


def _environment_words(report: "EnvironmentReport", call: str) -> str:
    head = f"This machine can{'' if report.can_train else 'not'} train: {report.device}"
    wrong = [f"{check.status}: {check.name}: {check.found}" for check in report.checks if check.status != "ok"]
    mends = [f"  mend: {check.mend}" for check in report.checks if check.status == "failed" and check.mend]
    kept = [f"{check.name}: {check.found}" for check in report.checks if check.name in ("GPU", "memory", "disk")]
    return "\n".join([head, *kept, *wrong, *mends, f"Next: {call}"])


def _after_environment(report: "EnvironmentReport") -> str:
    if not report.can_train:
        return "Mend what failed (the person may have to), then check_environment again."
    where = "" if "CPU" not in report.device else ", gpu='cpu'"
    return f"inspect_dataset(data=..., model=...), then create_config(model=..., data=...{where})."


def _diagnosis_words(report: "DiagnosisReport", call: str) -> str:
    lines: list[str] = [] if report.recognised else ["No known failure was recognised."]
    for finding in report.findings[:3]:
        lines.append(f"{finding.title} ({finding.confidence}): {finding.cause}")
        lines += [f"  change {field} to {value!r}" for field, value in finding.changes.items()]
        lines += [f"  run: {command}" for command in finding.commands[:2]]
    if report.last_error and not report.recognised:
        lines.append(f"Last error: {report.last_error}")
    return "\n".join([*lines, f"Next: {call}"])


def _after_diagnosis(report: "DiagnosisReport", job_id: str | None) -> str:
    changes = report.findings[0].changes if report.findings else {}
    if changes and job_id is not None:
        return f"control_job(job_id={job_id!r}, action='resume', changes={_brief(changes)})."
    if changes:
        return f"create_config or start_training with these settings: {_brief(changes)}."
    return report.next_step


def _brief(changes: dict[str, Any]) -> dict[str, Any]:
    return dict(list(changes.items())[:6])
