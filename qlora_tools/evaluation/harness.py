"""Tasks of lm-eval-harness on base and adapter, where it is installed: by name, or from a local task file."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ..errors import MissingLibraryError, UsageError
from ..events import Listener, RunEvent
from ..paths import as_path
from ..results import HarnessScore
from ..results.evaluation import HarnessScores
from .statistics import PairedSums, compare
from .store import SIDES

if TYPE_CHECKING:
    from ..generation.session import GenerationSession

_FILES = (".yaml", ".yml")
_NAME = re.compile(r"^task:\s*['\"]?([\w.-]+)", re.MULTILINE)
_INSTALL = "pip install 'lm-eval>=0.4.10,<0.5'"
Samples = Mapping[str, Sequence[Mapping[str, Any]]]


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise `MissingLibraryError` without lm-eval-harness, `UsageError` for a task that it does not know or a bad file.

    A task file may name Python code beside it, which the harness runs: such files are for people at a command line and
    importers only.
    """
    if tasks and importlib.util.find_spec("lm_eval") is None:
        raise MissingLibraryError(
            "Benchmark tasks are run by lm-eval-harness, which is not installed.", next_step=f"Run: {_INSTALL}"
        )
    names = list(map(_task_name, tasks))
    known = _manager(tasks).all_tasks if tasks else ()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"lm-eval-harness has no task {unknown[0]!r}.",
            next_step="`lm_eval ls tasks` lists them; or give a .yaml file.",
        )


def _manager(tasks: Sequence[str]) -> Any:
    """The harness's list of tasks: its own, and those of the folders of task files."""
    from lm_eval.tasks import TaskManager

    folders = sorted({str(as_path(task).parent) for task in tasks if _is_file(task)})
    return TaskManager(include_path=folders or None, include_defaults=not all(map(_is_file, tasks)))


def _is_file(task: str) -> bool:
    return task.endswith(_FILES)


def _task_name(task: str) -> str:
    if not _is_file(task):
        return task
    path = as_path(task)
    try:
        found = _NAME.search(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The task file {path} cannot be read: {error}.", next_step="Check the path.") from None
    if found is None:
        raise UsageError(f"The task file {path} has no line `task: NAME`.", next_step="Write one.")
    return found[1]


def run_task(session: "GenerationSession", task: str, *, limit: int, seed: int, on_event: Listener) -> HarnessScores:
    """Every metric of a task for both sides, on at most `limit` of its documents. Offline where the Hub is.

    Raises `UsageError` where the task's data is not on this machine.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    name, manager = _task_name(task), _manager([task])
    model = HFLM(pretrained=session.model, tokenizer=session.tokenizer, batch_size=_batch_size(session))
    found: dict[str, Any] = {}
    for side in SIDES:
        on_event(RunEvent("phase", f"lm-eval-harness: {name} with the {side}"))
        with session.model.disable_adapter() if side == "base" else nullcontext():
            try:
                found[side] = simple_evaluate(
                    model=model, tasks=[name], limit=limit, task_manager=manager, bootstrap_iters=0, random_seed=seed
                )
            except (OSError, ValueError, KeyError) as error:
                raise UsageError(
                    f"lm-eval-harness could not run {name}: {type(error).__name__}: {str(error)[:300]}",
                    next_step="Fetch the task's data first (HF_HUB_OFFLINE=0), or give a task file with local data_files.",
                ) from None
    return HarnessScores(scores=_scores(found["base"], found["adapter"], seed))


def _batch_size(session: "GenerationSession") -> int:
    return 16 if session.hardware.kind == "cuda" else 4


def _scores(base: Mapping[str, Any], adapter: Mapping[str, Any], seed: int) -> list[HarnessScore]:
    scores = []
    for task, values in base["results"].items():
        for name, value in values.items():
            metric, _, chosen = name.partition(",")
            if not isinstance(value, int | float) or not chosen or metric.endswith("_stderr"):
                continue
            higher = base["higher_is_better"].get(task, {}).get(metric, True)
            paired = _paired(base["samples"], adapter["samples"], task, metric, chosen)
            scores.append(
                HarnessScore(
                    task=task,
                    metric=metric if chosen == "none" else name,
                    higher_is_better=bool(higher),
                    rows=len(base["samples"].get(task, ())),
                    base=float(value),
                    adapter=float(adapter["results"][task][name]),
                    comparison=paired and compare(f"{task} {metric}", paired, higher_is_better=bool(higher), seed=seed),
                )
            )
    return scores


def _paired(base: Samples, adapter: Samples, task: str, metric: str, chosen: str) -> PairedSums | None:
    """The metric document by document; None for those that only exist over a whole corpus."""
    import numpy as np

    sides = [
        {
            row["doc_id"]: row[metric]
            for row in samples.get(task, ())
            if row.get("filter", "none") == chosen and metric in row
        }
        for samples in (base, adapter)
    ]
    numbers = [side.values() for side in sides]
    if not sides[0] or sides[0].keys() != sides[1].keys():
        return None
    if not all(isinstance(value, int | float) for values in numbers for value in values):
        return None
    tables = [np.array([[float(side[key]), 1.0] for key in sorted(sides[0])]) for side in sides]
    is_share = all(value in (0, 1) for values in numbers for value in values)
    return PairedSums(tables[0], tables[1], lambda sums: sums[:, 0] / sums[:, 1], is_share)
