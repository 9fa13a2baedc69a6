"""What is told about jobs."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal[
    "created", "queued", "starting", "running", "stopping", "succeeded", "failed", "cancelled", "stopped", "interrupted"
]


class Record(BaseModel):
    """Frozen; fields of other versions are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class AttemptSummary(Record):
    """One attempt of a job and how it ended."""

    attempt: int = Field(description="Number of the attempt, from 1.")
    state: State = Field(description="State of this attempt; that of an ended one never changes.")
    resumed_from: str | None = Field(None, description="Checkpoint it went on from.")
    started: str | None = Field(None, description="When it began to work, UTC.")
    ended: str | None = Field(None, description="When its verdict was written, UTC.")
    message: str | None = Field(None, description="How it ended.")
    cause: str | None = Field(
        None, description="Why it ended: error, bug, asked, a signal, host-memory, restart, killed, elsewhere."
    )


class JobStatus(Record):
    """One job: its state, how far it is, and what to do next. Memory in bytes, times in seconds or UTC."""

    id: str = Field(description="The job's id; empty for a dry run.")
    name: str = Field(description="Name that the user gave, else that of the output directory.")
    kind: str = Field("train", description="What the job does: train, evaluate, merge or export.")
    model: str = Field("", description="Name of the base model.")
    state: State = Field(description="State of the last attempt.")
    attempt: int = Field(1, description="Number of the last attempt.")
    attempts: list[AttemptSummary] = Field(default_factory=list, description="All attempts with their verdicts.")
    phase: str | None = Field(None, description="What a running job does now.")
    step: int | None = Field(None, description="Steps done; of other kinds than train, pieces of the phase.")
    planned_steps: int | None = Field(None, description="Steps or pieces in all; None until they are known.")
    loss: float | None = Field(None, description="Latest training loss.")
    evaluation_loss: float | None = Field(None, description="Latest evaluation loss.")
    tokens_per_second: float | None = Field(None, description="Latest speed.")
    memory: int | None = Field(None, description="Peak memory so far.")
    eta_seconds: float | None = Field(None, description="Expected time until the end of the run or phase.")
    queue_position: int | None = Field(None, description="Place among the waiting jobs, from 1.")
    waiting_for: str | None = Field(None, description="What a queued job waits for.")
    needed_bytes: int | None = Field(None, description="Memory it is taken to need; None = unknown, a whole device.")
    needed_how: str = Field("", description="How that was found.")
    device: str | None = Field(None, description="GPU that the last attempt was given; None for the CPU.")
    output_directory: str = Field("", description="Where the results go.")
    adapter_directory: str | None = Field(None, description="The finished adapter.")
    last_checkpoint: str | None = Field(None, description="Newest complete checkpoint that is known.")
    warnings: list[str] = Field(default_factory=list, description="What was noticed.")
    message: str | None = Field(None, description="How it ended.")
    next_step: str = Field("", description="What to do next.")
    created: str = Field("", description="When it was submitted.")
    started: str | None = Field(None, description="When the last attempt began to work.")
    ended: str | None = Field(None, description="When the last attempt ended.")
    updated: str | None = Field(None, description="When progress was last told.")
    exit_code: int | None = Field(None, description="Exit code of the last attempt, as of `qlora train`.")
    error: dict[str, Any] | None = Field(None, description="The error of a failed job.")
    summary: str | None = Field(None, description="What came of a succeeded job, in a line.")
    result: dict[str, Any] | None = Field(
        None, description="Of a succeeded job: TrainResult, EvaluationResult, MergeResult or ExportResult, by its kind."
    )


class JobList(Record):
    """Jobs, the newest first."""

    jobs: list[JobStatus] = Field(description="The jobs asked for.")
    total: int = Field(description="How many jobs match, shown or not.")
    notes: list[str] = Field(default_factory=list, description="What was repaired on the way.")


class LogText(Record):
    """A part of a job's log, without secrets and control characters."""

    id: str = Field(description="The job's id.")
    text: str = Field(description="The lines.")
    next_byte: int = Field(description="Where the next part begins; give it as since_byte.")
