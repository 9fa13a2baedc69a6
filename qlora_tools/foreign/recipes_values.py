"""Foreign values as ours: numbers that are written as text, switches, and names of optimisers, schedules and kernels."""

import re
from collections.abc import Callable
from typing import Any, get_args

from ..config.choices import Optimizer, Schedule, Tracker
from .recipes import Converted, NotCarriedError

_WRITE = "Write the value as {kind} in our field."
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "none")
_LARGEST = 2**53

_SAME_OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
_FUSED = "the same update rule in one kernel; adamw_torch is its plain form"
_OPTIMIZERS = {
    "adamw_bnb_8bit": ("adamw_8bit", ""),
    "paged_adamw": ("paged_adamw_32bit", ""),
    "adamw_torch_fused": ("adamw_torch", _FUSED),
    "adamw_apex_fused": ("adamw_torch", _FUSED),
    "adamw_hf": ("adamw_torch", "it was removed from Transformers; the same update rule"),
    "adamw": ("adamw_torch", ""),
    "adamw_torch_8bit": ("adamw_8bit", "the 8-bit states are those of bitsandbytes, not of torchao"),
    "lion_32bit": ("lion_8bit", "the states are held in 8 bits instead of 32"),
    "lion": ("lion_8bit", "the states are held in 8 bits instead of 32"),
    "paged_lion": ("paged_lion_8bit", "the states are held in 8 bits instead of 32"),
    "paged_lion_32bit": ("paged_lion_8bit", "the states are held in 8 bits instead of 32"),
}
_SAME_SCHEDULES: tuple[str, ...] = get_args(Schedule)
_SCHEDULES = {
    "cosine_with_restarts": ("cosine", "one fall to zero, without restarts"),
    "cosine_with_min_lr": ("cosine", "it falls to zero, not to a least learning rate"),
    "cosine_warmup_with_min_lr": ("cosine", "it falls to zero, not to a least learning rate"),
    "rex": ("linear", "rex holds the rate up for longer before it falls to zero"),
}
_ATTENTION = {
    "eager": "eager",
    "sdpa": "sdpa",
    "flash_attention_2": "flash_attention_2",
    "flex_attention": "flex_attention",
    "fa2": "flash_attention_2",
    "disabled": "eager",
    "auto": "auto",
}
_DTYPES = {"float16": "float16", "half": "float16", "fp16": "float16", "bfloat16": "bfloat16", "bf16": "bfloat16"}
_DTYPES |= {"float32": "float32", "float": "float32", "fp32": "float32", "auto": "auto"}
_TRACKERS: tuple[str, ...] = get_args(Tracker)
EVERY_PROJECTION = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def whole(value: Any) -> int:
    """A whole number, which recipes write as text or with a point too."""
    found = number(value, "a whole number")
    if found != int(found) or abs(found) > _LARGEST:
        raise NotCarriedError("it is not a whole number", _WRITE.format(kind="a whole number"))
    return int(found)


def number(value: Any, kind: str = "a number") -> float:
    """A number, which YAML leaves as text where it is written as 2e-4."""
    if not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            found = float("nan")
        if abs(found) < float("inf"):
            return found
    raise NotCarriedError(f"it is not {kind}", _WRITE.format(kind=kind))


def truth(value: Any) -> bool:
    """A switch."""
    word = str(value).lower() if isinstance(value, bool | int | str) else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise NotCarriedError("it is not a switch", _WRITE.format(kind="true or false"))


def opposite(value: Any) -> bool:
    """A switch whose name says the contrary of our field's."""
    return not truth(value)


def words(value: Any) -> str:
    """A text."""
    if isinstance(value, str):
        return value.strip()
    raise NotCarriedError("it is not a text", _WRITE.format(kind="text"))


def names(value: Any) -> tuple[str, ...]:
    """Names as a list, or in one text between commas."""
    found = value.split(",") if isinstance(value, str) else value
    if isinstance(found, list | tuple | set | frozenset) and all(isinstance(item, str) for item in found):
        given = sorted(found) if isinstance(found, set | frozenset) else found
        return tuple(dict.fromkeys(item.strip() for item in given if item.strip()))
    raise NotCarriedError("it is not a list of names", _WRITE.format(kind="a list of names"))


