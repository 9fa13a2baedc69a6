"""Measure the peaks of real training steps on this GPU, and write them beside what the estimator says.

    python benchmarks/memory_grid.py benchmarks/results/memory_grid.json [blind | part of a case's key ...]
    python benchmarks/memory_grid.py benchmarks/results/memory_grid_fast.json fast [part of a case's key ...]

Bases have random weights in the true shape: peaks depend on shapes, not on values (int8 and experts aside). They are
built and quantised on the GPU layer by layer, and every case then runs through the package's own adapter and fit.
"""

import gc
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "accelerate")
STEPS = 2  # the optimiser's state exists from the second step on
SECONDS = float(os.environ.get("GRID_SECONDS", "540"))


def main() -> None:
    """Run the cases that match the command line, and write the report after each; earlier rows of other cases stay."""
    from memory_cases import BLIND, CASES, FAST

    target, wanted = Path(sys.argv[1]), sys.argv[2:]
    sets = {"blind": BLIND, "fast": FAST}
    known, parts = (sets[wanted[0]], wanted[1:]) if wanted and wanted[0] in sets else (CASES, wanted)
    chosen = [case for case in known if not parts or any(part in case.key for part in parts)]
    report = {"date": str(date.today()), "machine": machine(), "rows": _earlier(target, {case.key for case in chosen})}
    began = time.monotonic()
    for key, cases in groupby(sorted(chosen, key=_base_key), key=_base_key):
        base = None
        for case in cases:
            if time.monotonic() - began > SECONDS:
                print("no time for", case.key, flush=True)
                continue
            base = base or build_base(*key)
            report["rows"].append(measure(case, base))
            print(json.dumps(report["rows"][-1]), flush=True)
            target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            if "lora.modules_to_save" in case.values:
                base = None  # unloading leaves the trained copies in place
                _release()
        del base
        _release()


def _earlier(target: Path, again: set[str]) -> list[dict[str, Any]]:
    """Rows of an earlier run of this script whose cases are not measured again."""
    from memory_cases import Case

    if not target.exists():
        return []
    rows = json.loads(target.read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if Case(row["model"], row["values"], row["padded"], row["task"]).key not in again]


def _base_key(case: Any) -> tuple[str, str, str]:
    """What cases must share to run on one base: model, quantisation and attention."""
    kind = case.values.get("quantization.kind", "nf4")
    plain = "" if case.values.get("quantization.double_quantization", True) else ", plain"
    return case.model, kind + plain, case.values.get("model.attention_implementation", "auto")


def machine() -> dict[str, Any]:
    """GPU and library versions."""
    import torch

    return {
        "gpu": torch.cuda.get_device_name(),
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "allocator": os.environ["PYTORCH_CUDA_ALLOC_CONF"],
        "versions": {name: version(name) for name in LIBRARIES},
    }


@dataclass
class Base:
    """A random base on the GPU, and what its weights take there."""

    model: Any
    weights_bytes: int
    seconds: float


def build_base(name: str, kind: str, attention: str) -> Base:
    """The model in its true shape, quantised."""
    import torch

    from qlora_tools.config.schema import QuantizationConfig
    from qlora_tools.engine.random_base import build_random_base
    from qlora_tools.models.catalogue import CATALOGUE

    began = time.monotonic()
    torch.manual_seed(0)
    before = torch.cuda.memory_allocated()
    plain = kind.endswith(", plain")
    settings = QuantizationConfig(kind=kind.removesuffix(", plain"), double_quantization=not plain)
    model = build_random_base(
        CATALOGUE[name].config, settings, compute_dtype="bfloat16", attention_implementation=attention
    )
    torch.cuda.synchronize()
    _release()
    return Base(model, torch.cuda.memory_allocated() - before, time.monotonic() - began)


def measure(case: Any, base: Base) -> dict[str, Any]:
    """Train two steps of `case` on `base`; errors are recorded, not raised, so that the others still run."""
    import torch
    from memory_cases import BLIND

    row = {"model": case.model, "values": case.values, "padded": case.padded, "task": case.task}
    row.update(blind=case in BLIND, held_out=case.held_out and case not in BLIND)
    began = time.monotonic()
    _release()
    row["left_over_bytes"] = torch.cuda.memory_allocated() - base.weights_bytes
    torch.cuda.reset_peak_memory_stats()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            run = _train if case.task == "training" else _answer
            row.update(run(case, base, Path(scratch)))
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, torch.cuda.OutOfMemoryError) as error:
        row["error"] = "".join(traceback.format_exception(error)[-3:])[-600:]
    _release()
    row.update(weights_bytes=base.weights_bytes, seconds=round(time.monotonic() - began, 2))
    return row


