"""Which measures there are, and which suit the references."""

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ..errors import UsageError
from ..inspection.rows import folded, word_count
from ..paths import as_path
from . import json_metrics, text_metrics
from .json_metrics import parsed
from .statistics import PairedSums
from .text_metrics import Table, Texts, mean_of, require_library

Measure = Callable[[Texts, Texts], Table]
Library = tuple[str, str] | None
_ROUGE, _BLEU = ("rouge_score", "rouge-score"), ("sacrebleu", "sacrebleu")
# Name -> the measure, whether it calls a row right or wrong, and the library that it needs.
_METRICS: dict[str, tuple[Measure, bool, Library]] = {
    "exact_match": (text_metrics.exact_match_table, True, None),
    "accuracy": (text_metrics.accuracy_table, True, None),
    "macro_f1": (text_metrics.macro_f1_table, False, None),
    "token_f1": (text_metrics.token_f1_table, False, None),
    "json_equal": (json_metrics.json_equal_table, True, None),
    "json_fields": (json_metrics.json_fields_table, False, None),
    "json_valid": (json_metrics.json_valid_table, True, None),
    "rougeL": (text_metrics.rouge_table("rougeL"), False, _ROUGE),
    "rouge1": (text_metrics.rouge_table("rouge1"), False, _ROUGE),
    "rouge2": (text_metrics.rouge_table("rouge2"), False, _ROUGE),
    "bleu": (text_metrics.bleu_table, False, _BLEU),
    "chrf": (text_metrics.chrf_table, False, _BLEU),
}
METRICS = (*_METRICS, "regex:PATTERN")
_REGEX = "regex:"
_GROUPS = {
    "json": ("json_equal", "json_fields", "json_valid"),
    "rouge": ("rougeL", "rouge1", "rouge2"),
    "labels": ("accuracy", "macro_f1"),
}
_JSON_SHARE = 0.95
_MOST_LABELS, _ROWS_PER_LABEL, _LABEL_WORDS = 20, 4, 6
_SHORT_WORDS, _SHORT_LONGEST = 8, 20


@dataclass(frozen=True)
class Metric:
    """A measure by name."""

    name: str
    measure: Measure
    is_share: bool

    def of(self, base: Texts, adapter: Texts, references: Texts) -> PairedSums:
        """Both sides on the same rows."""
        import numpy as np

        (base_rows, score), (adapter_rows, _) = self.measure(base, references), self.measure(adapter, references)
        return PairedSums(np.array(base_rows), np.array(adapter_rows), score, self.is_share)


@dataclass(frozen=True)
class ChosenMetrics:
    """What is measured, the first of them first, and why."""

    metrics: tuple[Metric, ...]
    reason: str


def choose_metrics(
    wanted: Literal["auto"] | Sequence[str], references: Texts, metric_file: str | None = None
) -> ChosenMetrics:
    """The measures by their names, or those that suit the references; a metric of one's own comes first.

    Raises `UsageError` for a name or file that is none, `MissingLibraryError` where a library is absent.
    """
    names, reason = suited_to(references) if wanted == "auto" else (_named(wanted), "as asked for")
    own = () if metric_file is None else (load_function(metric_file, references),)
    if (names or metric_file) and not references:
        raise UsageError(
            "No row ends with an answer in text, so there is nothing to answer and to compare.",
            next_step="Give rows that end with an answer, or leave the metrics at auto to measure losses alone.",
        )
    return ChosenMetrics((*own, *map(_metric, names)), reason)


def check_metrics(wanted: Literal["auto"] | Sequence[str]) -> None:
    """Raise as `choose_metrics` does for names and patterns that are none, before any row is read."""
    if wanted != "auto":
        for name in _named(wanted):
            _metric(name)


def _named(wanted: Sequence[str]) -> list[str]:
    names = [name for given in wanted for name in _GROUPS.get(given, (given,))]
    unknown = [name for name in names if name not in _METRICS and not name.startswith(_REGEX)]
    if unknown:
        raise UsageError(
            f"There is no metric {unknown[0]!r}.",
            next_step=f"Choose among auto, {', '.join([*_GROUPS, *METRICS])}.",
        )
    return list(dict.fromkeys(names))


def _metric(name: str) -> Metric:
    if name.startswith(_REGEX):
        return Metric(name, text_metrics.regex_table(name.removeprefix(_REGEX)), is_share=True)
    measure, is_share, library = _METRICS[name]
    if library is not None:
        require_library(*library, metric=name)
    return Metric(name, measure, is_share)


def suited_to(references: Texts) -> tuple[list[str], str]:
    """Names of the measures that suit the references, and why."""
    if not references:
        return [], "no row ends with an answer in text, so losses alone are measured"
    in_json = sum(isinstance(value, dict | list) for value in map(parsed, references))
    if in_json >= _JSON_SHARE * len(references):
        return list(_GROUPS["json"]), f"{in_json} of {len(references)} references are JSON objects or lists"
    labels = {folded(reference) for reference in references}
    lengths = sorted(word_count(reference) for reference in references)
    few = len(labels) <= min(_MOST_LABELS, len(references) // _ROWS_PER_LABEL)
    if len(labels) > 1 and few and lengths[-1] <= _LABEL_WORDS:
        return list(_GROUPS["labels"]), f"the {len(references)} references are {len(labels)} different labels"
    usual, long = lengths[len(lengths) // 2], lengths[math.ceil(0.9 * len(lengths)) - 1]
    if usual <= _SHORT_WORDS and long <= _SHORT_LONGEST:
        return [
            "exact_match",
            "token_f1",
        ], f"references are short: {usual} words in the middle, nine in ten at most {long}"
    reason = (
        f"references are free text of {usual} words in the middle; shared words say little of how good such answers are"
    )
    return [*_GROUPS["rouge"], "bleu", "chrf"], reason


def load_function(given: str, references: Texts) -> Metric:
    """A function of one's own, `FILE.py:FUNCTION`, called as `function(answer, reference)` for a number, higher = better.

    It is tried on the first reference before anything else is done; what it raises itself is shown as it is. Runs the
    file: for people at a command line and importers only.
    """
    path, separator, name = given.rpartition(":")
    file = as_path(path or given)
    spec = importlib.util.spec_from_file_location(f"_qlora_metric_{file.stem}", file)
    if not separator or spec is None or spec.loader is None or not file.is_file():
        raise UsageError(
            f"{given!r} names no Python function.", next_step="Write FILE.py:FUNCTION, such as metrics.py:score."
        )
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and the like look their own module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{file} has no function {name!r}.", next_step=f"Define {name}(answer, reference) there.")
    checked = partial(_checked, function, name)
    for reference in references[:1]:
        checked(reference, reference)
    return Metric(name, lambda answers, wanted: mean_of(list(map(checked, answers, wanted))), is_share=False)


def _checked(function: Any, name: str, answer: str, reference: str) -> float:
    score = function(answer, reference)
    if not isinstance(score, bool | int | float) or not math.isfinite(score):
        raise UsageError(
            f"The metric {name} gave {score!r} for the answer {answer[:80]!r}; allowed is a finite number.",
            next_step="Return a number for every answer, higher for better ones.",
        )
    return float(score)
