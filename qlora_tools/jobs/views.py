"""From what lies on the disk to what is told."""

from pathlib import Path
from typing import Any

from .facts import AttemptFacts, Document, JobFacts
from .layout import FOLDER, TRAINING
from .outcomes import summary_of
from .records import AttemptSummary, JobStatus
from .states import QUEUED, RESUMABLE, TERMINAL, state_of
from .verdicts import newest_checkpoint, step_after

_PROGRESS = ("phase", "step", "planned_steps", "loss", "evaluation_loss", "tokens_per_second", "updated")


def told(facts: JobFacts, position: int | None = None) -> JobStatus:
    """The status of a job; `position` is its place among the waiting ones."""
    last, plan = facts.last, facts.plan
    state = state_of(last)
    progress = facts.status if facts.status.get("attempt") == last.number else {}
    verdict = last.exit or {}
    return JobStatus(
        id=facts.id,
        name=plan.get("name") or facts.id,
        kind=plan.get("kind", "train"),
        model=plan.get("model", ""),
        state=state,  # type: ignore[arg-type]
        attempt=last.number,
        attempts=[_summary(attempt) for attempt in facts.attempts],
        created=plan.get("created", ""),
        started=(last.started or {}).get("when") if (last.started or {}).get("began") else None,
        ended=verdict.get("ended"),
        exit_code=verdict.get("exit_code"),
        message=_message(facts, verdict),
        next_step=verdict.get("next_step") or _next_step(facts, state),
        error=verdict.get("error"),
        output_directory=plan.get("output_directory", ""),
        last_checkpoint=verdict.get("checkpoint") or progress.get("last_checkpoint") or last.request.get("resume_from"),
        needed_bytes=plan.get("needed_bytes"),
        needed_how=plan.get("needed_how", ""),
        device=(last.started or {}).get("device"),
        **{
            **_progress(progress, state),
            **_waiting(progress, state, position),
            **_result(plan.get("kind", TRAINING), verdict),
        },
    )


def _summary(attempt: AttemptFacts) -> AttemptSummary:
    verdict = attempt.exit or {}
    started = attempt.started or {}
    return AttemptSummary(
        attempt=attempt.number,
        state=state_of(attempt),  # type: ignore[arg-type]
        resumed_from=attempt.request.get("resume_from"),
        started=started.get("when") if started.get("began") else None,
        ended=verdict.get("ended"),
        message=verdict.get("message"),
        cause=verdict.get("cause"),
    )


def _message(facts: JobFacts, verdict: Document) -> str | None:
    if facts.unreadable is not None:
        return f"Its files cannot be read: {facts.unreadable}."
    if "damaged" in facts.plan:
        return f"Its plan.json cannot be read: {facts.plan['damaged']}. What is told of it may lack things."
    if "damaged" in verdict:
        return f"Its exit.json cannot be read: {verdict['damaged']}. How it ended is not known."
    return verdict.get("message")


def _progress(progress: Document, state: str) -> dict[str, Any]:
    values = {name: progress.get(name) for name in _PROGRESS}
    if state in TERMINAL:
        values["phase"] = None
    eta = progress.get("eta_seconds") if state in ("running", "stopping") else None
    return {
        **values,
        "memory": progress.get("memory_bytes"),
        "eta_seconds": eta,
        "warnings": progress.get("warnings") or [],
    }


def _waiting(progress: Document, state: str, position: int | None) -> dict[str, Any]:
    if state not in QUEUED:
        return {}
    behind = f"{position - 1} other waiting jobs" if position is not None and position > 1 else "its runner to start"
    return {"queue_position": position, "waiting_for": progress.get("waiting_for") or behind}


def _result(kind: str, verdict: Document) -> dict[str, Any]:
    result = verdict.get("result")
    if not isinstance(result, dict):
        return {}
    if kind != TRAINING:
        return {"result": result, "summary": summary_of(kind, result)}
    steps = {"step": result.get("steps"), "planned_steps": result.get("planned_steps")}
    known = {name: value for name, value in steps.items() if value is not None}
    adapter = _if_there(result.get("adapter_directory"))
    return {"result": result, "summary": summary_of(kind, result), "adapter_directory": adapter, **known}


def _if_there(directory: str | None) -> str | None:
    try:
        return directory if directory and Path(directory).is_dir() else None
    except OSError:
        return None


def _next_step(facts: JobFacts, state: str) -> str:
    if facts.unreadable is not None:
        return f"Mend or remove {FOLDER}/jobs/{facts.id} (a link, permissions, the disk?), then look again."
    if state in QUEUED:
        return (
            f"It starts by itself. `qlora status {facts.id} --follow` watches it, `qlora stop {facts.id}` takes it out."
        )
    if state in RESUMABLE or state == "cancelled":
        return step_after(state, facts.id, facts.plan, newest_checkpoint(facts.plan, facts.last.request))
    if state in TERMINAL:
        return ""
    how = " with a checkpoint" if facts.plan.get("kind", TRAINING) == TRAINING else ""
    return f"`qlora status {facts.id} --follow` watches it, `qlora stop {facts.id}` ends it{how}."
