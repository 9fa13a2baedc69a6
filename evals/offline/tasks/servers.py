"""Servers that die, answers that are lost, and a server that may change nothing."""

from ..agent import Outcome
from ..goal import Goal, Step
from ..session import Call
from ..stage import Stage, until
from ..task import Mishap, Task
from .jobs import SUCCEEDED


def _training(stage: Stage) -> Goal:
    stage.rows()
    return Goal(
        "Train with this config.", [Step("start_training", {"config": stage.config(max_steps=30)}, until=SUCCEEDED)]
    )


def _dies_while_the_job_runs() -> Mishap:
    killed: list[int] = []

    def mishap(stage: Stage, call: Call) -> bool:
        if call.tool == "get_job" and not killed:
            until(lambda: stage.jobs()[0].step)
            killed.append(stage.server_pid())
            stage.kill_server()
            return True
        return False

    return mishap


def _dies_before_it_answers() -> Mishap:
    killed: list[int] = []

    def mishap(stage: Stage, call: Call) -> bool:
        if call.tool == "start_training" and not killed:
            until(stage.jobs)
            killed.append(stage.server_pid())
            stage.kill_server()
            return True
        return False

    return mishap


def _ran_once_and_whole(stage: Stage, outcome: Outcome) -> None:
    (job,) = stage.jobs()
    assert (job.state, job.step, job.attempt) == ("succeeded", 30, 1)
    assert [trouble.kind for trouble in outcome.troubles] == ["lost"]


def _nothing_was_started(stage: Stage, outcome: Outcome) -> None:
    assert stage.jobs() == []
    assert not (stage.workspace / "out").exists()
    # What the agent tells the person names what is missing.
    assert "start_training" in outcome.said


TASKS = (
    Task(
        "restart_in_the_middle",
        ["the server is killed while the job runs"],
        _training,
        _ran_once_and_whole,
        connection="stdio",
        mishap=_dies_while_the_job_runs,
    ),
    Task(
        "lost_answer",
        ["the server is killed before it answers that the job was started"],
        _training,
        _ran_once_and_whole,
        connection="stdio",
        mishap=_dies_before_it_answers,
    ),
    Task(
        "read_only",
        ["the server has no tool that changes anything"],
        _training,
        _nothing_was_started,
        read_only=True,
        ends="cannot",
    ),
)
