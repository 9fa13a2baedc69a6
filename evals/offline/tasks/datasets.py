"""Rows that are elsewhere, called otherwise, of unknown columns, or not fit to be learnt."""

from qlora_tools.data.reading.sources import DataSource
from qlora_tools.data.reading.stream import open_rows

from ..agent import Outcome
from ..goal import Goal, Keep, Step, Taken
from ..stage import Stage
from ..task import Task
from .arguments import CARD, MODEL

READY = {"verdict": ["ready", "ready with warnings"]}
# Split, so that it is no token where this file is scanned.
_TOKEN = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"


def _misnamed_rows(stage: Stage) -> Goal:
    stage.rows()
    asked = {"model": MODEL, "data": "rows.jsnl", "gpu": CARD}
    return Goal(
        "Plan Qwen3 8B for rows.jsnl on the 4090, config in run.yaml.",
        [Step("create_config", asked, until={"fits": [True]}), Keep(Taken(0, "config"), "run.yaml")],
    )


def _has_sixty_rows(stage: Stage, outcome: Outcome) -> None:
    assert sum(1 for _ in open_rows(DataSource(stage.kept().data.path))) == 60


def _unknown_columns(stage: Stage) -> Goal:
    rows = stage.rows()
    others = [{"nr": number, "ask": row["question"], "reply": row["answer"]} for number, row in enumerate(rows)]
    stage.write_rows(stage.workspace / "desk.jsonl", others)
    asked = {"model": MODEL, "data": "desk.jsonl", "gpu": CARD, "settings": {"rank": 16}}
    return Goal(
        "Plan Qwen3 8B for the answers of our desk in desk.jsonl, config in run.yaml.",
        [Step("create_config", asked, until={"fits": [True]}), Keep(Taken(0, "config"), "run.yaml")],
    )


def _reads_question_and_answer(stage: Stage, outcome: Outcome) -> None:
    data = stage.kept().data
    assert (data.format, data.columns) == ("question_answer", {"question": "ask", "answer": "reply"})
    assert stage.kept().lora.rank == 16


def _secrets_and_repeats(stage: Stage) -> Goal:
    rows = stage.rows()
    rows[7]["answer"] = f"Open it with the token {_TOKEN}, which is on the label."
    stage.write_rows(stage.workspace / "rows.jsonl", [*rows, *rows[10:40]])
    return Goal(
        "Make rows.jsonl ready for training. You may write files.",
        [Step("inspect_dataset", {"data": "rows.jsonl"}, until=READY)],
    )


def _is_a_clean_copy(stage: Stage, outcome: Outcome) -> None:
    clean = [path for path in stage.workspace.glob("*.jsonl") if _TOKEN not in path.read_text(encoding="utf-8")]
    assert len(clean) == 1
    rows = clean[0].read_text(encoding="utf-8").splitlines()
    assert len(rows) == len(set(rows)) == 60
    assert (stage.workspace / "rows.jsonl").exists()


def _path_outside(stage: Stage) -> Goal:
    stage.rows()
    (stage.workspace / "rows.jsonl").rename(stage.outside / "rows.jsonl")
    config = stage.config()
    config["data"]["path"] = str(stage.outside / "rows.jsonl")
    return Goal(
        f"Train on {stage.outside / 'rows.jsonl'}; you may copy it.",
        [Step("start_training", {"config": config}, until={"state": ["succeeded"]})],
    )


def _was_trained_on_the_copy(stage: Stage, outcome: Outcome) -> None:
    (job,) = stage.jobs()
    assert (job.state, job.step) == ("succeeded", 3)
    path = stage.config_of(job).data.path
    assert path == str(stage.workspace / "rows.jsonl")
    assert (stage.workspace / "rows.jsonl").read_bytes() == (stage.outside / "rows.jsonl").read_bytes()


TASKS = (
    Task("misnamed_rows", ["a file of rows that is not there"], _misnamed_rows, _has_sixty_rows),
    Task("unknown_columns", ["columns of no known format"], _unknown_columns, _reads_question_and_answer),
    Task("secrets_and_repeats", ["a token in a row", "30 repeated rows"], _secrets_and_repeats, _is_a_clean_copy),
    Task("path_outside", ["rows outside the workspace"], _path_outside, _was_trained_on_the_copy),
)
