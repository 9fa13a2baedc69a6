"""Configs with errors, given as an argument and as a file."""

from typing import Any

from ..agent import Outcome
from ..goal import Goal, Keep, Step, Taken
from ..stage import Stage
from ..task import Task

_BROKEN = """\
model: {name: ./models/any-card
data: {path: rows.jsonl}
training: {max_steps: 3, max_length_tokens: 64, learning_rate: 3e-4, schedule: linearr}
lora: {rnk: 8}
output: {directory: out}
"""


def _several_errors(stage: Stage) -> Goal:
    stage.rows()
    config: dict[str, Any] = {
        "model": {"name": "smollm2-135m-instruct"},
        "data": {"path": "rows.jsonl"},
        "output": {"directory": "out"},
        "lora": {"rank": 100_000, "target_modules": "atention"},
        "training": {"epochs": "two", "schedul": "linear", "max_length_tokens": 4},
        "learning_rate": 1e-4,
    }
    return Goal(
        "Check this config and leave a valid one in run.yaml.",
        [Step("create_config", {"config": config}), Keep(Taken(0, "config"), "run.yaml")],
    )


def _is_what_was_meant(stage: Stage, outcome: Outcome) -> None:
    config = stage.kept()
    training = (config.training.epochs, config.training.schedule, config.training.learning_rate)
    assert training == (2, "linear", 1e-4)
    assert (config.lora.rank, config.lora.target_modules, config.training.max_length_tokens) == (1024, "attention", 8)


def _broken_file(stage: Stage) -> Goal:
    stage.rows()
    stage.model("any-card")
    (stage.workspace / "run.yaml").write_text(_BROKEN, encoding="utf-8")
    return Goal(
        "Train with my config, run.yml.",
        [Step("start_training", {"config_path": "run.yml"}, until={"state": ["succeeded"]})],
    )


def _was_trained_as_the_file_says(stage: Stage, outcome: Outcome) -> None:
    (job,) = stage.jobs()
    config = stage.config_of(job)
    assert (job.state, config.lora.rank, config.training.schedule) == ("succeeded", 8, "linear")
    assert stage.kept().training.learning_rate == config.training.learning_rate == 3e-4


TASKS = (
    Task("several_config_errors", ["six errors in one config"], _several_errors, _is_what_was_meant),
    Task(
        "broken_config_file",
        ["a misnamed file", "a bracket that is not closed", "a field and a choice that are none"],
        _broken_file,
        _was_trained_as_the_file_says,
    ),
)