def steps(value: Any) -> int:
    """A number of steps, of which -1 and 0 mean none."""
    found = whole(value)
    if found <= 0:
        raise NotCarriedError("it switches the limit off, which is so here without it", "Nothing.")
    return found


def optimizer(value: Any) -> Converted:
    """Our optimiser for a name of Transformers."""
    name = words(value).lower().removeprefix("optimizernames.").replace("-", "_")
    if name in _SAME_OPTIMIZERS:
        return Converted(name)
    if name in _OPTIMIZERS:
        return Converted(*_OPTIMIZERS[name])
    raise NotCarriedError(
        "there is no such optimiser here", f"Set training.optimizer to one of {', '.join(_SAME_OPTIMIZERS)}."
    )


def schedule(value: Any) -> Converted:
    """Our schedule for a name of Transformers."""
    name = words(value).lower().removeprefix("schedulertype.")
    if name in _SAME_SCHEDULES:
        return Converted(name)
    if name in _SCHEDULES:
        return Converted(*_SCHEDULES[name])
    raise NotCarriedError(
        "there is no such schedule here", f"Set training.schedule to one of {', '.join(_SAME_SCHEDULES)}."
    )


def attention(value: Any) -> str:
    """Our attention for a name of Transformers or LLaMA-Factory."""
    name = words(value).lower()
    if name in _ATTENTION:
        return _ATTENTION[name]
    raise NotCarriedError(
        "there is no such attention here",
        "Set model.attention_implementation to sdpa, eager, flash_attention_2 or flex_attention.",
    )


def dtype(value: Any) -> str:
    """Our name of a dtype."""
    name = words(value).rpartition(".")[2].lower()
    if name in _DTYPES:
        return _DTYPES[name]
    raise NotCarriedError("it is no dtype to compute in", "Set quantization.compute_dtype.")


def tracker(value: Any) -> Converted:
    """Our tracker for `report_to`, which takes one here."""
    asked = [name.lower() for name in names(value)] or ["none"]
    known = [name for name in asked if name in _TRACKERS]
    if asked == ["all"] or not known:
        raise NotCarriedError(
            "it names no tracker that is known here", f"Set training.tracking: {', '.join(_TRACKERS)}."
        )
    others = [name for name in asked if name != known[0]]
    return Converted(known[0], f"one tracker is reported to, not {', '.join(others)} too" if others else "")


def targets(value: Any) -> Any:
    """Our target modules: `all-linear`, or names; PEFT reads a single text as a regular expression."""
    if isinstance(value, str) and value.strip().lower() in ("all", "all-linear", "all_linear"):
        return "all-linear"
    if isinstance(value, str) and not re.fullmatch(r"[\w.]+(\s*,\s*[\w.]+)*", value.strip()):
        raise NotCarriedError(
            "it is a pattern, and here modules are named", "Set lora.target_modules to the names that it matches."
        )
    return names(value)


def checkpointing(value: Any) -> Converted:
    """Gradient checkpointing, of which other tools have kinds that are numerically the same."""
    if isinstance(value, str) and value.lower() in ("unsloth", "offload", "offload_disk"):
        return Converted(
            True, "checkpoints stay on the GPU; they are not offloaded to the host, which takes more of its memory"
        )
    return Converted(truth(value))


def share(value: Any) -> float:
    """A share of rows to hold out; other tools read numbers from 1 on as a number of rows."""
    found = number(value)
    if found >= 1:
        raise NotCarriedError(
            f"it holds out {found:g} rows, and here a share of them is held out",
            "Set data.evaluation_fraction to that number divided by the number of rows.",
        )
    return found


def every(path: str) -> Callable[[Any], int]:
    """How often, in steps; other tools read numbers below 1 as a share of all steps, which only the data would tell."""

    def convert(value: Any) -> int:
        found = number(value)
        if 0 < found < 1:
            raise NotCarriedError(
                "it is a share of all steps, whose number depends on the rows",
                f"Set {path} to that share of the steps of the run.",
            )
        return steps(value)

    return convert
