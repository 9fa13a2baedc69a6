"""Results of evaluations, merges and exports, for agents: a few lines, and the figures. They were read from files."""

from collections.abc import Mapping
from typing import Any

from qlora_tools.jobs.layout import TRAINING
from qlora_tools.jobs.outcomes import number, numbers

_MOST_REASONS, _MOST_METRICS, _MOST_NOTES = 6, 6, 4
_LONGEST = 240
# What a training's result holds one of for each step is left to qlora://jobs/{id}/metrics.
_LEFT_OUT = ("losses", "versions", "output_directory", "adapter_directory", "warnings")
_INSTRUMENTS = ("adapter_effect", "forgetting", "refusals", "quantisation_cost")

Document = Mapping[str, Any]


def brief_result(kind: str, result: Document) -> dict[str, Any]:
    """The figures of a result, without what it has for every row, layer or step."""
    if kind == TRAINING:
        losses = numbers(result.get("losses"))
        ends = {"first_loss": losses[0], "last_loss": losses[-1]} if losses else {}
        return {name: value for name, value in result.items() if name not in _LEFT_OUT} | ends
    if kind == "evaluate":
        return _brief_evaluation(result)
    return {name: value for name, value in result.items() if name != "versions"}


def result_lines(kind: str, result: Document) -> list[str]:
    """What the summary of a job does not say, most important first."""
    lines = {"evaluate": _of_evaluation, "merge": _of_merge, "export": _of_export}.get(kind)
    return [line[:_LONGEST] for line in lines(result)] if lines is not None and result else []


def _brief_evaluation(result: Document) -> dict[str, Any]:
    kept = ("adapter", "page", "verdict", "loss", "metrics", "stopping", "fields", "not_done", "next_step", "seconds")
    brief: dict[str, Any] = {name: result[name] for name in kept if result.get(name)}
    brief["rows"] = {name: value for name, value in _part(result, "rows").items() if not isinstance(value, list)}
    for name in _INSTRUMENTS:
        told = _part(result, name)
        figures = {key: value for key, value in told.items() if not isinstance(value, list | dict)}
        if told:
            brief[name] = figures | {"reasons": told.get("reasons", [])}
    return brief


def _of_evaluation(result: Document) -> list[str]:
    reasons = [one for one in _list(_part(result, "verdict").get("reasons")) if isinstance(one, Mapping)]
    lines = [f"{one.get('side')}: {one.get('message')}" for one in reasons[:_MOST_REASONS]]
    measures = [_part(result, "loss").get("loss"), *_list(result.get("metrics"))]
    lines += [words for one in measures[: _MOST_METRICS + 1] if (words := _measure_words(one))]
    return [*lines, f"Page: {result.get('page')}"]


def _measure_words(measure: object) -> str:
    """`exact_match: base 0.10, adapter 0.62 (+0.52, 95 % +0.41 to +0.63, p 0.000) on 120 rows`."""
    if not isinstance(measure, Mapping):
        return ""
    told = _part(measure, "without_leaked") or _part(measure, "comparison")
    base, adapter = (number(_part(told, side).get("value")) for side in ("base", "adapter"))
    difference = [number(_part(told, "difference").get(name)) for name in ("value", "low", "high")]
    p_value = number(told.get("p_value"))
    if base is None or adapter is None or p_value is None or None in difference:
        return ""
    value, low, high = (f"{one:+.3g}" for one in difference)
    return (
        f"{told.get('name')}: base {base:.3g}, adapter {adapter:.3g} ({value}, 95 % {low} to {high}, p {p_value:.2g}) "
        f"on {told.get('rows')} rows"
    )


def _of_merge(result: Document) -> list[str]:
    difference = _part(result, "base_difference")
    return [f"Model: {result.get('directory')}", *([str(difference["note"])] if difference.get("note") else [])]


def _of_export(result: Document) -> list[str]:
    notes = [f"Note: {note}" for note in _list(result.get("notes"))[:_MOST_NOTES]]
    return [f"Directory: {result.get('directory')}", *notes]


def _part(document: Document, name: str) -> Document:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
