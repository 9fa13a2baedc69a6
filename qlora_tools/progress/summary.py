"""A run in numbers and words, from its output directory: while it goes, after its end, and after any kill."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from ..checkpoints import checkpoints
from ..errors import UsageError
from ..results import TrainResult
from ..results.base import Result
from ..run_output import CONFIG_FILE, METRICS_FILE
from .durations import duration_words
from .metrics import Course, read_course
from .notices import Notice
from .pace import Pace
from .run_files import Sample, changed_settings, read_config, read_data_verdict, read_result, read_samples, safe_text
from .watch import CourseWatch

_READ = (
    "evaluation_loss", "learning_rate", "gradient_norm", "seconds", "time", "tokens_per_second", "step_seconds",
    "data_seconds", "peak_allocated_bytes", "peak_reserved_bytes", "host_bytes",
)  # fmt: skip
_LATELY = 20
# Watching costs about 30 microseconds a record.
_MOST_WATCHED = 200_000


@dataclass(frozen=True)
class JobFacts:
    """What only the job store knows of a run; None where it knows nothing."""

    id: str
    state: str
    message: str | None
    next_step: str
    planned_steps: int | None
    attempts: Sequence[str]
    warnings: Sequence[str]


class Warned(Result):
    """One thing noticed. Of those that only the run itself saw, kind, step and advice are within the message."""

    kind: str | None
    step: int | None
    message: str
    next_step: str | None


class Losses(Result):
    """Training losses; `last` is the mean of the last fifth, twenty at most, as single ones scatter."""

    first: float
    last: float
    best: float
    best_step: int


class Evaluation(Result):
    """One evaluation, and the mean of the training losses logged before it, twenty at most."""

    step: int
    loss: float
    training_loss: float | None


class Speed(Result):
    """Recent seconds a step and tokens a second; the time of the last attempt so far, and what is left of it."""

    step_seconds: float | None
    tokens_per_second: float | None
    seconds: float | None
    eta_seconds: float | None


class Memory(Result):
    """Peaks in bytes: of the GPU as torch counts it (0 without one), of the host, and as it was predicted."""

    peak_allocated_bytes: int | None
    peak_reserved_bytes: int | None
    host_bytes: int | None
    predicted_peak_bytes: int | None


class RunSummary(Result):
    """All that is told of a run. `state` is that of the job, else `succeeded` or `unfinished`."""

    output_directory: str
    job_id: str | None
    state: str
    message: str
    next_step: str
    model: str | None
    step: int
    planned_steps: int | None
    attempts: list[str] = Field(default_factory=list)
    resumed_after: list[int] = Field(default_factory=list)
    recovered_after: list[int] = Field(default_factory=list)
    losses: Losses | None
    evaluations: list[Evaluation]
    best_evaluation: Evaluation | None
    saved_step: int | None
    speed: Speed
    memory: Memory
    warnings: list[Warned]
    samples: list[Sample]
    checkpoints: list[int]
    data_verdict: str | None
    settings: dict[str, str]
    facts: dict[str, str]
    versions: dict[str, str]
    unreadable_lines: int


def read_run(output: Path, job: JobFacts | None = None) -> tuple[RunSummary, Course]:
    """The run that writes or wrote to the directory `output`, and its course.

    Raises `UsageError` where no run did; `OSError` where its metrics cannot be read.
    """
    if job is None and not any((output / name).is_file() for name in (METRICS_FILE, CONFIG_FILE)):
        raise UsageError(
            f"{output} is no output of a run: it has neither {METRICS_FILE} nor {CONFIG_FILE}.",
            next_step="Give the output.directory of a run, or the id of a job.",
        )
    course = read_course(output / METRICS_FILE, keys=_READ)
    return _summary(output, course, job), course


def _summary(output: Path, course: Course, job: JobFacts | None) -> RunSummary:
    result, config = read_result(output), read_config(output)
    step = int(course.records[-1]["step"]) if course.records else 0
    planned = result.planned_steps if result else job.planned_steps if job else None
    if planned is None and config is not None:
        planned = config.training.max_steps
    evaluations = _evaluations(course)
    speed = _speed(course, planned, finished=result is not None)
    state, message, next_step = _state(output, course, result, job)
    return RunSummary(
        output_directory=str(output),
        job_id=job.id if job else None,
        state=state,
        message=message,
        next_step=next_step,
        model=config.model.name if config else None,
        step=step,
        planned_steps=planned,
        attempts=[safe_text(attempt) for attempt in job.attempts] if job else [],
        resumed_after=[event["step"] for event in course.events if event["event"] == "resumed"],
        recovered_after=[one.step for one in result.recoveries] if result else [],
        losses=_losses(course),
        evaluations=evaluations,
        best_evaluation=min(evaluations, key=lambda one: one.loss, default=None),
        saved_step=result.saved_step if result else None,
        speed=speed,
        memory=_memory(course, result),
        warnings=_warnings(course, planned, [*(result.warnings if result else ()), *(job.warnings if job else ())]),
        samples=read_samples(output, last_step=step),
        checkpoints=[one.step for one in checkpoints(output)],
        data_verdict=read_data_verdict(output),
        settings=changed_settings(config) if config else {},
        facts=_safe(_facts(result)) if result else {},
        versions=_safe(result.versions) if result else {},
        unreadable_lines=course.unreadable_lines,
    )


def _state(output: Path, course: Course, result: TrainResult | None, job: JobFacts | None) -> tuple[str, str, str]:
    if job is not None:
        return job.state, safe_text(job.message or f"The job is {job.state}."), safe_text(job.next_step)
    if result is not None:
        took = duration_words(result.total_seconds)
        early = ", stopped early as the evaluation no longer fell" if result.stopped_early else ""
        message = f"The run is done: {result.steps:,} of {result.planned_steps:,} steps in {took}{early}."
        return "succeeded", message, f'Try it: `qlora generate {output} -p "..."`.'
    told = course.last.get("time")
    ago = f" Its last record is {duration_words(time.time() - told)} old." if told else ""
    again = f"Look again later: `qlora report {output}`. A run that was ended can be resumed from its last checkpoint."
    return "unfinished", f"There is no result yet: the run goes on, or was ended from outside.{ago}", again


def _losses(course: Course) -> Losses | None:
    losses = course.losses
    if not losses:
        return None
    values = list(losses.values())
    best_step = min(losses, key=lambda step: losses[step])
    last = values[-min(_LATELY, max(1, len(values) // 5)) :]  # of a short run its end, not most of it
    return Losses(first=values[0], last=sum(last) / len(last), best=losses[best_step], best_step=best_step)


def _evaluations(course: Course) -> list[Evaluation]:
    found: list[Evaluation] = []
    recent: list[float] = []
    for record in course.records:
        if record.get("loss") is not None:
            recent = [*recent[-_LATELY + 1 :], record["loss"]]
        if record.get("evaluation_loss") is not None:
            training = sum(recent) / len(recent) if recent else None
            found.append(Evaluation(step=record["step"], loss=record["evaluation_loss"], training_loss=training))
    return found


def _speed(course: Course, planned: int | None, *, finished: bool) -> Speed:
    pace = Pace(planned or 0)
    rates: list[float] = []
    for record in course.records[-10 * _LATELY :]:
        if record.get("seconds") is not None:
            pace.feed(record["step"], record["seconds"], step_seconds=record.get("step_seconds"))
        if record.get("tokens_per_second") is not None:
            rates = [*rates[-_LATELY + 1 :], record["tokens_per_second"]]
    return Speed(
        step_seconds=pace.step_seconds,
        tokens_per_second=sum(rates) / len(rates) if rates else None,
        seconds=course.last.get("seconds"),
        eta_seconds=None if finished or not planned else pace.eta_seconds,
    )


def _memory(course: Course, result: TrainResult | None) -> Memory:
    def peak(key: str) -> int | None:
        return max((int(value) for value in course.series(key).values() if value is not None), default=None)

    return Memory(
        peak_allocated_bytes=result.peak_allocated_bytes if result else peak("peak_allocated_bytes"),
        peak_reserved_bytes=result.peak_reserved_bytes if result else peak("peak_reserved_bytes"),
        host_bytes=peak("host_bytes"),
        predicted_peak_bytes=result.predicted_peak_bytes if result else None,
    )


def _warnings(course: Course, planned: int | None, told: Sequence[str]) -> list[Warned]:
    """What the course shows when it is watched again, and what only the run itself could see."""
    watch = CourseWatch(planned or (course.records[-1]["step"] if course.records else 1))
    seen: list[Notice] = []
    # Every so many steps of a very long run, and all evaluations.
    stride = len(course.records) // _MOST_WATCHED + 1
    for index, record in enumerate(course.records):
        if index % stride == 0 or "evaluation_loss" in record:
            seen += watch.feed(record)
    texts = {f"{notice.message} {notice.next_step}" for notice in seen}
    alone = [safe_text(text) for text in dict.fromkeys(told) if text not in texts]
    return [
        *(Warned(kind=one.kind, step=one.step, message=one.message, next_step=one.next_step) for one in seen),
        *(Warned(kind=None, step=None, message=text, next_step=None) for text in alone),
    ]


def _facts(result: TrainResult) -> dict[str, str]:
    rows, share = result.training_rows, result.trainable_parameters / max(1, result.total_parameters)
    return {
        "device": result.device,
        "engine": f"{result.engine} ({result.engine_reason})",
        "compute dtype": result.compute_dtype,
        "packing": result.packing,
        "trainable parameters": f"{result.trainable_parameters:,} of {result.total_parameters:,} ({share:.2%})",
        "training rows": f"{rows.used:,} of {rows.read:,} used, {rows.learnt_tokens:,} of {rows.tokens:,} tokens learnt",
        "time": f"{duration_words(result.train_seconds)} of steps, {duration_words(result.total_seconds)} in all",
    }


def _safe(texts: Mapping[str, str]) -> dict[str, str]:
    return {safe_text(name): safe_text(text) for name, text in texts.items()}
