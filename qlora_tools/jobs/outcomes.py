"""What came of a job, in a line, and what to do with it.

Results were read from files, so nothing in them is taken for granted.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..progress.durations import duration_words
from .layout import TRAINING

Result = Mapping[str, Any]


def summary_of(kind: str, result: Result) -> str | None:
    """The result of a finished job in a line; None where nothing is known of it."""
    words = [word for word in _SUMMARIES.get(kind, _of_unknown)(result) if word]
    return ", ".join(words) or None


def step_after_success(kind: str, result: Result) -> str:
    """What to do with the result."""
    if kind == TRAINING:
        return f'Try it: qlora generate {result.get("output_directory", "OUTPUT")} -p "..."'
    if kind == "merge":
        return f"Ship it: qlora export {result.get('directory', 'DIRECTORY')} --to gguf, or load it with Transformers."
    if kind == "export":
        return f"Its model card says how to load it: {result.get('directory', 'DIRECTORY')}/README.md"
    return str(result.get("next_step") or "")


def number(value: object) -> float | None:
    """`value` where it is a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def numbers(values: object) -> list[float]:
    """`values` where all of them are numbers, else none."""
    found = [number(value) for value in values] if isinstance(values, list) else []
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else []


def parity_words(parity: object) -> str:
    """How far a merged model answers as base plus adapter."""
    if not isinstance(parity, Mapping):
        return "not compared with base plus adapter"
    agreement, kl = number(parity.get("top1_agreement")), number(parity.get("mean_kl"))
    passed = "parity passed" if parity.get("passed") is True else "parity failed"
    figures = [f"top-1 agreement {100 * agreement:.2f} %"] if agreement is not None else []
    clear = number(parity.get("clear_agreement"))
    figures += [f"{100 * clear:.2f} % where the lead is clear"] if clear is not None else []
    figures += [f"mean KL {kl:.1e} nats"] if kl is not None else []
    prompts = number(parity.get("prompts"))
    figures += [f"on {prompts:.0f} prompts"] if prompts is not None else []
    return f"{passed}: {', '.join(figures)}" if figures else passed


def _of_training(result: Result) -> list[str]:
    losses, rows = numbers(result.get("losses")), result.get("training_rows")
    evaluations = result.get("evaluation_losses")
    held_out = numbers(list(evaluations.values())) if isinstance(evaluations, Mapping) else []
    words = [f"loss {losses[0]:.3f} -> {losses[-1]:.3f}"] if losses else []
    if held_out:
        course = f"{held_out[0]:.3f} -> {held_out[-1]:.3f}" if len(held_out) > 1 else f"{held_out[0]:.3f}"
        words.append(f"held-out loss {course}, kept step {result.get('saved_step')}")
    words += [f"{rows.get('used')} of {rows.get('read')} rows usable"] if isinstance(rows, Mapping) else []
    return [*words, _took(result, "train_seconds")]


def _of_merge(result: Result) -> list[str]:
    size = number(result.get("size_bytes"))
    words = [f"{size / 1e9:.2f} GB" if size is not None else "", f"in {result.get('dtype')}"]
    return [" ".join(words).strip(), f"base {result.get('base')}", parity_words(result.get("parity")), _took(result)]


def _of_evaluation(result: Result) -> list[str]:
    verdict, rows = _part(result, "verdict"), _part(result, "rows")
    words = [str(verdict.get("decision") or ""), str(verdict.get("summary") or "").rstrip(".")]
    return [": ".join(word for word in words if word), f"{rows.get('used')} rows" if rows else "", _took(result)]


def _of_export(result: Result) -> list[str]:
    size, files = number(result.get("size_bytes")), result.get("files")
    words = [
        f"{len(files)} files" if isinstance(files, list) else "",
        f"{size / 1e9:.2f} GB" if size is not None else "",
    ]
    parity = parity_words(result["parity"]) if result.get("parity") else ""
    return [f"{result.get('to')}: {' of '.join(word for word in words if word)}", parity, _took(result)]


def _part(result: Result, name: str) -> Result:
    found = result.get(name)
    return found if isinstance(found, Mapping) else {}


def _of_unknown(result: Result) -> list[str]:
    return []


def _took(result: Result, name: str = "seconds") -> str:
    seconds = number(result.get(name))
    return "" if seconds is None else duration_words(seconds)


_SUMMARIES: Mapping[str, Callable[[Result], list[str]]] = {
    TRAINING: _of_training,
    "evaluate": _of_evaluation,
    "merge": _of_merge,
    "export": _of_export,
}
