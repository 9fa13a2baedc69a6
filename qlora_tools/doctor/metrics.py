"""What the metrics in a log tell: losses and gradients that are not finite, zero, stuck, climbing, learnt by heart."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from .log_text import LogText
from .recognition import Hit, measured

_FIELD = re.compile(
    r"['\"]?\b(eval_loss|evaluation loss|train_loss|grad_norm"
    r"|loss)\b['\"]?\s{0,3}[:=]?\s{0,3}['\"]?(-?\d+\.?\d*(?:e[+-]?\d+)?|nan|-?inf(?:inity)?)\b"
)
_LEAST_STEPS = 10
_STUCK_SHARE, _CLIMB, _HEART = 0.01, 2.0, 1.1


@dataclass(frozen=True)
class _Value:
    offset: int
    value: float


def metric_hits(log: LogText) -> list[Hit]:
    """Failures that the metrics of a run show."""
    series: dict[str, list[_Value]] = {"loss": [], "grad_norm": [], "eval_loss": []}
    for match in _FIELD.finditer(log.flat):
        name = {"evaluation loss": "eval_loss", "train_loss": ""}.get(match[1], match[1])
        if name:
            series[name].append(_Value(match.start(), float(match[2])))
    losses, norms, evaluations = series["loss"], series["grad_norm"], series["eval_loss"]
    return [
        *_not_finite(losses, norms, evaluations),
        *_zero(losses, norms),
        *_course(losses, norms),
        *_by_heart(losses, evaluations),
    ]


def _not_finite(losses: list[_Value], norms: list[_Value], evaluations: list[_Value]) -> list[Hit]:
    broken = [value for value in (*losses, *norms) if not math.isfinite(value.value)]
    if broken:
        return [measured("loss_not_finite", min(value.offset for value in broken), "certain")]
    empty = [value for value in evaluations if math.isnan(value.value)]
    return [measured("labels_all_masked", empty[0].offset, "likely")] if empty else []


def _zero(losses: list[_Value], norms: list[_Value]) -> list[Hit]:
    zeros = [value for value in losses if value.value == 0]
    if not zeros or any(not math.isfinite(norm.value) for norm in norms):
        return []
    still = bool(norms) and all(norm.value == 0 for norm in norms)
    if still and len(zeros) == len(losses):
        return [
            measured("labels_all_masked", zeros[0].offset, "likely"),
            measured("loss_is_zero", zeros[0].offset, "likely"),
        ]
    return [measured("loss_is_zero", zeros[0].offset, "likely")]


def _course(losses: list[_Value], norms: list[_Value]) -> list[Hit]:
    finite = [value for value in losses if math.isfinite(value.value) and value.value != 0]
    if finite and len(norms) > 1 and all(norm.value == 0 for norm in norms):
        return [measured("no_gradient", norms[0].offset, "certain")]
    if len(finite) < _LEAST_STEPS:
        return []
    tenth = max(2, len(finite) // 5)
    first, last = _mean(finite[:tenth]), _mean(finite[-tenth:])
    if last > _CLIMB * first and last > 1:
        return [measured("loss_climbs", finite[-1].offset, "likely")]
    if abs(first - last) < _STUCK_SHARE * first and first > 0.5:
        return [measured("loss_does_not_fall", finite[-1].offset, "possible")]
    return []


def _by_heart(losses: list[_Value], evaluations: list[_Value]) -> list[Hit]:
    """The evaluation loss rose at the last evaluations, and is well above its best, while the training loss fell."""
    finite = [value for value in evaluations if math.isfinite(value.value)]
    if len(finite) < 3 or len(losses) < 2 or losses[-1].value >= losses[0].value:
        return []
    rising = all(earlier.value < later.value for earlier, later in pairwise(finite[-2:]))
    best = min(value.value for value in finite)
    return [measured("overfitting", finite[-1].offset, "likely")] if rising and finite[-1].value > _HEART * best else []


def _mean(values: list[_Value]) -> float:
    return sum(value.value for value in values) / len(values)
