"""Memory and plans in words, and as the structured side of answers."""

import json
from typing import TYPE_CHECKING, Any

from pydantic import Field

from qlora_tools.progress.durations import duration_words

from .answers import Structured
from .work import Document

if TYPE_CHECKING:
    from qlora_tools.results import MemoryReport

_GIB = 2**30
_MOST_PARTS = 5
_MOST_MODELS = 12


class Strategy(Structured):
    """One way to a model."""

    name: str
    model: str
    gpu: str
    fits: bool
    needed_gib: float
    hours: float | None = None
    quality: str
    given_up: list[str]


class LargeModel(Structured):
    """A model that a GPU takes, and its longest row."""

    name: str
    parameters: int
    licence: str
    needed_gib: float
    longest_row_tokens: int


class MemoryAnswer(Structured):
    """Peak memory in GiB; `fits` is absent without a GPU. Strategies and models are of those views alone."""

    view: str
    model: str | None = None
    gpu: str | None = None
    fits: bool | None = None
    needed_gib: float | None = None
    free_gib: float | None = None
    expected_gib: float | None = None
    parts_gib: dict[str, float] = Field(default_factory=dict)
    host_gib: float | None = None
    disk_gib: float | None = None
    strategies: list[Strategy] = Field(default_factory=list)
    models: list[LargeModel] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    next_call: str


def memory_answer(report: "MemoryReport") -> MemoryAnswer:
    """An estimate as data."""
    return MemoryAnswer(
        view="estimate",
        model=report.model,
        gpu=report.gpu,
        fits=report.fits,
        needed_gib=_gib(report.needed_bytes) if report.host is None else None,
        free_gib=None if report.gpu_bytes is None else _gib(report.gpu_bytes),
        expected_gib=_gib(report.mid_bytes) if report.host is None else None,
        parts_gib={name: _gib(size) for name, size in report.parts.items()},
        host_gib=_gib(report.host.memory_bytes) if report.host else None,
        disk_gib=_gib(report.host.disk_bytes) if report.host else None,
        notes=report.notes,
        next_call=_after_memory(report),
    )


def memory_words(report: "MemoryReport") -> str:
    """An estimate in a few lines."""
    head = f"{report.model} ({report.parameters / 1e9:.2f} B parameters), {report.task}: "
    if report.host is not None:
        host = (
            f"{_gib(report.host.memory_bytes)} GiB of host memory, {_gib(report.host.disk_bytes)} GiB of disk, no GPU"
        )
        return f"{head}{host}.\nNext: {_after_memory(report)}"
    verdict = {True: "fits", False: "does not fit for sure", None: "no GPU named"}[report.fits]
    free = f" of {_gib(report.gpu_bytes)} GiB on {report.gpu}" if report.gpu_bytes is not None else " GiB"
    largest = sorted(report.parts.items(), key=lambda item: -item[1])[:_MOST_PARTS]
    lines = [
        f"{head}{verdict}; {_gib(report.needed_bytes)}{free} needed to be sure.",
        f"Allocated at the peak ({report.moment}): {_gib(report.mid_bytes)} GiB, of it "
        + ", ".join(f"{name} {_gib(size)}" for name, size in largest),
        *report.notes,
        f"Next: {_after_memory(report)}",
    ]
    return "\n".join(lines)


def _after_memory(report: "MemoryReport") -> str:
    if report.task == "merging":
        return "qlora merge OUTPUT -o DIR, on the command line."
    if report.fits is None:
        return "Give gpu or memory_limit_gib to see whether it fits."
    if report.fits:
        return "create_config(model=..., data=..., gpu=...) plans the run."
    return (
        "create_config(...) finds the fewest changes that make it fit; view='largest_models' lists what the GPU takes."
    )


def largest_answer(found: Document) -> MemoryAnswer:
    """The largest models of a GPU as data."""
    models = [
        LargeModel(
            name=model["name"],
            parameters=model["parameters"],
            licence=model["licence"],
            needed_gib=_gib(model["needed_bytes"]),
            longest_row_tokens=model["longest_row"]["tokens"],
        )
        for model in found["models"]
    ]
    return MemoryAnswer(
        view="largest_models",
        gpu=found["gpu"],
        free_gib=_gib(found["free_bytes"]),
        models=models,
        next_call="create_config(model=..., data=..., gpu=...).",
    )


def largest_words(found: Document) -> str:
    """The largest models of a GPU, one a line."""
    lines = [
        f"{model['name']}: {model['parameters'] / 1e9:.1f} B, {_gib(model['needed_bytes'])} GiB needed for rows of 512, "
        f"rows up to {model['longest_row']['tokens']:,} tokens, {model['licence']}"
        for model in found["models"][:_MOST_MODELS]
    ]
    head = f"{found['gpu']}, {_gib(found['free_bytes'])} GiB free, takes with QLoRA:"
    return "\n".join(
        [head, *(lines or ["no model of the catalogue"]), "Next: create_config(model=..., data=..., gpu=...)."]
    )


def comparison_answer(found: Document) -> MemoryAnswer:
    """Strategies as data."""
    return MemoryAnswer(
        view="strategies",
        strategies=[
            Strategy(
                needed_gib=_gib(way["needed_bytes"]),
                **{name: way[name] for name in ("name", "model", "gpu", "fits", "hours", "quality", "given_up")},
            )
            for way in found["strategies"]
        ],
        notes=[found["note"]],
        next_call="create_config(model=..., data=..., gpu=...) for the one that is chosen.",
    )


def comparison_words(found: Document) -> str:
    """Strategies, one a line."""
    lines = [
        f"{way['name']}: {way['model']} on {way['gpu']}, {_gib(way['needed_bytes'])} GiB, "
        f"{'fits' if way['fits'] else 'does not fit'}{_hours(way['hours'])}; {way['quality']}"
        for way in found["strategies"]
    ]
    return "\n".join([*lines, found["note"], "Next: create_config(...) for the one that is chosen."])


def _hours(hours: float | None) -> str:
    return "" if hours is None else f", about {duration_words(3600 * hours)}"


def plan_words(plan: Document, call: str) -> str:
    """A plan in a few lines."""
    memory, schedule = plan["memory"], plan["schedule"]
    seconds = "" if schedule["seconds"] is None else f", about {duration_words(schedule['seconds'])}"
    verdict = "fits" if plan["fits"] else "does not fit for sure"
    lines = [
        f"{verdict}: {_gib(memory['needed_bytes'])} of {_gib(memory['free_bytes'])} GiB on {memory['gpu']}; "
        f"{schedule['steps']} steps of {schedule['rows_per_step']} rows{seconds} ({schedule['basis']}).",
        f"config: {json.dumps(plan['config'], ensure_ascii=False)}",
        *_given_up_words(plan),
        *plan["notes"],
        f"Next: {call}",
    ]
    return "\n".join(lines)


def _given_up_words(plan: Document) -> list[str]:
    applied = [rung for rung in plan["ladder"] if rung["status"] == "applied" and rung["settings"]]
    return [f"Given up to fit: {', '.join(map(_setting, applied))}."] if applied else []


def _setting(rung: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in rung["settings"].items())


def _gib(size: float) -> float:
    return round(size / _GIB, 2)
