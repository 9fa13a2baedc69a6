"""What the views of a memory report share: its parts by size with their colours, and the words for its settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config.overrides import config_with
from ..results import MemoryReport

GIB = 2**30
# Okabe and Ito's colours, which people with any colour vision tell apart, and two more. Neighbours differ in lightness.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#56B4E9", "#D55E00", "#6B4226", "#C0FFC0")
_OTHER_COLOUR = "#666666"
_SMALL = 0.005
LENGTH, ROWS = "training.max_length_tokens", "training.micro_batch_size"
_TASKS = {"full": "full fine-tuning", "inference": "answering", "merging": "merging"}


@dataclass(frozen=True)
class Part:
    """A part of the memory in bytes, the letter and the colour (hexadecimal) that stand for it.

    `holds` names what "other" sums up.
    """

    name: str
    size: int
    mark: str
    colour: str
    holds: tuple[str, ...] = ()


def shown_parts(report: MemoryReport) -> list[Part]:
    """The parts biggest first; those below half a percent are summed up as "other". Sizes sum to those of `parts`."""
    ordered = sorted(report.parts.items(), key=lambda item: -item[1])
    least = _SMALL * sum(report.parts.values())
    large = [item for item in ordered if item[1] >= least][: len(_COLOURS)]
    small = ordered[len(large) :]
    found = [Part(name, size, chr(ord("A") + index), _COLOURS[index]) for index, (name, size) in enumerate(large)]
    if small:
        names = tuple(name for name, _ in small)
        found.append(Part("other", sum(size for _, size in small), "o", _OTHER_COLOUR, names))
    return found


def task_title(report: MemoryReport, settings: Mapping[str, Any]) -> str:
    """What the report is about, in words: `QLoRA training`, `answering`."""
    if report.task in _TASKS:
        return _TASKS[report.task]
    return "LoRA training" if config_with(settings).quantization.kind == "none" else "QLoRA training"


def settings_line(report: MemoryReport, settings: Mapping[str, Any], *, sized: bool = True) -> str:
    """The settings that decide the memory of the report's task, also those that were left at their defaults.

    `settings` are dotted fields beside the defaults, as `estimate_memory` takes them. Without `sized` the row length
    and the micro-batch are left out.
    """
    if report.task == "merging":
        return "base in fp32, on the CPU"
    config = config_with(settings)
    length, rows = row_size(settings)
    shown = {LENGTH: f"{length:,} tokens", ROWS: f"micro-batch {rows}"} if sized else {LENGTH: "", ROWS: ""}
    if report.task in ("training", "inference"):
        shown["quantization.kind"] = "16-bit base" if config.quantization.kind == "none" else config.quantization.kind
    if report.task == "training":
        shown["lora.rank"] = f"rank {config.lora.rank}"
        on = config.training.gradient_checkpointing
        shown["training.gradient_checkpointing"] = "checkpointing" if on else "no checkpointing"
    further = [f"{name.rpartition('.')[2]}={value}" for name, value in settings.items() if name not in shown]
    return ", ".join([*filter(None, shown.values()), *further])


def row_size(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Row length in tokens and rows of a micro-batch under `settings`."""
    training = config_with(settings).training
    return training.max_length_tokens, training.micro_batch_size


def verdict(report: MemoryReport, gpu_bytes: int) -> str:
    """Whether the task fits into `gpu_bytes`, and by how much."""
    left = gpu_bytes - report.needed_bytes
    if left >= 0:
        return f"fits, with {gib_text(left)} to spare"
    if report.device_bytes <= gpu_bytes:
        return f"may fit but not for sure, {gib_text(-left)} short of it"
    return f"does not fit, {gib_text(-left)} too much"


def gpu_text(report: MemoryReport, gpu_bytes: int) -> str:
    """The GPU with its memory; one that was given by its memory is named so already."""
    size, name = gib_text(gpu_bytes), report.gpu or "GPU"
    return name if name.startswith("a GPU of ") else f"{name}, {size}"


def gib_text(size: int) -> str:
    """Bytes as `6.72 GiB`."""
    return f"{size / GIB:,.2f} GiB"
