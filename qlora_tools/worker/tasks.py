"""What a worker can be asked for: one function a task, plain data in and out."""

import base64
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..events import Listener

Document = dict[str, Any]
_MOST_MASK_PIECES = 60
_LONGEST_PIECE = 400


def inspect(arguments: Mapping[str, Any], on_event: Listener) -> Document:
    """`inspect_dataset`: the report, and the histogram of lengths as a picture."""
    from ..inspection import inspect_dataset
    from ..report.dataset_words import visible_report
    from ..report.length_histogram import write_histogram

    report = inspect_dataset(**arguments, on_event=on_event)
    shown = visible_report(report).model_dump(mode="json")
    for row in shown["masks"]:
        row["pieces"] = [
            {**piece, "text": piece["text"][:_LONGEST_PIECE]} for piece in row["pieces"][:_MOST_MASK_PIECES]
        ]
    picture = _picture(lambda path: write_histogram(path, report)) if report.lengths is not None else None
    return {"report": shown, "picture": picture}


def environment(arguments: Mapping[str, Any], on_event: Listener) -> Document:
    """`check_environment`, with room on the disk of `directory`."""
    from ..doctor import check_environment

    return check_environment(Path(arguments["directory"])).model_dump(mode="json")


def plan(arguments: Mapping[str, Any], on_event: Listener) -> Document:
    """`create_config`: the plan as `qlora plan --json` prints it."""
    from ..planning import create_config
    from ..planning.documents import plan_document

    return plan_document(create_config(**arguments))


def strategies(arguments: Mapping[str, Any], on_event: Listener) -> Document:
    """`compare_strategies`, for a GPU by name, by its memory, or of this machine."""
    from ..planning import compare_strategies, target_hardware
    from ..planning.documents import comparison_document

    wanted = dict(arguments)
    hardware = target_hardware(wanted.pop("gpu"), wanted.pop("memory_limit_gib"))
    return comparison_document(compare_strategies(**wanted, gpu=hardware))


def largest(arguments: Mapping[str, Any], on_event: Listener) -> Document:
    """`largest_models` of a GPU by name, by its memory, or of this machine."""
    from ..planning import largest_models, target_hardware
    from ..planning.documents import largest_document

    hardware = target_hardware(arguments["gpu"], arguments["memory_limit_gib"])
    return largest_document(hardware, largest_models(hardware, arguments["settings"]))


def curve(arguments: Mapping[str, Any], on_event: Listener) -> Document:
    """The loss curve of a job as a picture; None before the first loss."""
    from ..jobs import get_job
    from ..jobs.run_report import curve_caption, curve_of, read_job_run
    from ..report.loss_curve import write_loss_curve

    status = get_job(arguments["job_id"], workspace=Path(arguments["workspace"]))
    summary, course = read_job_run(status)
    drawn, below = curve_of(summary, course), curve_caption(summary)
    return {"picture": _picture(lambda path: write_loss_curve(path, drawn, title=status.name, below=below))}


def script(arguments: Mapping[str, Any], on_event: Listener) -> Document:
    """`render_script` of a config as data."""
    from ..config import parse_config
    from ..scripts.render import render_script

    asked = dict(arguments)
    return render_script(parse_config(asked.pop("config")), **asked).as_document()


def explain(arguments: Mapping[str, Any], on_event: Listener) -> Document:
    """`explain_script` of a config as data."""
    from ..config import parse_config
    from ..scripts.changed import explain_script

    asked = dict(arguments)
    return explain_script(parse_config(asked.pop("config")), **asked).as_document()


TASKS: Mapping[str, Callable[[Mapping[str, Any], Listener], Document]] = {
    "environment": environment,
    "inspect": inspect,
    "plan": plan,
    "strategies": strategies,
    "largest": largest,
    "curve": curve,
    "script": script,
    "explain": explain,
}


def _picture(write: Callable[[Path], bool]) -> str | None:
    """The PNG that `write` makes, in base64; None where there is nothing to draw, or nothing to draw with."""
    from ..errors import MissingLibraryError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        try:
            drawn = write(path)
        except MissingLibraryError:
            return None
        return base64.b64encode(path.read_bytes()).decode() if drawn else None
