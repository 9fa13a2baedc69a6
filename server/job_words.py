"""Jobs in words, and as the structured side of answers; each with the next useful call."""

from typing import TYPE_CHECKING, Any

from mcp.types import ResourceLink
from pydantic import Field

from qlora_tools.jobs.states import QUEUED, TERMINAL
from qlora_tools.progress.durations import duration_words
from qlora_tools.progress.line import status_line

from .answers import Structured, link_to

if TYPE_CHECKING:
    from qlora_tools.jobs import JobStatus

_MOST_WARNINGS = 5
_LOG_CHARACTERS = 6_000
# What a result holds one of for each step is left to qlora://jobs/{id}/metrics.
_LEFT_OUT = ("losses", "versions", "output_directory", "adapter_directory", "warnings")


class AttemptWords(Structured):
    """How one attempt ended."""

    attempt: int
    state: str
    cause: str | None = None
    message: str | None = None


class JobAnswer(Structured):
    """A job. Times in seconds, memory in GiB; what is not known yet is absent."""

    id: str
    name: str
    state: str
    finished: bool
    phase: str | None = None
    step: int | None = None
    planned_steps: int | None = None
    loss: float | None = None
    evaluation_loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    queue_position: int | None = None
    waiting_for: str | None = None
    needed_gib: float | None = None
    output_directory: str = ""
    adapter_directory: str | None = None
    last_checkpoint: str | None = None
    attempts: list[AttemptWords] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    message: str | None = None
    result: dict[str, Any] | None = None
    log: str | None = None
    next_call: str


class JobHandle(Structured):
    """A job that was started, stopped or resumed."""

    id: str
    name: str
    state: str
    queue_position: int | None = None
    waiting_for: str | None = None
    needed_gib: float | None = None
    output_directory: str
    last_checkpoint: str | None = None
    message: str | None = None
    next_call: str


class JobLine(Structured):
    """One job of a list."""

    id: str
    name: str
    state: str
    model: str
    step: int | None = None
    planned_steps: int | None = None
    loss: float | None = None
    evaluation_loss: float | None = None
    queue_position: int | None = None
    created: str


class JobListAnswer(Structured):
    """Jobs, the newest first; `total` counts those that match."""

    jobs: list[JobLine]
    total: int
    notes: list[str] = Field(default_factory=list)
    next_call: str


def job_answer(status: "JobStatus", *, log: str | None = None) -> JobAnswer:
    """A job as data."""
    fields = status.model_dump(include=set(JobAnswer.model_fields) - {"attempts", "result"})
    result = {name: value for name, value in (status.result or {}).items() if name not in _LEFT_OUT}
    losses = _numbers((status.result or {}).get("losses"))
    if losses:
        result |= {"first_loss": losses[0], "last_loss": losses[-1]}
    attempts = [AttemptWords(**one.model_dump(include=set(AttemptWords.model_fields))) for one in status.attempts]
    return JobAnswer(
        **{**fields, "warnings": status.warnings[:_MOST_WARNINGS]},
        finished=status.state in TERMINAL,
        needed_gib=_needed_gib(status),
        attempts=attempts if len(attempts) > 1 or status.state in TERMINAL else [],
        result=result or None,
        log=log[-_LOG_CHARACTERS:] if log is not None else None,
        next_call=next_call(status),
    )


def job_handle(status: "JobStatus") -> JobHandle:
    """What is needed to go on with a job."""
    fields = status.model_dump(include=set(JobHandle.model_fields))
    return JobHandle(**fields, needed_gib=_needed_gib(status), next_call=next_call(status))


def _needed_gib(status: "JobStatus") -> float | None:
    return None if status.needed_bytes is None else round(status.needed_bytes / 2**30, 2)


def job_line(status: "JobStatus") -> JobLine:
    """A job of a list as data."""
    return JobLine(**status.model_dump(include=set(JobLine.model_fields)))


def job_words(status: "JobStatus", *, log: str | None = None) -> str:
    """A job in a few lines."""
    lines = [f"{status.id} ({status.name}): {state_words(status)}"]
    lines += [status.message] if status.message else []
    lines += [f"Warning: {warning}" for warning in status.warnings[:_MOST_WARNINGS]]
    lines += [f"Adapter: {status.adapter_directory}"] if status.adapter_directory else []
    lines += [f"Result: {_result_words(status.result)}"] if status.result else []
    lines.append(f"Next: {next_call(status)}")
    # Last, since a long answer is cut at its end.
    lines += [f"Log:\n{log[-_LOG_CHARACTERS // 5 :]}"] if log else []
    return "\n".join(lines)


def state_words(status: "JobStatus") -> str:
    """`running, step 12/100 · loss 1.234 · ETA 3 min`."""
    if status.state in QUEUED:
        place = f", place {status.queue_position}" if status.queue_position else ""
        return f"{status.state}{place}, waiting for {status.waiting_for}"
    if status.step is None:
        return f"{status.state}{f', {status.phase}' if status.phase else ''}"
    names = ("step", "planned_steps", "loss", "evaluation_loss", "tokens_per_second", "eta_seconds")
    return f"{status.state}, {status_line(status.model_dump(include=set(names)))}"


def _result_words(result: dict[str, Any]) -> str:
    """The result in half a line. It was read from a file, so nothing is taken for granted."""
    losses, rows = _numbers(result.get("losses")), result.get("training_rows")
    evaluations = result.get("evaluation_losses")
    held_out = _numbers(list(evaluations.values())) if isinstance(evaluations, dict) else []
    words = [f"loss {losses[0]:.3f} -> {losses[-1]:.3f}"] if losses else []
    if held_out:
        course = f"{held_out[0]:.3f} -> {held_out[-1]:.3f}" if len(held_out) > 1 else f"{held_out[0]:.3f}"
        words.append(f"held-out loss {course}, kept step {result.get('saved_step')}")
    words += [f"{rows.get('used')} of {rows.get('read')} rows usable"] if isinstance(rows, dict) else []
    words += [duration_words(seconds) for seconds in _numbers([result.get("train_seconds")])]
    return ", ".join(words)


def _numbers(values: object) -> list[float]:
    """`values` where all of them are numbers, else none."""
    whole = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    return values if isinstance(values, list) and whole else []


def next_call(status: "JobStatus") -> str:
    """The call that helps next."""
    job = f"job_id={status.id!r}"
    if status.state == "succeeded":
        return f"generate_text(adapter={status.id!r}, prompts=[held-out prompts], side='both') shows whether it helped."
    if status.state == "failed":
        resume = f"control_job({job}, action='resume', changes={{...}})"
        return f"{status.next_step} As tools: diagnose_failure({job}), then {resume} or a new start_training."
    if status.state in ("stopped", "interrupted"):
        return f"control_job({job}, action='resume') goes on from {status.last_checkpoint or 'the beginning'}."
    if status.state == "cancelled":
        return "start_training begins a new run, with another idempotency_key than the cancelled one."
    wait = f"get_job({job}, wait_seconds=30)"
    if status.eta_seconds is not None and status.eta_seconds > 120:
        return f"{wait}; about {duration_words(status.eta_seconds)} are left, so do something else meanwhile."
    return f"{wait} waits for its end."


def job_links(status: "JobStatus") -> list[ResourceLink]:
    """Where the whole report, log and metrics of a job are."""
    base = f"qlora://jobs/{status.id}"
    return [
        link_to(f"{base}/report", "report", "text/html", "How the run went, as a page"),
        link_to(f"{base}/log", "log", "text/plain", "The end of the log"),
        link_to(f"{base}/metrics", "metrics", "application/jsonl", "Losses and speed, step by step"),
    ]