def _train(case: Any, base: Base, scratch: Path) -> dict[str, Any]:
    import torch
    from transformers import set_seed

    from qlora_tools.engine.adapters import attach_adapter
    from qlora_tools.engine.device import detect_hardware
    from qlora_tools.engine.fit import Fit
    from qlora_tools.models.reference import ModelReference, ResolvedModel

    config = config_of(case, scratch)
    set_seed(0)
    base.model.gradient_checkpointing_disable()
    resolved = ResolvedModel(ModelReference(case.model, "catalogue"), str(scratch), None)
    adapted = attach_adapter(base.model, config.lora, resolved)
    rows = _rows(case, config, base.model.config.vocab_size)
    items, ignore = _training_set(config, rows), lambda _: None
    expected = _expected(case, config)
    fit = Fit(config, items, rows, None, detect_hardware(), "bfloat16", scratch, ignore, expected)
    try:
        fit.run(adapted, _tokenizer())
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        stats = torch.cuda.memory_stats()
        return {
            "engine": fit.engine(adapted).name,
            "kept_layers": None if expected.kept is None else expected.kept.count,
            "predicted_bytes": expected.mid_bytes,
            "peak_allocated_bytes": stats["allocated_bytes.all.peak"],
            "peak_reserved_bytes": stats["reserved_bytes.all.peak"],
            "outside_torch_bytes": total - free - stats["reserved_bytes.all.current"],
            "loss": [line["loss"] for line in _metrics(scratch)],
            "seconds_per_step": [line["seconds"] for line in _metrics(scratch)],
        }
    finally:
        for parameter in adapted.parameters():
            parameter.grad = None
        adapted.unload()
        base.model.disable_input_require_grads() if hasattr(base.model, "_require_grads_hook") else None


def _answer(case: Any, base: Base, scratch: Path) -> dict[str, Any]:
    """Two new tokens behind prompts that fill the length."""
    import torch

    values = config_of(case, scratch).training
    shape = (values.micro_batch_size, values.max_length_tokens - 2)
    prompts = torch.randint(3, base.model.config.vocab_size, shape, device="cuda")
    base.model.eval()
    base.model.gradient_checkpointing_disable()
    base.model.config.use_cache = True
    with torch.no_grad():
        base.model.generate(input_ids=prompts, max_new_tokens=2, min_new_tokens=2, do_sample=False, use_cache=True)
    stats = torch.cuda.memory_stats()
    return {
        "peak_allocated_bytes": stats["allocated_bytes.all.peak"],
        "peak_reserved_bytes": stats["reserved_bytes.all.peak"],
    }


def _metrics(scratch: Path) -> Iterator[dict[str, Any]]:
    lines = (json.loads(line) for line in (scratch / "metrics.jsonl").read_text().splitlines())
    return (line for line in lines if "loss" in line)


def config_of(case: Any, scratch: Path) -> Any:
    """The RunConfig of a case."""
    from qlora_tools.config import parse_config

    parts: dict[str, dict[str, Any]] = {"model": {"name": case.model}, "data": {"path": "rows.jsonl"}}
    parts["output"], parts["training"] = {"directory": str(scratch)}, {"max_steps": STEPS, "smoke_generation": False}
    for path, value in case.values.items():
        part, name = path.split(".")
        parts.setdefault(part, {})[name] = value
    return parse_config(parts)


def _expected(case: Any, config: Any) -> Any:
    """What a user would be told, and what decides how many layers are kept under a limit."""
    from qlora_tools.memory import Workload, estimate_training
    from qlora_tools.models.known import find_model

    workload = Workload(padded=case.padded)
    return estimate_training(config, find_model(case.model).shape, compute_dtype="bfloat16", workload=workload)


def _rows(case: Any, config: Any, vocabulary: int) -> Any:
    """Rows of exactly the length, all of it learnt; of unequal length where the case asks for padding."""
    import random

    from qlora_tools.data.rows import TokenRow, TokenRows

    training, source = config.training, random.Random(0)
    needed = STEPS * training.micro_batch_size * training.gradient_accumulation_steps
    rows = []
    for index in range(needed):
        short = case.padded and index % training.micro_batch_size
        ids = [source.randrange(3, vocabulary) for _ in range(training.max_length_tokens // (2 if short else 1))]
        rows.append(TokenRow(ids, ids))
    return TokenRows(tuple(rows), needed, 0, 0, 0, ())


def _training_set(config: Any, rows: Any) -> Any:
    """The rows in file order: mixed lengths must stay side by side in one micro-batch."""
    from datasets import Dataset

    from qlora_tools.data.collate import PaddedCollator
    from qlora_tools.engine.batches import TrainingSet

    items = [{"input_ids": row.input_ids, "labels": row.labels} for row in rows.rows]
    return TrainingSet(Dataset.from_list(items), PaddedCollator(0), STEPS, "off", len(items))


def _tokenizer() -> Any:
    from tests.families import FAMILIES, make_tokenizer

    return make_tokenizer(FAMILIES["llama"])


def _release() -> None:
    import torch

    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
