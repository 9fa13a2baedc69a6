"""start_training, get_job, list_jobs and control_job."""

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
from mcp.server.mcpserver.context import Context
from mcp.types import CallToolResult
from pydantic import Field

import qlora_tools
from qlora_tools.errors import UsageError
from qlora_tools.jobs.layout import TRAINING
from qlora_tools.jobs.states import TERMINAL

from ..answers import answered
from ..arguments import DryRun, IdempotencyKey, JobId, PathText, PlannedConfig, Settings
from ..batches import Batches
from ..job_words import (
    JobAnswer,
    JobHandle,
    JobListAnswer,
    job_answer,
    job_handle,
    job_line,
    job_links,
    job_words,
    named,
    state_words,
)
from ..work import Document
from .toolset import Toolset

if TYPE_CHECKING:
    from qlora_tools.config import RunConfig
    from qlora_tools.jobs import JobStatus

_POLL_SECONDS = 0.5
State = Literal[
    "created", "queued", "starting", "running", "stopping", "succeeded", "failed", "cancelled", "stopped", "interrupted"
]


@dataclass(frozen=True)
class JobTools(Toolset):
    """Looking at jobs."""

    _batches: Batches = field(default_factory=Batches)

    async def get_job(
        self,
        context: Context[Any, Any],
        job_id: JobId = "last",
        wait_seconds: Annotated[
            float, Field(ge=0, le=30, description="Waits so long for its end; running out is no error.")
        ] = 0,
        log_lines: Annotated[int, Field(ge=0, le=200, description="Last lines of the log to show.")] = 0,
        curve: Annotated[bool, Field(description="Show the loss curve as an image.")] = False,
    ) -> Annotated[CallToolResult, JobAnswer]:
        """How far is a job, or how did it end? Losses, ETA, warnings, result, verdict, what to do next."""
        status = await self._watched(job_id, wait_seconds, context)
        curve = curve and status.kind == TRAINING
        log = None
        if log_lines:
            part = await self._aside(qlora_tools.read_log, status.id, lines=log_lines, workspace=self.options.workspace)
            log = part.text
        drawn = await self._curve(status, context) if curve and status.step else None
        return answered(
            job_words(status, log=log),
            job_answer(status, log=log),
            pictures=[drawn["picture"]] if drawn else [],
            links=job_links(status) if log_lines or curve or status.state in TERMINAL else (),
        )

    async def _curve(self, status: "JobStatus", context: Context[Any, Any]) -> Document | None:
        await self._aside(self.options.access.to_read, status.output_directory, "the job's output directory")
        return await self._worked("curve", {"job_id": status.id, "workspace": str(self.options.workspace)}, context)

    async def _watched(self, job_id: str, wait_seconds: float, context: Context[Any, Any]) -> "JobStatus":
        """The status at once, or when the job has ended or the time is up; who listens is told how far it is."""
        deadline, told = time.monotonic() + wait_seconds, ""
        # A millisecond of reading of what is no pipe: a thread would cost as much again.
        status = qlora_tools.get_job(job_id, workspace=self.options.workspace, tend=not self.options.read_only)
        while status.state not in TERMINAL and (left := deadline - time.monotonic()) > 0:
            words = state_words(status)
            if words != told:
                await context.report_progress(status.step or 0, status.planned_steps, words)
                told = words
            await anyio.sleep(min(_POLL_SECONDS, left))
            status = await self._aside(qlora_tools.get_job, status.id, workspace=self.options.workspace, tend=False)
        return status

    async def list_jobs(
        self,
        states: Annotated[list[State], Field(max_length=10, description="Only jobs in these states.")] | None = None,
        limit: Annotated[int, Field(ge=1, le=100)] = 10,
    ) -> Annotated[CallToolResult, JobListAnswer]:
        """The jobs of the workspace, the newest first: what runs, waits and ended."""
        answer: CallToolResult = await self._batches.ask(
            f"{sorted(states or ())} {limit}", partial(self._listed, states, limit)
        )
        return answer

    async def _listed(self, states: list[State] | None, limit: int) -> CallToolResult:
        workspace, tend = self.options.workspace, not self.options.read_only
        found = await self._aside(qlora_tools.list_jobs, states=states, limit=limit, workspace=workspace, tend=tend)
        lines = [f"{job.id} ({named(job)}): {state_words(job)}" for job in found.jobs]
        call = "get_job(job_id=...) tells more of one." if lines else "start_training starts one."
        hidden = f"{found.total - len(found.jobs)} more." if found.total > len(found.jobs) else ""
        text = "\n".join([*(lines or ["There are no such jobs."]), *found.notes, f"{hidden} Next: {call}".strip()])
        jobs = [job_line(job) for job in found.jobs]
        return answered(text, JobListAnswer(jobs=jobs, total=found.total, notes=found.notes, next_call=call))


