"""Set the estimator beside the measured grid, `accelerate estimate-memory` and the field's rule of thumb.

    python benchmarks/memory_table.py

Reads benchmarks/results/memory_grid.json, writes benchmarks/results/memory_accuracy.json and docs/memory-accuracy.md.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
GRID = ROOT / "benchmarks" / "results" / "memory_grid.json"
SUMMARY = GRID.with_name("memory_accuracy.json")
PAGE = ROOT / "docs" / "memory-accuracy.md"
GIB = 2**30
# "7B about 6 GB, 13B 10" for 4-bit training: from (billions of parameters) to GB.
RULE_OF_THUMB = (((6.5, 9.5), 6e9), ((12.0, 15.5), 10e9))


@dataclass(frozen=True)
class Compared:
    """One row of the grid, measured and predicted; bytes."""

    row: dict[str, Any]
    allocated: int
    reserved: int
    estimate: Any
    parameters: int

    @property
    def error(self) -> float:
        """Of the middle figure against what was allocated."""
        return float(self.estimate.mid_bytes / self.allocated - 1)

    @property
    def reserved_error(self) -> float:
        """Of what the allocator was expected to reserve."""
        return float(self.estimate.reserved_bytes / self.reserved - 1)

    @property
    def headroom(self) -> float:
        """Of the high figure above what was allocated."""
        return float(self.estimate.high_bytes / self.allocated - 1)

    @property
    def by_data(self) -> bool:
        """Whether the peak depends on the data: int8's outliers, experts' routing."""
        experts = any(name in self.estimate.parts for name in ("experts (not quantised)",))
        return experts or self.row["values"].get("quantization.kind") == "int8"


def compared_rows() -> list[Compared]:
    """Every row of the grid beside its estimate."""
    rows = json.loads(GRID.read_text(encoding="utf-8"))["rows"]
    return [compare(row) for row in rows]


def compare(row: dict[str, Any]) -> Compared:
    """One row beside its estimate, made as a user would get it: nothing but model and settings."""
    from qlora_tools.config.overrides import config_with
    from qlora_tools.memory.estimate import estimate_training
    from qlora_tools.memory.tasks import estimate_inference
    from qlora_tools.memory.training import Workload
    from qlora_tools.models.known import find_model

    config, shape = config_with(row["values"]), find_model(row["model"]).shape
    training = config.training
    if row["task"] == "inference":
        rows, length = training.micro_batch_size, training.max_length_tokens
        estimate = estimate_inference(shape, config.quantization, compute_dtype="bfloat16", rows=rows, length=length)
    else:
        known = Workload(_learnt(training.micro_batch_size), padded=True) if row["padded"] else None
        estimate = estimate_training(config, shape, compute_dtype="bfloat16", workload=known)
    allocated, reserved = row["peak_allocated_bytes"], row["peak_reserved_bytes"]
    return Compared(row, allocated, reserved, estimate, shape.parameters)


def _learnt(rows: int) -> float:
    """In padded rows of the grid all but the first are half as long."""
    return (1 + (rows - 1) / 2) / rows


def summary(rows: list[Compared]) -> dict[str, Any]:
    """Errors of all rows, of those that constants may be fitted on, and of those held out."""
    training = [row for row in rows if row.row["task"] == "training"]
    parts: dict[str, Callable[[Compared], bool]] = {
        "all": lambda row: True,
        "fitted": lambda row: not row.row["held_out"] and not row.row["blind"],
        "held_out": lambda row: bool(row.row["held_out"]),
        "blind": lambda row: bool(row.row["blind"]),
    }
    kinds = {name: [row for row in training if chosen(row)] for name, chosen in parts.items()}
    kinds["inference"] = [row for row in rows if row.row["task"] == "inference"]
    return {name: _errors(members) for name, members in kinds.items() if members}


def _errors(rows: list[Compared]) -> dict[str, Any]:
    errors = [abs(row.error) for row in rows]
    plain = [abs(row.error) for row in rows if not row.by_data]
    data = [abs(row.error) for row in rows if row.by_data]
    return {
        "rows": len(rows),
        "median_error": round(statistics.median(errors), 5),
        "worst_error": round(max(plain), 5),
        "worst_error_int8_and_experts": round(max(data), 5) if data else None,
        "median_error_reserved": round(statistics.median(abs(row.reserved_error) for row in rows), 5),
        "least_headroom_of_high": round(min(row.headroom for row in rows), 5),
        "median_headroom_of_high": round(statistics.median(row.headroom for row in rows), 5),
    }


@cache
def accelerate_bytes(model: str) -> int:
    """What `accelerate estimate-memory` counts for a model in fp32: the same function, on the same empty model."""
    import torch
    from accelerate.utils import calculate_maximum_sizes
    from transformers import AutoConfig, AutoModelForCausalLM

    from qlora_tools.models.catalogue import CATALOGUE

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CATALOGUE[model].config), dtype=torch.float32)
    return int(calculate_maximum_sizes(empty)[0])


def accelerate_says(row: Compared) -> float:
    """Its total size in the row's precision. It has no figure for training in 4 or 8 bits, and none for LoRA."""
    share = {"int8": 4, "none": 2}.get(row.row["values"].get("quantization.kind", "nf4"), 8)
    return accelerate_bytes(row.row["model"]) / share


