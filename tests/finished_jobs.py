"""Finished jobs as the product writes them, thousands in seconds: for lists, which care about nothing else."""

import json
from datetime import UTC, datetime, timedelta

from qlora_tools.jobs.layout import SCHEMA_VERSION, Workspace, new_id

_FIRST = datetime(2026, 1, 1, tzinfo=UTC)
_STATES = (("succeeded", 0), ("failed", 2), ("stopped", 130), ("cancelled", 130), ("interrupted", 1))


def write_finished_jobs(space: Workspace, count: int) -> list[str]:
    """Write `count` finished jobs, a minute apart, and return their ids, the oldest first. Every fifth did not succeed."""
    space.prepare()
    space.active.mkdir(exist_ok=True)
    return [_write(space, number) for number in range(count)]


def _write(space: Workspace, number: int) -> str:
    job = space.job(new_id())
    attempt = job.attempt(1)
    attempt.path.mkdir(parents=True)
    created, ended = (_stamp(_FIRST + timedelta(minutes=number + more)) for more in (0, 60))
    state, code = _STATES[0] if number % 5 else _STATES[number // 5 % len(_STATES)]
    output = str(space.root.parent / f"out-{number}")
    plan = {
        "schema_version": SCHEMA_VERSION,
        "id": job.id,
        "kind": "train",
        "created": created,
        "name": f"job {number}",
    }
    more = {"model": "smollm2-135m", "output_directory": output, "needed_bytes": 2**30, "needed_how": "estimated"}
    losses = [2.0 - step / 1000 for step in range(1, 101)]
    documents = {
        job.plan_file: {**plan, **more, "device_kind": "cpu", "planned_steps": 1000},
        job.config_file: {"model": {"name": "smollm2-135m"}, "output": {"directory": output}},
        job.status_file: {"attempt": 1, "step": 1000, "planned_steps": 1000, "loss": 1.9, "updated": ended},
        attempt.request_file: {"resume_from": None, "changes": {}, "sequence": number, "when": created},
        attempt.started_file: {"began": True, "pid": 1, "when": created},
        attempt.exit_file: {
            "state": state,
            "exit_code": code,
            "message": "It is over.",
            "next_step": "Look at it.",
            "ended": ended,
            "result": {"steps": 1000, "losses": losses} if code == 0 else None,
        },
    }
    for path, document in documents.items():
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
    job.lock_file.touch()
    job.log_file.touch()
    return job.id


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