class JobControls(Toolset):
    """Starting jobs and ending them."""

    async def start_training(
        self,
        config: PlannedConfig | None = None,
        config_path: Annotated[PathText, Field(description="A YAML or JSON file instead of config.")] | None = None,
        name: Annotated[str, Field(max_length=100, description="What the job is called in lists.")] | None = None,
        idempotency_key: IdempotencyKey | None = None,
        dry_run: DryRun = False,
    ) -> Annotated[CallToolResult, JobHandle]:
        """Start a training job and return its id at once; it outlives this server. get_job follows it.

        The config comes from create_config. The job fails where the data is not ready.
        """
        run = await self._aside(self._config, config, config_path)
        status = await self._aside(
            qlora_tools.start_training,
            run,
            workspace=self.options.workspace,
            idempotency_key=idempotency_key,
            name=name,
            dry_run=dry_run,
        )
        if dry_run:
            text = (
                f"It would start: {status.model} into {status.output_directory}. Next: start_training without dry_run."
            )
            answer = job_handle(status).model_copy(update={"next_call": "start_training without dry_run."})
            return answered(text, answer)
        return answered(job_words(status), job_handle(status), links=job_links(status))

    def _config(self, config: dict[str, Any] | None, config_path: str | None) -> "RunConfig":
        from qlora_tools.jobs.needs import check_local_data

        if (config is None) == (config_path is None):
            raise UsageError(
                "Exactly one of config and config_path is needed.",
                next_step="Give config as create_config returned it, or config_path for a file in the workspace.",
            )
        if config_path is not None:
            parsed = qlora_tools.load_config(self.options.access.to_read(config_path, "config_path"))
        else:
            parsed = qlora_tools.parse_config(config or {}, source="given")
        checked = self.options.access.checked_config(parsed)
        check_local_data(checked)
        return checked

    async def control_job(
        self,
        action: Annotated[
            Literal["stop", "cancel", "resume"],
            Field(description="stop: end with a checkpoint. cancel: end for good. resume: go on."),
        ],
        job_id: JobId,
        now: Annotated[bool, Field(description="stop, cancel: do not wait for a checkpoint.")] = False,
        changes: Annotated[
            Settings, Field(description='resume: changed fields, such as {"learning_rate": 1e-4}.')
        ] = {},  # noqa: B006
        from_checkpoint: Annotated[PathText, Field(description="resume: checkpoint directory; else the last.")]
        | None = None,
        from_start: Annotated[bool, Field(description="resume: begin again.")] = False,
    ) -> Annotated[CallToolResult, JobHandle]:
        """Stop, cancel or resume a job of any kind. Never start one again because it is silent: get_job tells."""
        for_resume = {"changes": changes, "from_checkpoint": from_checkpoint, "from_start": from_start}
        misplaced = [name for name, value in ({"now": now} if action == "resume" else for_resume).items() if value]
        if misplaced:
            raise UsageError(
                f"{', '.join(misplaced)} has no meaning for action {action!r}.",
                next_step="Leave it out, or change action.",
            )
        from ..resuming import checked_changes

        workspace = self.options.workspace
        if action != "resume":
            status = await self._aside(
                qlora_tools.stop_job, job_id, cancel=action == "cancel", now=now, workspace=workspace
            )
            return answered(job_words(status), job_handle(status), links=job_links(status))
        access = self.options.access
        status = await self._aside(
            qlora_tools.resume_job,
            job_id,
            from_checkpoint=await self._aside(access.to_read, from_checkpoint, "from_checkpoint")
            if from_checkpoint
            else None,
            from_start=from_start,
            changes=await self._aside(checked_changes, self.options, job_id, changes),
            workspace=workspace,
        )
        return answered(job_words(status), job_handle(status), links=job_links(status))
