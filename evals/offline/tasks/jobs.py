"""Jobs that are not there, in the way, too long, stopped, cancelled, or dead."""

from ..agent import Outcome
from ..goal import Goal, Step
from ..simulated_runner import SMALL_CARD
from ..stage import Stage, until
from ..task import Task

SUCCEEDED = {"state": ["succeeded"]}


def _unknown_job_and_long_wait(stage: Stage) -> Goal:
    stage.rows()
    stage.start(stage.config(max_steps=30), name="night-run")
    return Goal(
        "How did my nightrun end? Wait for it.",
        [Step("get_job", {"job_id": "nightrun", "wait_seconds": 600}, until={"finished": [True]})],
    )


def _was_told_of_the_end(stage: Stage, outcome: Outcome) -> None:
    (job,) = stage.jobs()
    assert (job.state, job.step) == ("succeeded", 30)
    assert outcome.answers[-1].structured["id"] == job.id
    assert outcome.answers[-1].structured["result"]["steps"] == 30


def _output_taken(stage: Stage) -> Goal:
    stage.rows()
    config = stage.config()
    earlier = stage.workspace / "out" / "adapter"
    earlier.mkdir(parents=True)
    (earlier / "qlora_tools.json").write_text("{}", encoding="utf-8")
    return Goal(
        "Train with this config; keep what is there.", [Step("start_training", {"config": config}, until=SUCCEEDED)]
    )


def _wrote_elsewhere(stage: Stage, outcome: Outcome) -> None:
    (job,) = stage.jobs()
    assert job.state == "succeeded"
    assert job.output_directory != str(stage.workspace / "out")
    assert (stage.workspace / "out" / "adapter" / "qlora_tools.json").read_text(encoding="utf-8") == "{}"


def _stop_and_resume(stage: Stage) -> Goal:
    stage.rows()
    job = stage.start(stage.config(max_steps=400))
    until(lambda: stage.jobs()[0].step)
    changes = {"learning_rat": 1e-4, "max_steps": 20, "rank": 64}
    stop = {"job_id": job.id, "action": "pause"}
    resume = {"job_id": job.id, "action": "resume", "now": True, "changes": changes}
    return Goal(
        "End the run with a checkpoint, then go on with learning rate 1e-4 up to step 20, and rank 64 if that can be.",
        [Step("control_job", stop, until={"state": ["stopped"]}), Step("control_job", resume, until=SUCCEEDED)],
    )


def _went_on_from_the_checkpoint(stage: Stage, outcome: Outcome) -> None:
    (job,) = stage.jobs()
    assert [attempt.state for attempt in job.attempts] == ["stopped", "succeeded"]
    assert job.attempts[1].resumed_from
    assert stage.changes_of(job) == {"training.learning_rate": 1e-4, "training.max_steps": 20}


def _cancelled(stage: Stage) -> Goal:
    stage.rows()
    config = stage.config(max_steps=400)
    job = stage.start(config)
    shorter = stage.config(max_steps=3)
    shorter["output"]["directory"] = "out-short"
    return Goal(
        "End this run for good, then train three steps.",
        [
            Step("control_job", {"job": job.id, "action": "cancel"}, until={"state": ["cancelled"]}),
            Step("control_job", {"job_id": job.id, "action": "resume"}, until=SUCCEEDED),
        ],
        facts={"config": shorter},
    )


def _was_cancelled_and_done_anew(stage: Stage, outcome: Outcome) -> None:
    assert [(job.state, job.attempt) for job in stage.jobs()] == [("cancelled", 1), ("succeeded", 1)]


def _out_of_memory(stage: Stage) -> Goal:
    stage.rows()
    training = {"micro_batch_size": 1, "max_length_tokens": 512, "gradient_checkpointing": False}
    config = stage.config(SMALL_CARD, **training)
    return Goal(
        "Train with this config; give up what must be given up.",
        [Step("start_training", {"config": config}, until=SUCCEEDED)],
        facts={"config": config},
    )


def _was_resumed_with_less_memory(stage: Stage, outcome: Outcome) -> None:
    (job,) = stage.jobs()
    assert [attempt.state for attempt in job.attempts] == ["failed", "succeeded"]
    assert stage.changes_of(job) == {"training.gradient_checkpointing": True}


def _rows_gone(stage: Stage) -> Goal:
    stage.rows("tickets.jsonl")
    config = stage.config()
    config["data"]["path"] = "ticket.jsonl"
    return Goal(
        "Train on the tickets.", [Step("start_training", {"config": config}, until=SUCCEEDED)], facts={"config": config}
    )


def _was_trained_on_the_tickets(stage: Stage, outcome: Outcome) -> None:
    job = stage.jobs()[-1]
    assert job.state == "succeeded"
    path = stage.changes_of(job).get("data.path", stage.config_of(job).data.path)
    assert path == str(stage.workspace / "tickets.jsonl")


TASKS = (
    Task(
        "unknown_job_and_long_wait",
        ["a job by half its name", "a wait of ten minutes"],
        _unknown_job_and_long_wait,
        _was_told_of_the_end,
    ),
    Task("output_taken", ["an output directory that holds results"], _output_taken, _wrote_elsewhere),
    Task(
        "stop_and_resume",
        ["an action that is none", "an argument of another action", "a misspelt change", "one that is not allowed"],
        _stop_and_resume,
        _went_on_from_the_checkpoint,
    ),
    Task(
        "cancelled",
        ["a misspelt argument", "a job that cannot be resumed"],
        _cancelled,
        _was_cancelled_and_done_anew,
    ),
    Task("out_of_memory", ["a job that runs out of GPU memory"], _out_of_memory, _was_resumed_with_less_memory),
    Task("rows_gone", ["a job whose rows are not there"], _rows_gone, _was_trained_on_the_tickets),
)
