"""Runs that do not fit, and a log of one that did not."""

from qlora_tools.memory.here import Target

from ..agent import Outcome
from ..goal import Follow, Goal, Keep, Step, Taken
from ..stage import Stage
from ..task import Task

_LOG = """\
Traceback (most recent call last):
  File "train.py", line 88, in <module>
    trainer.train()
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which \
1.10 GiB is free.
"""


def _model_too_large(stage: Stage) -> Goal:
    stage.rows()
    asked = {"model": "llama-3.1-70b-instruct", "data": "rows.jsonl", "gpu": "t4"}
    return Goal(
        "Plan Llama 3.1 70B on my T4; if that cannot be, a smaller one. Config in run.yaml.",
        [Step("create_config", asked, until={"fits": [True]}), Keep(Taken(0, "config"), "run.yaml")],
        facts={"gpu": "t4", "data": "rows.jsonl"},
    )


def _fits_the_t4(stage: Stage, outcome: Outcome) -> None:
    config = stage.kept()
    settings = {
        f"{part}.{name}": value
        for part, values in config.model_dump(mode="json", exclude_unset=True).items()
        for name, value in values.items()
        if part in ("lora", "quantization", "training")
    }
    report = Target.named_or_here("t4", None, "training").estimate(
        config.model.name, task="training", settings=settings
    )
    assert report.fits, f"{config.model.name} needs {report.needed_bytes / 2**30:.1f} GiB"


def _rows_too_long(stage: Stage) -> Goal:
    stage.rows()
    settings = {"max_length_tokens": "8192 tokens", "rank": 256}
    asked = {"model": "llama-3.1-8b-instruct", "gpu": "t4"}
    return Goal(
        "Fine-tune Llama 3.1 8B on my T4 with rows of 8,192 tokens and rank 256. Config in run.yaml.",
        [
            Step("estimate_memory", {**asked, "settings": settings}, until={"fits": [True]}),
            Keep(Taken(0, "config"), "run.yaml"),
        ],
        facts={**asked, "data": "rows.jsonl"},
    )


def _keeps_the_length_and_fits(stage: Stage, outcome: Outcome) -> None:
    config = stage.kept()
    assert (config.training.max_length_tokens, config.lora.rank) == (8192, 256)
    _fits_the_t4(stage, outcome)


def _log_of_another_tool(stage: Stage) -> Goal:
    stage.rows()
    (stage.workspace / "crash.log").write_text(_LOG, encoding="utf-8")
    config = stage.config(micro_batch_size=4, gradient_accumulation_steps=2, gradient_checkpointing=False)
    asked = {"log_path": "crash.log", "job_id": "last", "config": config}
    return Goal(
        "My own script died, see crash.log. Train with this config so that it does not.",
        [
            Step("diagnose_failure", asked, until={"recognised": [True]}),
            Follow(until={"state": ["succeeded"]}),
        ],
        facts={"config": config, "log_path": "crash.log"},
    )


def _takes_less_memory_with_the_same_batch(stage: Stage, outcome: Outcome) -> None:
    (job,) = stage.jobs()
    training = stage.config_of(job).training
    assert (job.state, training.micro_batch_size, training.gradient_checkpointing) == ("succeeded", 2, True)
    assert training.micro_batch_size * training.gradient_accumulation_steps == 8


TASKS = (
    Task("model_too_large", ["a model of 70 B on 15 GiB"], _model_too_large, _fits_the_t4),
    Task("rows_too_long", ["a number with its unit", "rows too long"], _rows_too_long, _keeps_the_length_and_fits),
    Task(
        "log_of_another_tool",
        ["two sources of which one is allowed", "a run that ran out of memory"],
        _log_of_another_tool,
        _takes_less_memory_with_the_same_batch,
    ),
)
