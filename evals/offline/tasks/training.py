"""True trainings, from rows to answers."""

import json
from typing import Any

from ..agent import Outcome
from ..goal import Goal, Step, Taken
from ..stage import ROOT, Stage
from ..task import Task
from ..tiny_model import write_tiny_model
from .datasets import READY
from .jobs import SUCCEEDED

_REAL = "smollm2-135m-instruct"
_DEMO = ROOT / "qlora_tools" / "demo" / "data"
_PROMPTS, _STEPS = 20, 20
_LEAST_RISE = 8


def _tiny(stage: Stage) -> Goal:
    stage.rows(count=20)
    write_tiny_model(stage.workspace / "model")
    training = {"max_steps": 3, "micro_batch_size": 2, "gradient_accumulation_steps": 1, "max_length_tokens": 128}
    config = {
        "model": {"name": "./model"},
        "data": {"path": "rows.jsonl"},
        "training": {**training, "smoke_generation": False, "evaluation_samples": 0},
        "output": {"directory": "out"},
    }
    ask = {"adapter": Taken(0, "id"), "prompt": "What is kept in drawer 3?", "max_new_tokens": 4}
    return Goal(
        "Train three steps, then ask what is kept in drawer 3.",
        [Step("start_training", {"config": config}), Step("generate_text", ask)],
    )


def _answers_with_an_adapter_on_disk(stage: Stage, outcome: Outcome) -> None:
    (job,) = stage.jobs()
    adapter = stage.workspace / "out" / "adapter"
    assert (job.state, job.step, job.adapter_directory) == ("succeeded", 3, str(adapter))
    assert (adapter / "adapter_model.safetensors").stat().st_size > 0
    (answer,) = outcome.answers[-1].structured["answers"]
    assert {"base", "adapter"} <= set(answer)


def _real(stage: Stage) -> Goal:
    (stage.workspace / "train.jsonl").write_bytes((_DEMO / "train.jsonl").read_bytes())
    settings = {"learning_rat": 1e-3, "max_steps": _STEPS, "evaluation_samples": 0, "packing": False}
    plan = {"model": "smolm2-135m-instruct", "data": "train.jsonl", "gpu": "cpu", "rows_per_step": 8}
    held_out = _held_out()
    ask = {
        "adapter": Taken(3, "id"),
        "prompt": [turns[1]["content"] for turns in held_out],
        "system": held_out[0][0]["content"],
        "max_new_tokens": 32,
    }
    return Goal(
        "Teach SmolLM2 135M to write the calls of train.jsonl on this machine, and show that it helped.",
        [
            Step("check_environment", until={"can_train": [True]}),
            Step("inspect_dataset", {"data": "train.jsnl", "model": _REAL}, until=READY),
            Step("create_config", {**plan, "settings": settings}, until={"fits": [True]}),
            Step("start_training", {"config": Taken(2, "config")}, until=SUCCEEDED),
            Step("generate_text", ask),
        ],
    )


def _held_out() -> list[list[dict[str, Any]]]:
    lines = (_DEMO / "heldout.jsonl").read_text(encoding="utf-8").splitlines()[:_PROMPTS]
    return [json.loads(line)["messages"] for line in lines]


def _is_better_than_its_base(stage: Stage, outcome: Outcome) -> None:
    (job,) = stage.jobs()
    assert (job.state, job.step) == ("succeeded", _STEPS)
    assert job.adapter_directory is not None
    wanted = [turns[-1]["content"] for turns in _held_out()]
    answers = outcome.answers[-1].structured.get("answers", [])
    assert len(answers) == _PROMPTS
    right = {
        side: sum(answer[side].strip() == text for answer, text in zip(answers, wanted, strict=True))
        for side in ("base", "adapter")
    }
    assert right["adapter"] - right["base"] >= _LEAST_RISE, f"exact answers of {_PROMPTS}: {right}"


TASKS = (
    Task(
        "tiny_training",
        ["answers are asked while the job runs", "a misspelt argument", "a text where a list belongs"],
        _tiny,
        _answers_with_an_adapter_on_disk,
        simulated=False,
        slow=True,
    ),
    Task(
        "real_training",
        ["a misnamed file", "a model, a setting and an argument are misspelt"],
        _real,
        _is_better_than_its_base,
        simulated=False,
        slow=True,
    ),
)