def rule_says(row: Compared) -> float | None:
    """The rule of thumb, for 4-bit rows of the sizes that it names."""
    if row.row["values"].get("quantization.kind", "nf4") not in ("nf4", "fp4"):
        return None
    return next((size for (low, high), size in RULE_OF_THUMB if low <= row.parameters / 1e9 <= high), None)


_METHOD = (
    "Random weights in the true shapes, two optimiser steps through the package's own fit, rows of exactly the length and",
    "all of it learnt (padded rows: all but the first half as long). Peak of what torch allocates, in GiB.",
    "",
    "Rows marked * are held out: a hash of their settings chose them before anything was measured, and no constant was",
    "fitted on them. The only fitted constants are the two shares in `_FRAGMENTATION`, for what is reserved; the rest",
    "is counted. How a family is built was read from its code, and misses in rows of both kinds told where to read again.",
    "Rows marked ° are blind: models, lengths and ranks that no other row has, measured once and last; nothing was changed",
    "because of them.",
)


def page(rows: list[Compared], found: dict[str, Any], about: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# How true the memory figures are",
        "",
        f"Measured on {about['machine']['gpu']}, {about['date']}, "
        + ", ".join(f"{name} {number}" for name, number in about["machine"]["versions"].items())
        + ". Written by `python benchmarks/memory_table.py` from "
        "[memory_grid.json](../benchmarks/results/memory_grid.json), which `python benchmarks/memory_grid.py` measured.",
        "",
        *_METHOD,
        "",
        "| rows | number | median error | worst | worst, int8 and experts | median, reserved | high over measured, least "
        "and median |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_summary_line(name, item) for name, item in found.items()]
    lines += [
        "",
        "`accelerate` is the total size of `accelerate estimate-memory` in the row's precision; it has no figure for 4-bit",
        'or LoRA training. The rule of thumb is the field\'s table ("7B about 6 GB, 13B 10").',
        "",
        "| model | settings | measured | this estimator | error | high | reserved, measured | predicted | accelerate | "
        "rule of thumb |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(row) for row in rows)]) + "\n"


def _summary_line(name: str, item: dict[str, Any]) -> str:
    data = item["worst_error_int8_and_experts"]
    cells = [
        name.replace("_", " "),
        str(item["rows"]),
        f"{item['median_error']:.2%}",
        f"{item['worst_error']:.2%}",
        "" if data is None else f"{data:.2%}",
        f"{item['median_error_reserved']:.2%}",
        f"{item['least_headroom_of_high']:.2%}, {item['median_headroom_of_high']:.2%}",
    ]
    return f"| {' | '.join(cells)} |"


def _line(row: Compared) -> str:
    rule = rule_says(row)
    cells = [
        row.row["model"] + ("*" if row.row["held_out"] else "") + ("°" if row.row["blind"] else ""),
        settings(row.row),
        f"{row.allocated / GIB:.2f}",
        f"{row.estimate.mid_bytes / GIB:.2f}",
        f"{row.error:+.2%}",
        f"{row.estimate.high_bytes / GIB:.2f}",
        f"{row.reserved / GIB:.2f}",
        f"{row.estimate.reserved_bytes / GIB:.2f}",
        f"{accelerate_says(row) / GIB:.2f}",
        "" if rule is None else f"{rule / GIB:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def settings(row: dict[str, Any]) -> str:
    """The settings of a row in a few words."""
    values = dict(row["values"])
    rows, length = values.pop("training.micro_batch_size"), values.pop("training.max_length_tokens")
    words = [f"{rows} x {length}", f"r={values.pop('lora.rank')}"]
    if row["task"] == "inference":
        words[1:] = ["inference"]
    if values.pop("training.gradient_accumulation_steps", 1) > 1:
        words.append("accumulation")
    if values.pop("training.gradient_checkpointing", True) is False:
        words.append("no checkpointing")
    words += [_word(path, value) for path, value in values.items()]
    return ", ".join([*words, *(["padded"] if row["padded"] else [])])


def _word(path: str, value: Any) -> str:
    name = path.split(".")[1]
    text = ", ".join(value) if isinstance(value, list) else str(value).lower()
    return text if name in ("kind", "optimizer", "attention_implementation") else f"{name} {text}"


def ordered(rows: Iterable[Compared]) -> list[Compared]:
    """By size of the model, then by what was measured."""
    return sorted(rows, key=lambda row: (row.parameters, row.row["model"], row.allocated))


def main() -> None:
    """Write summary and page."""
    about = json.loads(GRID.read_text(encoding="utf-8"))
    rows = ordered(compared_rows())
    found = summary(rows)
    SUMMARY.write_text(
        json.dumps({"date": about["date"], "machine": about["machine"], **found}, indent=1) + "\n", encoding="utf-8"
    )
    PAGE.write_text(page(rows, found, about), encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
