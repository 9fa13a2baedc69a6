"""What the parts of a RunConfig must agree on. Each rule reads the parts that are there, so that all can be reported."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigProblem

if TYPE_CHECKING:
    from .data_schema import DataConfig
    from .schema import LoraConfig, QuantizationConfig, TrainingConfig

Rule = Callable[..., ConfigProblem | None]


def _pissa_needs_16_bit(lora: "LoraConfig", quantization: "QuantizationConfig") -> ConfigProblem | None:
    if lora.initialization != "pissa" or quantization.kind == "none":
        return None
    return ConfigProblem(
        "lora.initialization",
        f"pissa moves part of the base weights into the adapter, which a {quantization.kind} base cannot give up "
        "(its weights are packed codes); use quantization.kind: none, or initialization: default or loftq",
    )


def _loftq_needs_nf4(lora: "LoraConfig", quantization: "QuantizationConfig") -> ConfigProblem | None:
    if lora.initialization != "loftq" or quantization.kind == "nf4":
        return None
    return ConfigProblem(
        "lora.initialization",
        f"loftq corrects the rounding of an nf4 base and quantization.kind is {quantization.kind}; "
        "use quantization.kind: nf4, or initialization: default",
    )


def _pissa_is_plain(lora: "LoraConfig") -> ConfigProblem | None:
    if lora.initialization != "pissa" or not (lora.use_dora or lora.modules_to_save):
        return None
    return ConfigProblem(
        "lora.initialization",
        "pissa is saved as the difference from its start, which holds A and B alone: it goes with neither use_dora nor "
        "modules_to_save; use initialization: default",
    )


def _loftq_is_without_dora(lora: "LoraConfig") -> ConfigProblem | None:
    if lora.initialization != "loftq" or not lora.use_dora:
        return None
    return ConfigProblem(
        "lora.initialization", "loftq changes the weights whose norms use_dora has measured; use one of the two"
    )


def _storage_is_for_4_bit(quantization: "QuantizationConfig") -> ConfigProblem | None:
    if quantization.storage_dtype == "uint8" or quantization.kind in ("nf4", "fp4"):
        return None
    return ConfigProblem(
        "quantization.storage_dtype",
        f"applies to nf4 and fp4 only, and quantization.kind is {quantization.kind}; remove it",
    )


def _one_source_of_evaluation(data: "DataConfig") -> ConfigProblem | None:
    named = [name for name in ("evaluation_path", "evaluation_split") if getattr(data, name) is not None]
    if not named or data.evaluation_fraction == 0:
        return None
    return ConfigProblem("data.evaluation_fraction", f"is set together with data.{named[0]}; keep one of them")


def _evaluation_is_another_split(data: "DataConfig") -> ConfigProblem | None:
    if data.evaluation_path is not None or data.evaluation_split != data.split:
        return None
    return ConfigProblem(
        "data.evaluation_split",
        f"is {data.split}, which is trained on; name another split, or set data.evaluation_path",
    )


def _evaluation_has_rows(data: "DataConfig", training: "TrainingConfig") -> ConfigProblem | None:
    held = data.evaluation_path or data.evaluation_split or data.evaluation_fraction
    if held or training.evaluation_every_steps is None:
        return None
    return ConfigProblem(
        "training.evaluation_every_steps", "needs held-out rows; set data.evaluation_path or data.evaluation_fraction"
    )


def _early_stopping_evaluates(training: "TrainingConfig") -> ConfigProblem | None:
    if training.early_stopping_patience is None or training.evaluation_every_steps is not None:
        return None
    return ConfigProblem("training.early_stopping_patience", "needs training.evaluation_every_steps")


def _targets_are_named(lora: "LoraConfig") -> ConfigProblem | None:
    if lora.target_modules != ():
        return None
    return ConfigProblem("lora.target_modules", "is an empty list; use all-linear, attention or module names")


_RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("lora", "quantization"), _pissa_needs_16_bit),
    (("lora", "quantization"), _loftq_needs_nf4),
    (("lora",), _pissa_is_plain),
    (("lora",), _loftq_is_without_dora),
    (("quantization",), _storage_is_for_4_bit),
    (("data",), _one_source_of_evaluation),
    (("data",), _evaluation_is_another_split),
    (("data", "training"), _evaluation_has_rows),
    (("training",), _early_stopping_evaluates),
    (("lora",), _targets_are_named),
)


def conflicts(parts: Mapping[str, Any]) -> list[ConfigProblem]:
    """The problems between valid parts; `parts` maps a part's name to its model and may be incomplete."""
    applicable = ((names, rule) for names, rule in _RULES if all(name in parts for name in names))
    found = (rule(*(parts[name] for name in names)) for names, rule in applicable)
    return [problem for problem in found if problem is not None]
