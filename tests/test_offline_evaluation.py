"""The evaluation with scripted agents, its committed result, and the tasks for runs with a model in the loop."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals.make_files import FOLDER, files
from evals.offline.agent import Agent
from evals.offline.hands import Hands
from evals.offline.run import run, summary
from evals.offline.session import Call, Reply, Session, in_memory
from evals.offline.stage import Stage, surroundings
from evals.offline.tasks import TASKS

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "offline_evaluation.json"
MOST_TOKENS, MOST_TOKENS_OF_A_TRAINING = 4_000, 8_500
# What else moves with the machine: ids and paths in messages, and how often a job is waited for.
TOKENS_APART, TOKENS_OF_A_WAIT = 0.15, 200
NOT_MEASURED = ("seconds", "tokens", "characters_sent", "characters_received", "tokens_of_tool_list", "calls", "waits")


@cache
def committed() -> dict[str, Any]:
    return json.loads(RESULT.read_text(encoding="utf-8"))


def committed_record(name: str) -> dict[str, Any]:
    return next(record for record in committed()["tasks"] if record["task"] == name)


@pytest.mark.process
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if task.slow else []) for name, task in TASKS.items()]
)
def test_a_scripted_agent_does_the_task_and_mends_each_error_in_one_try(name: str) -> None:
    record, before = run(TASKS[name]), committed_record(name)
    assert record["failure"] is None
    assert record["mended_in_one_try"] == record["errors"]
    assert {key: record[key] for key in record if key not in NOT_MEASURED} == {
        key: before[key] for key in before if key not in NOT_MEASURED
    }
    assert record["calls"] - record["waits"] == before["calls"] - before["waits"]
    apart = TOKENS_APART * before["tokens"] + TOKENS_OF_A_WAIT * (1 + abs(record["waits"] - before["waits"]))
    assert abs(record["tokens"] - before["tokens"]) <= apart
    most = MOST_TOKENS_OF_A_TRAINING if TASKS[name].slow else MOST_TOKENS
    assert record["tokens"] <= most + TOKENS_OF_A_WAIT * record["waits"]


def test_the_committed_result_is_of_these_tasks_and_adds_up() -> None:
    result = committed()
    assert [record["task"] for record in result["tasks"]] == list(TASKS)
    assert len(TASKS) == 25
    assert result["summary"] == summary(result["tasks"])
    assert result["summary"]["verified"] == 25
    assert result["summary"]["rate_mended_in_one_try"] == 1.0
    assert result["summary"]["errors"] >= 30


def test_the_policy_knows_no_task() -> None:
    folder = ROOT / "evals" / "offline"
    for module in ("agent", "mending", "edits", "draft", "words", "hands"):
        source = (folder / f"{module}.py").read_text(encoding="utf-8")
        assert ".tasks" not in source
        assert [name for name in TASKS if f'"{name}"' in source] == []


class Muffled(Session):
    """A server whose errors say that something is wrong, and nothing else."""

    def call(self, call: Call) -> Reply:
        reply = super().call(call)
        return Reply("Error: invalid arguments.", {}, is_error=True) if reply.is_error else reply


@pytest.mark.parametrize("name", ["misspelt_names", "several_config_errors", "output_taken"])
def test_without_the_words_of_the_server_the_agent_mends_nothing(tmp_path: Path, name: str) -> None:
    with surroundings(simulated=True):
        stage = Stage(tmp_path)
        goal = TASKS[name].prepare(stage)
        with in_memory(stage.workspace) as connect, Muffled(connect, stage.workspace) as session:
            outcome = Agent(session, Hands(stage.workspace)).pursue(goal)
    assert not outcome.done
    assert [trouble.mended for trouble in outcome.troubles] == [False]


@cache
def evals() -> dict[str, Any]:
    return json.loads((ROOT / "evals" / "evals.json").read_text(encoding="utf-8"))


def test_there_are_ten_tasks_for_models_in_the_form_of_agent_skills() -> None:
    front = yaml.safe_load((ROOT / "SKILL.md").read_text(encoding="utf-8").split("---\n")[1])
    assert evals().keys() == {"skill_name", "evals", "trigger_queries"}
    assert evals()["skill_name"] == front["name"]
    tasks = evals()["evals"]
    assert [task["id"] for task in tasks] == list(range(1, 11))
    for task in tasks:
        assert task.keys() == {"id", "prompt", "expected_output", "files", "assertions"}
        assert len(task["prompt"]) > 60
        assert len(task["expected_output"]) > 60
        assert len(task["assertions"]) >= 4
        assert all(len(statement) > 15 for statement in task["assertions"])
        assert len(set(task["assertions"])) == len(task["assertions"])


def test_the_files_of_those_tasks_are_there_and_as_the_script_makes_them() -> None:
    named = {name for task in evals()["evals"] for name in task["files"]}
    assert [name for name in named if not (ROOT / name).is_file()] == []
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()} == files()
    assert {f"evals/files/{name}" for name in files()} <= named


def test_there_are_ten_queries_that_mean_the_skill_and_ten_near_misses() -> None:
    queries = evals()["trigger_queries"]
    assert all(query.keys() == {"query", "should_trigger"} for query in queries)
    assert sorted(query["should_trigger"] for query in queries) == [False] * 10 + [True] * 10
    assert len({query["query"] for query in queries}) == 20
