"""Jobs in words, and as the structured side of answers; each with the next useful call."""

from typing import TYPE_CHECKING, Any

from mcp.types import ResourceLink
from pydantic import Field

from qlora_tools.jobs.course import course_of
from qlora_tools.jobs.layout import TRAINING
from qlora_tools.jobs.nouns import noun_of
from qlora_tools.jobs.states import QUEUED, TERMINAL
from qlora_tools.progress.durations import duration_words

from .answers import Structured, link_to
from .result_words import brief_result, result_lines

if TYPE_CHECKING:
    from qlora_tools.jobs import JobStatus

_MOST_WARNINGS = 5
_LOG_CHARACTERS = 6_000


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
    kind: str = TRAINING
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
    """A job that was started, stopped or resumed; get_job tells the rest."""

    id: str
    state: str
    waiting_for: str | None = None
    needed_gib: float | None = None
    output_directory: str
    next_call: str


class JobLine(Structured):
    """One job of a list."""

    id: str
    name: str
    kind: str = TRAINING
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
    attempts = [AttemptWords(**one.model_dump(include=set(AttemptWords.model_fields))) for one in status.attempts]
    return JobAnswer(
        **{**fields, "warnings": status.warnings[:_MOST_WARNINGS]},
        finished=status.state in TERMINAL,
        needed_gib=_needed_gib(status),
        attempts=attempts if len(attempts) > 1 or status.state in TERMINAL else [],
        result=brief_result(status.kind, status.result or {}) or None,
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
    lines = [f"{status.id} ({named(status)}): {state_words(status)}"]
    lines += [status.message] if status.message else []
    lines += [f"Warning: {warning}" for warning in status.warnings[:_MOST_WARNINGS]]
    lines += [f"Adapter: {status.adapter_directory}"] if status.adapter_directory else []
    lines += [f"Result: {status.summary}"] if status.summary else []
    lines += result_lines(status.kind, status.result or {})
    lines.append(f"Next: {next_call(status)}")
    # Last, since a long answer is cut at its end.
    lines += [f"Log:\n{log[-_LOG_CHARACTERS // 5 :]}"] if log else []
    return "\n".join(lines)


def state_words(status: "JobStatus") -> str:
    """`running, step 12/100 · loss 1.234 · ETA 3 min`."""
    if status.state in QUEUED:
        place = f", place {status.queue_position}" if status.queue_position else ""
        return f"{status.state}{place}, waiting for {status.waiting_for}"
    return ", ".join(word for word in (status.state, course_of(status)) if word)


def named(status: "JobStatus") -> str:
    """The job's name, and what it does where it is no training."""
    return status.name if status.kind == TRAINING else f"{status.name}, {noun_of(status.kind)}"


def next_call(status: "JobStatus") -> str:
    """The call that helps next."""
    job = f"job_id={status.id!r}"
    if status.state == "succeeded":
        return _after_success(status)
    if status.state == "failed" and status.kind != TRAINING:
        return f"{status.next_step} With other arguments it is a new job."
    if status.state == "failed":
        resume = f"control_job({job}, action='resume', changes={{...}})"
        return f"{status.next_step} As tools: diagnose_failure({job}), then {resume} or a new start_training."
    if status.state in ("stopped", "interrupted"):
        origin = status.last_checkpoint or ("the beginning" if status.kind == TRAINING else "what it has written")
        return f"control_job({job}, action='resume') goes on from {origin}."
    if status.state == "cancelled" and status.kind != TRAINING:
        return "The same call with another idempotency_key begins anew."
    if status.state == "cancelled":
        return "start_training begins a new run, with another idempotency_key than the cancelled one."
    wait = f"get_job({job}, wait_seconds=30)"
    if status.eta_seconds is not None and status.eta_seconds > 120:
        return f"{wait}; about {duration_words(status.eta_seconds)} are left, so do something else meanwhile."
    return f"{wait} waits for its end."


def _after_success(status: "JobStatus") -> str:
    result = status.result or {}
    if status.kind == "evaluate":
        ship = f"merge_adapter(adapter={result.get('adapter')!r}, output=...) or export_model(source=..., to=...)."
        verdict = result.get("verdict")
        decision = verdict.get("decision") if isinstance(verdict, dict) else None
        return f"Tell the person the verdict. {ship}" if decision == "ship" else f"Tell the person. {status.next_step}"
    if status.kind == "merge":
        return f"export_model(source={status.id!r}, to='gguf', output=...), or tell the person where the model lies."
    if status.kind == "export":
        return "Tell the person where it lies, its licence, and what its README.md says on loading it."
    ask = f"generate_text(adapter={status.id!r}, prompts=[held-out prompts], side='both') shows answers"
    return f"{ask}, evaluate_adapter(adapter={status.id!r}) whether it helped."


def job_links(status: "JobStatus") -> list[ResourceLink]:
    """Where the whole report, log and metrics of a job are."""
    base = f"qlora://jobs/{status.id}"
    report = link_to(f"{base}/report", "report", "text/html", "How it went, as a page")
    log = link_to(f"{base}/log", "log", "text/plain", "The end of the log")
    if status.kind == TRAINING:
        return [report, log, link_to(f"{base}/metrics", "metrics", "application/jsonl", "Losses, step by step")]
    return [report, log] if status.kind == "evaluate" and status.result else [log]
