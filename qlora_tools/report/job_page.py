"""The report of a run as one HTML file: nothing is loaded from elsewhere, and every value is escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..disk import disk_errors
from ..errors import MissingLibraryError
from .dataset_page import with_code as with_code
from .loss_curve import Curve, course_svg
from .pages import check_page, page_template

_SIGN = '<meta name="generator" content="qlora-tools report">'
_TONES = {"succeeded": "good", "failed": "bad", "interrupted": "bad", "cancelled": "warn", "stopped": "warn"}
_SYMBOLS = {"good": "✓", "bad": "✗", "warn": "!", "note": "…"}
_ENDED = ("succeeded", "failed", "interrupted", "cancelled", "stopped")
_MOST_ANSWERS = 4
_MOST_EVALUATIONS = 100
Document = Mapping[str, Any]


def check_job_page(path: Path) -> None:
    """Raise `UsageError` unless the report of a run may be written to `path`."""
    check_page(path, _SIGN)


def write_job_page(path: Path, run: Document, curve: Curve) -> None:
    """Write the report of `run`; raises `MachineError` where the disk refuses."""
    page = job_page(run, curve)
    with disk_errors(path, left="the report was not written"):
        path.write_text(page, encoding="utf-8")


def job_page(run: Document, curve: Curve) -> str:
    """The page of `run`, the document that `qlora report --json` prints; without matplotlib it has no picture."""
    tone = _TONES.get(run["state"], "note")
    return page_template("job.html.j2", with_code=with_code).render(
        sign=Markup(_SIGN),  # noqa: S704
        run=run,
        tone=tone,
        symbol=_SYMBOLS[tone],
        name=run["job_id"] or run["output_directory"],
        verdict=verdict_words(run),
        figures=_figures(run),
        curves=_pictures(curve),
        evaluations=_evaluations(run),
        sample_groups=_sample_groups(run["samples"]),
        memory=_memory(run["memory"]),
        commands=_commands(run),
    )


def verdict_words(run: Document) -> str:
    """In a sentence or two, what became of the losses."""
    losses, best, evaluations = run["losses"], run["best_evaluation"], run["evaluations"]
    if losses is None:
        return "No step was told yet."
    moved = "fell" if losses["last"] < losses["first"] else "rose"
    words = f"The training loss {moved} from {losses['first']:.3f} to {losses['last']:.3f}."
    if best is None:
        when = "was no evaluation" if run["state"] in _ENDED else "is no evaluation yet"
        return f"{words} There {when}: how it does on rows it has not seen is not known."
    first, last = evaluations[0], evaluations[-1]
    if len(evaluations) == 1:
        words += f" The evaluation loss is {best['loss']:.3f} (step {best['step']:,})."
    else:
        words += f" The evaluation loss went from {first['loss']:.3f} to {last['loss']:.3f}"
        words += (
            "." if best is last or best == last else f", and was best at step {best['step']:,}: {best['loss']:.3f}."
        )
    saved = run["saved_step"]
    return words if saved is None else f"{words} The adapter saved is that of step {saved:,}."


def _figures(run: Document) -> list[tuple[str, str]]:
    """Headline numbers, each with what it is."""
    speed, planned = run["speed"], run["planned_steps"]
    told = [("steps", f"{run['step']:,}" + (f" of {planned:,}" if planned else ""))]
    if run["losses"] is not None:
        told.append(("training loss at the end", f"{run['losses']['last']:.3f}"))
    if run["best_evaluation"] is not None:
        told.append(("best evaluation", f"{run['best_evaluation']['loss']:.3f}"))
    if speed["tokens_per_second"] is not None:
        told.append(("tokens a second", f"{speed['tokens_per_second']:,.0f}"))
    if speed["step_seconds"] is not None:
        told.append(("seconds a step", f"{speed['step_seconds']:.3g}"))
    peak = run["memory"]["peak_allocated_bytes"] or run["memory"]["host_bytes"]
    return [*told, ("peak memory", _gib(peak))] if peak else told


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _pictures(curve: Curve) -> list[tuple[str, Markup]]:
    """The curve for a broad and a narrow page."""
    if curve.is_empty:
        return []
    try:
        # Drawn by us from numbers: the one markup that is put in as it is.
        return [
            ("broad", Markup(course_svg(curve))),  # noqa: S704
            ("narrow", Markup(course_svg(curve, narrow=True))),  # noqa: S704
        ]
    except MissingLibraryError:
        return []


def _evaluations(run: Document) -> list[dict[str, Any]]:
    """The last rows of the table of evaluations, and the best one."""
    best, rows = run["best_evaluation"], []
    before: float | None = None
    for one in run["evaluations"]:
        change = "" if before is None else f"{one['loss'] - before:+.3f}"
        training = "" if one["training_loss"] is None else f"{one['training_loss']:.3f}"
        marks = ["best"] * (one["step"] == best["step"]) + ["saved"] * (one["step"] == run["saved_step"])
        rows.append({"step": f"{one['step']:,}", "loss": f"{one['loss']:.3f}", "change": change, "training": training,
                     "mark": ", ".join(marks)})  # fmt: skip
        before = one["loss"]
    marked = [row for row in rows[:-_MOST_EVALUATIONS] if row["mark"]]
    return [*marked, *rows[-_MOST_EVALUATIONS:]]


def _sample_groups(samples: Sequence[Document]) -> list[dict[str, Any]]:
    """Each prompt with its answers side by side: the first, the last, and some between."""
    groups: dict[str, list[Document]] = {}
    for sample in samples:
        groups.setdefault(sample["prompt"], []).append(sample)
    return [
        {"prompt": prompt, "reference": found[-1]["reference"], "answers": _spread(found)}
        for prompt, found in groups.items()
    ]


def _spread(found: Sequence[Document]) -> list[Document]:
    if len(found) <= _MOST_ANSWERS:
        return list(found)
    places = (round(index * (len(found) - 1) / (_MOST_ANSWERS - 1)) for index in range(_MOST_ANSWERS))
    return [found[place] for place in places]


def _memory(memory: Document) -> list[tuple[str, str]]:
    """Predicted and measured, as far as they are known; torch counts nothing without a GPU."""
    predicted, measured = memory["predicted_peak_bytes"], memory["peak_allocated_bytes"]
    rows = [("predicted peak", _gib(predicted))] if predicted else []
    if measured:
        off = f" ({measured / predicted - 1:+.1%} against the prediction)" if predicted else ""
        rows.append(("measured peak, allocated", _gib(measured) + off))
    if memory["peak_reserved_bytes"]:
        rows.append(("measured peak, reserved by torch", _gib(memory["peak_reserved_bytes"])))
    return [*rows, ("host memory, peak", _gib(memory["host_bytes"]))] if memory["host_bytes"] else rows


def _commands(run: Document) -> list[str]:
    """What one would call next."""
    output = run["output_directory"]
    if run["state"] == "succeeded":
        return [f'qlora generate {output} -p "..."', f"qlora merge {output} -o {output}-merged"]
    return []
