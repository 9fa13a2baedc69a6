"""Why a field of a config has its value: as a plan would say, else as the config's own documentation does."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config.explain import explain_config
from ..config.schema import RunConfig
from ..data.lengths import RowLengths
from ..errors import ModelError
from ..models.hardware import Hardware
from ..models.known import find_model
from ..models.reference import ModelReference
from ..planning.goals import Case, first_values
from ..planning.values import (
    ASKED,
    CHECKPOINTING,
    EIGHT_BIT,
    GOALS,
    HEURISTIC,
    LORA,
    MIXED_PRECISION,
    QLORA,
    RSLORA,
    PlannedValue,
    PlanRequest,
    planned,
)

DEFAULT = "default of the config"
_PAPERS = {
    "quantization.kind": QLORA,
    "quantization.double_quantization": QLORA,
    "quantization.compute_dtype": MIXED_PRECISION,
    "lora.rank": LORA,
    "lora.alpha": LORA,
    "lora.target_modules": QLORA,
    "lora.use_rslora": RSLORA,
    "lora.use_dora": "DoRA, arXiv:2402.09353",
    "lora.initialization": "LoftQ, arXiv:2310.08659; PiSSA, arXiv:2404.02948",
    "training.gradient_checkpointing": CHECKPOINTING,
    "training.optimizer": f"{EIGHT_BIT}; {QLORA}",
    "training.learning_rate": HEURISTIC,
    "training.schedule": HEURISTIC,
    "training.warmup_fraction": HEURISTIC,
    "training.max_gradient_norm": QLORA,
}
# What a plan decides by goal and model alone, and what by the values of those; all else depends on rows or on the machine.
_BY_MODEL = ("lora.rank", "lora.target_modules", "quantization.kind", "training.optimizer", "training.learning_rate")
_BY_VALUES = ("lora.alpha", "quantization.double_quantization")
# The end of a sentence, not the dot of a path.
_SENTENCE = re.compile(r"(?<=[\w)])\. ")
_HALF = re.compile(r"(?:; |(?<=\w\w\w): )(?![^(]*\))")
# Neither is looked at by what is taken of these plans.
_ANY_ROWS = RowLengths.of([1])
_ANY_GPU = Hardware("cuda", "a GPU with bf16", 0, 0, computes_bfloat16=True, compute_capability=(9, 0))


@dataclass(frozen=True)
class FieldReason:
    """A field's value as the config has it, why it is so, who says so, and what another value would do."""

    value: Any
    reason: str
    source: str
    effect: str


def field_reasons(config: RunConfig) -> dict[str, FieldReason]:
    """The reason of every field, by its dotted name."""
    wanted = _planned(config)
    found = {}
    for item in explain_config(config):
        plan = wanted.get(item.field)
        if plan is not None:
            found[item.field] = FieldReason(item.value, plan.reason, plan.source, plan.effect)
        else:
            found[item.field] = _documented(item.field, item.value, item.meaning, is_default=item.is_default)
    return found


def _documented(field: str, value: Any, meaning: str, *, is_default: bool) -> FieldReason:
    source = _PAPERS.get(field) or (DEFAULT if is_default else ASKED)
    first, rest = _halves(meaning)
    effect = planned(field, value, "", "").effect
    return FieldReason(value, f"{first.rstrip('.')}.", source, rest if effect == meaning else effect)


def _halves(meaning: str) -> tuple[str, str]:
    """What a description says first, and what it goes on with; the same twice where it is short."""
    parts = _SENTENCE.split(meaning, maxsplit=1)
    parts = parts if len(parts) == 2 else _HALF.split(meaning, maxsplit=1)
    return (parts[0], parts[1]) if len(parts) == 2 else (meaning, meaning)


def _planned(config: RunConfig) -> dict[str, PlannedValue]:
    """The values of the config that a plan for this model would choose too, whatever the rows and the machine."""
    model = config.model
    if ModelReference.parse(model.name, source=model.source, revision=model.revision).source == "hub":
        return {}
    try:
        shape = find_model(model.name, source=model.source).shape
    except ModelError:
        return {}
    found: dict[str, PlannedValue] = {}
    values = {"lora.rank": config.lora.rank, "lora.use_rslora": config.lora.use_rslora}
    chosen = {**values, "quantization.kind": config.quantization.kind}
    for goal in GOALS:
        for asked, names in (({}, _BY_MODEL), (chosen, _BY_VALUES)):
            request = PlanRequest(model.name, config.data.path, config.output.directory, goal, asked)
            plan = first_values(Case(request, shape, _ANY_ROWS, _ANY_GPU))
            found = {name: plan[name] for name in names if _agrees(config, plan, name)} | found
    return found


def _agrees(config: RunConfig, values: Mapping[str, PlannedValue], name: str) -> bool:
    value = values.get(name)
    part, field = name.split(".")
    return value is not None and value.source != ASKED and value.value == getattr(getattr(config, part), field)
