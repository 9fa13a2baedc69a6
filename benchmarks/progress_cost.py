"""What metrics, guards and checkpoints cost: steps of one real shape with all of our callbacks and with none.

    python benchmarks/progress_cost.py benchmarks/results/progress_cost.json

Llama-3.2-1B with random weights on a GPU (steps of 200 ms or more), a two-layer model where there is none. Both kinds of
run alternate, so that the machine's moods fall on both.
"""

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_report import LLAMA_1B  # noqa: E402
from qlora_tools.config import parse_config  # noqa: E402
from qlora_tools.data.collate import PaddedCollator  # noqa: E402
from qlora_tools.data.rows import TokenRow, TokenRows  # noqa: E402
from qlora_tools.engine.adapters import attach_adapter  # noqa: E402
from qlora_tools.engine.batches import TrainingSet  # noqa: E402
from qlora_tools.engine.device import detect_hardware  # noqa: E402
from qlora_tools.engine.fit import Fit  # noqa: E402
from qlora_tools.engine.micro_batches import first_cut  # noqa: E402
from qlora_tools.engine.probe import _tokenizer  # noqa: E402
from qlora_tools.engine.random_base import build_random_base  # noqa: E402
from qlora_tools.events import ignore  # noqa: E402
from qlora_tools.models.reference import ModelReference, ResolvedModel  # noqa: E402

STEPS, WARM, ROUNDS = 24, 4, 3
SMALL = {**LLAMA_1B, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


class Clock(TrainerCallback):
    """Seconds from one step's end to the next one's."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.watched_norm = lambda norm, scaled: norm

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [after - before for before, after in zip(self.ends[WARM:], self.ends[WARM + 1 :], strict=False)]


def main() -> None:
    """Write the report named on the command line."""
    hardware = detect_hardware()
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(ROUNDS):
        for kind in times:
            with tempfile.TemporaryDirectory() as scratch:
                times[kind] += run(kind, hardware, Path(scratch))
    median = {kind: statistics.median(seconds) for kind, seconds in times.items()}
    report = {
        "date": str(date.today()),
        "device": hardware.name,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "bitsandbytes")},
        "steps_measured": {kind: len(seconds) for kind, seconds in times.items()},
        "median_step_ms": {kind: round(1000 * seconds, 3) for kind, seconds in median.items()},
        "difference_ms": round(1000 * (median["ours"] - median["bare"]), 3),
        "ratio": round(median["ours"] / median["bare"], 5),
    }
    Path(sys.argv[1]).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def run(kind: str, hardware: Any, scratch: Path) -> list[float]:
    """Seconds of each step after the first few."""
    on_gpu = hardware.kind == "cuda"
    values, length = (LLAMA_1B, 2048) if on_gpu else (SMALL, 32)
    values = {"model_type": "llama", **values}
    fit = make_fit(values, length, hardware, scratch)
    base = build_random_base(values, fit.config.quantization, compute_dtype=fit.compute_dtype, device=hardware.kind)
    resolved = ResolvedModel(ModelReference("benchmark", "local"), str(scratch), None)
    model, clock = attach_adapter(base, fit.config.lora, resolved), Clock()
    if kind == "bare":
        fit.trainer(model, _tokenizer(), fit.training_set.dataset, first_cut(fit.config.training), [clock]).train()
    else:
        with clocked(clock):
            fit.run(model, _tokenizer())
    del model, base
    if on_gpu:
        torch.cuda.empty_cache()
    return clock.seconds()


def make_fit(values: dict[str, Any], length: int, hardware: Any, scratch: Path) -> Fit:
    """A fit of random rows, all of one length."""
    training = {
        "max_steps": STEPS,
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_length_tokens": length,
    }
    config = parse_config(
        {
            "model": {"name": "./model"},
            "data": {"path": "rows.jsonl"},
            "training": {**training, "gradient_checkpointing": True},
            "output": {"directory": str(scratch)},
        }
    )
    torch.manual_seed(0)
    rows = torch.randint(values["vocab_size"], (STEPS * 4, length)).tolist()
    items = [{"input_ids": row, "labels": row, "rows": [number]} for number, row in enumerate(rows)]
    counted = TokenRows(tuple(TokenRow(row, row) for row in rows), len(rows), 0, 0, 0, ())
    lengths = [length] * len(rows)
    training_set = TrainingSet(Dataset.from_list(items), PaddedCollator(0), STEPS, "off", len(rows), lengths)
    dtype = "bfloat16" if hardware.computes_bfloat16 else "float32"
    return Fit(config, training_set, counted, None, hardware, dtype, scratch, ignore, None)


@contextmanager
def clocked(clock: Clock) -> Iterator[None]:
    """Put the clock among the callbacks of the loop."""
    make = Fit.trainer

    def trainer(fit: Fit, model: Any, tokenizer: Any, rows: Any, cut: Any, callbacks: list[Any]) -> Any:
        return make(fit, model, tokenizer, rows, cut, [clock, *callbacks])

    Fit.trainer = trainer  # type: ignore[method-assign]
    try:
        yield
    finally:
        Fit.trainer = make  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
