"""The values that model, goal and dataset decide, before memory is looked at."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..config.library_arguments import resolve_compute_dtype
from ..config.schema import RunConfig
from ..data.lengths import RowLengths, needed_length
from ..data.order import steps_for
from ..models.hardware import Hardware
from ..models.shape import ModelShape
from .values import (
    ASKED,
    DATASET,
    EIGHT_BIT,
    GRID,
    HEURISTIC,
    LORA,
    MIXED_PRECISION,
    NAMES,
    QLORA,
    RSLORA,
    PlannedValue,
    PlanRequest,
    planned,
)

_RANKS = {"style": (16, "8-16"), "instructions": (32, "32-64"), "hard": (128, "96-128")}
_GOAL_WORDS = {"style": "style or a domain", "instructions": "following instructions", "hard": "hard tasks"}
_BILLION = 10**9
_LARGEST_MICRO_BATCH = 16
_SHORT_RUN_STEPS = 200
_BIN_TOKENS = 2048
# Rows up to which a dataset gets so many epochs; more rows get one.
_EPOCHS = ((10_000, 3.0), (50_000, 2.0))


@dataclass(frozen=True)
class Case:
    """What is planned for: the request with the model's shape, the rows' lengths and the machine."""

    request: PlanRequest
    shape: ModelShape
    lengths: RowLengths
    hardware: Hardware

    @property
    def asked(self) -> dict[str, Any]:
        """Settings that stay as they are."""
        return self.request.asked

    def setting(self, field: str) -> Any:
        """What was asked for, else the default of the schema."""
        part, name = field.split(".")
        fields = RunConfig.model_fields[part].annotation.model_fields  # type: ignore[union-attr]
        return self.asked.get(field, fields[name].default)


def first_values(case: Case) -> dict[str, PlannedValue]:
    """Every planned value by its field, with what was asked for in place of what would have been planned."""
    values = [
        *_names(case.request),
        *_adapter(case),
        *_quantization(case),
        *_length(case),
        *_batches(case),
        *_optimisation(case),
    ]
    found = {value.field: value for value in values if value.field not in case.asked}
    asked = {name: planned(name, value, ASKED, ASKED) for name, value in case.asked.items()}
    return {**found, **asked}


def _names(request: PlanRequest) -> Iterator[PlannedValue]:
    yield planned("model.name", request.model, ASKED, ASKED)
    yield planned("data.path", request.data, ASKED, ASKED)
    yield planned("output.directory", request.output, "where results go", "no effect on them")


def _adapter(case: Case) -> Iterator[PlannedValue]:
    goal = case.request.goal
    rank, usual = _RANKS[goal]
    why = f"{usual} is usual for {_GOAL_WORDS[goal]}; with all linear layers adapted, rank was found to matter little"
    yield planned("lora.rank", rank, why, f"{HEURISTIC}; {QLORA}")
    rank = case.asked.get("lora.rank", rank)
    yield _alpha(rank, scaled_by_root=bool(case.setting("lora.use_rslora")))
    everything = "adapting every linear layer was needed to match full fine-tuning"
    yield planned("lora.target_modules", "all-linear", everything, QLORA)


def _alpha(rank: int, *, scaled_by_root: bool) -> PlannedValue:
    if scaled_by_root:
        alpha = float(round(2 * math.sqrt(rank)))
        return planned("lora.alpha", alpha, "2 x the root of the rank: updates of about twice B x A", RSLORA)
    return planned("lora.alpha", min(2.0 * rank, 4096.0), "2 x rank: updates of twice B x A", f"{HEURISTIC}; {LORA}")


def with_rank(case: Case, rank: int) -> dict[str, Any]:
    """The settings of another rank, alpha with it unless it was asked for."""
    alpha = _alpha(rank, scaled_by_root=bool(case.setting("lora.use_rslora")))
    return {"lora.rank": rank} | ({} if "lora.alpha" in case.asked else {"lora.alpha": alpha.value})


def _quantization(case: Case) -> Iterator[PlannedValue]:
    yield planned("quantization.kind", "nf4", "4 bits; answers as good as those of a 16-bit base in the paper", QLORA)
    if case.setting("quantization.kind") in ("nf4", "fp4"):
        saving = "saves 0.373 bit a parameter for next to no loss"
        yield planned("quantization.double_quantization", True, saving, QLORA)
    dtype = resolve_compute_dtype("auto", case.hardware)
    reasons = {
        "bfloat16": "this machine computes bf16 natively, which has the range of fp32",
        "float16": "this GPU has no native bf16 (compute capability under 8.0); fp16 is its fast format",
        "float32": "this processor computes neither 16-bit format natively",
    }
    yield planned("quantization.compute_dtype", dtype, reasons[dtype], MIXED_PRECISION)


def _length(case: Case) -> Iterator[PlannedValue]:
    length = needed_length(case.lengths, case.shape.max_length)
    if case.setting("training.packing") == "bins":
        length = max(length, min(_BIN_TOKENS, case.shape.max_length or _BIN_TOKENS))
    yield planned("training.max_length_tokens", length, length_reason(case.lengths, length), DATASET)


def length_reason(lengths: RowLengths, length: int) -> str:
    """Numbers only: how much of the data the length covers."""
    over = lengths.rows_over(length)
    covered = f"covers {1 - lengths.share_over(length):.1%} of {lengths.rows:,} rows"
    covered += f"; the longest has {lengths.longest:,} tokens"
    counted = "" if lengths.how == "tokenizer" else ", by its characters"
    return f"{covered}{counted}; {over:,} would be cut" if over else f"{covered}{counted}"


def _batches(case: Case) -> Iterator[PlannedValue]:
    size, accumulation = first_batches(case)
    rows = size * accumulation
    kept = f"{rows} rows a step ({size} x {accumulation}), kept whatever the memory"
    yield planned("training.micro_batch_size", size, "the most rows at once that are sure to fit", GRID)
    yield planned("training.gradient_accumulation_steps", accumulation, kept, HEURISTIC)
    off = "off: everything fits without it, and recomputing takes a third to a half longer"
    yield planned("training.gradient_checkpointing", False, off, GRID)


def first_batches(case: Case) -> tuple[int, int]:
    """The largest useful micro-batch and its accumulation; what was asked for decides over the effective batch."""
    rows = case.request.rows_per_step
    size, accumulation = (
        case.asked.get(f"training.{name}") for name in ("micro_batch_size", "gradient_accumulation_steps")
    )
    if size is None:
        size = max(1, round(rows / accumulation)) if accumulation else divisors(rows)[0]
    return size, accumulation or max(1, round(rows / size))


def divisors(rows: int) -> list[int]:
    """Micro-batches that make up so many rows, the largest first; larger ones than 16 are no faster."""
    return [size for size in range(min(rows, _LARGEST_MICRO_BATCH), 0, -1) if rows % size == 0]


def _optimisation(case: Case) -> Iterator[PlannedValue]:
    state = "state of 2 bytes a trainable parameter instead of 8, which may move to the host when the GPU is full"
    yield planned("training.optimizer", "paged_adamw_8bit", state, f"{EIGHT_BIT}; {QLORA}")
    yield _learning_rate(case.shape.parameters)
    epochs = next((passes for rows, passes in _EPOCHS if case.lengths.rows <= rows), 1.0)
    passes = f"{case.lengths.rows:,} rows: the more rows, the fewer passes before they are known by heart"
    yield planned("training.epochs", epochs, passes, HEURISTIC)
    short = planned_steps(case, case.asked.get("training.epochs", epochs)) < _SHORT_RUN_STEPS
    warm = "5 % of a short run" if short else "3 % of the steps"
    yield planned("training.warmup_fraction", 0.05 if short else 0.03, f"{warm}, so that Adam's averages settle", QLORA)


def _learning_rate(parameters: int) -> PlannedValue:
    size = f"{parameters / _BILLION:.1f} billion parameters"
    if parameters >= 30 * _BILLION:
        return planned("training.learning_rate", 1e-4, f"{size}: the paper's rate for 33B and 65B", QLORA)
    if parameters >= _BILLION:
        return planned("training.learning_rate", 2e-4, f"{size}: the paper's rate for 7B and 13B", QLORA)
    return planned("training.learning_rate", 3e-4, f"{size}: small models bear a higher rate", HEURISTIC)


def planned_steps(case: Case, epochs: float) -> int:
    """Optimiser steps of so many epochs, or those that were asked for."""
    size, accumulation = first_batches(case)
    asked = case.asked.get("training.max_steps")
    length = case.asked.get("training.max_length_tokens") or next(_length(case)).value
    assert isinstance(length, int)
    items = training_items(case, length)
    return int(asked) if asked else steps_for(items, epochs=epochs, rows_per_step=size * accumulation)


def training_items(case: Case, length: int) -> int:
    """Rows that are learnt from, all but those that are held out; bins where rows are packed into them."""
    rows = case.lengths.rows * (1 - float(case.setting("data.evaluation_fraction")))
    if case.setting("training.packing") == "bins":
        # A bin holds whole rows, so it is never fuller than its rows allow.
        rows /= max(1.0, length // max(1.0, min(case.lengths.mean, length)))
    return max(1, round(rows))


def settings_of(values: Mapping[str, PlannedValue]) -> dict[str, Any]:
    """The config fields of planned values, without the names that the request holds."""
    return {name: value.value for name, value in values.items() if name not in NAMES}
