"""Speed and memory of the engines on the same random base, the same rows and the same adapter, in turns.

    python benchmarks/engine_speed.py OUT.json [case ...]

Bases have random weights in the true shape. Each round trains a few steps with every engine, so that the machine's moods
fall on all of them; the first steps of a round are not counted. Engines: `stock` and `fast` as a run uses them, and, on a GPU
and where it is installed, `liger`, which is stock with Liger's kernels and runs last because it patches the model classes.
A case that does not fit is recorded as such. No case begins after `ENGINE_SECONDS` (default 540).
"""

import gc
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from transformers import TrainerCallback, set_seed  # noqa: E402

from qlora_tools.config import parse_config  # noqa: E402
from qlora_tools.data.rows import IGNORED, TokenRow, TokenRows  # noqa: E402
from qlora_tools.engine.adapters import attach_adapter  # noqa: E402
from qlora_tools.engine.batches import build_training_set  # noqa: E402
from qlora_tools.engine.device import detect_hardware  # noqa: E402
from qlora_tools.engine.fit import Fit  # noqa: E402
from qlora_tools.engine.micro_batches import first_cut  # noqa: E402
from qlora_tools.engine.probe import _tokenizer  # noqa: E402
from qlora_tools.engine.random_base import build_random_base  # noqa: E402
from qlora_tools.engine.training_state import put_weights, trained_weights  # noqa: E402
from qlora_tools.events import ignore  # noqa: E402
from qlora_tools.models.catalogue import CATALOGUE  # noqa: E402
from qlora_tools.models.reference import ModelReference, ResolvedModel  # noqa: E402

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "liger-kernel")
SECONDS = float(os.environ.get("ENGINE_SECONDS", "540"))
CHAT_MEAN, CHAT_SPREAD = 256, 0.8  # log-normal lengths of chat-like rows, in tokens


@dataclass(frozen=True)
class Case:
    """A shape of work. `lengths`: all rows as long as `length`, chat-like ones packed into bins of it, or the demo's."""

    model: str
    rows: int
    length: int
    kept: bool = False
    rank: int = 16
    lengths: str = "fixed"
    steps: int = 12
    warm: int = 4
    rounds: int = 1


L8, L1, L70 = "llama-3.1-8b-instruct", "llama-3.2-1b-instruct", "llama-3.1-70b-instruct"
CASES: dict[str, Case] = {
    "demo": Case("smollm2-135m-instruct", 8, 66, lengths="demo", steps=4, warm=1, rounds=3),
    "demo-kept": Case("smollm2-135m-instruct", 8, 66, kept=True, lengths="demo", steps=4, warm=1, rounds=3),
    "8b-4x2048": Case(L8, 4, 2048),
    "8b-4x2048-kept": Case(L8, 4, 2048, kept=True),
    "8b-1x8192": Case(L8, 1, 8192),
    "8b-chat": Case(L8, 1, 8192, lengths="chat"),
    "8b-chat-kept": Case(L8, 1, 8192, kept=True, lengths="chat"),
    "8b-1x512": Case(L8, 1, 512, steps=30, warm=10),
    "8b-1x120000-r32": Case(L8, 1, 120_000, rank=32, steps=2, warm=1),
    "1b-2x512": Case(L1, 2, 512, steps=30, warm=10),
    "1b-4x2048": Case(L1, 4, 2048),
    "1b-4x2048-kept": Case(L1, 4, 2048, kept=True),
    "70b-1x2048": Case(L70, 1, 2048, steps=4, warm=2),
    "qwen2.5-7b-4x2048": Case("qwen2.5-7b-instruct", 4, 2048),
    "qwen3-8b-4x2048": Case("qwen3-8b", 4, 2048),
    "mistral-7b-4x2048": Case("mistral-7b-instruct-v0.3", 4, 2048),
}


class Clock(TrainerCallback):
    """Wall and processor seconds at each step's end, and the tokens of the rows until then."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []
        self.watched_norm = lambda norm, scaled: norm

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append((time.perf_counter(), time.process_time()))


def main() -> None:
    """Measure the cases named on the command line, or those that this machine can run, and write after each."""
    target, wanted = Path(sys.argv[1]), sys.argv[2:]
    on_gpu = detect_hardware().kind == "cuda"
    chosen = wanted or [name for name in CASES if on_gpu != name.startswith("demo")]
    report: dict[str, Any] = {"date": str(date.today()), "machine": machine(), "cases": _earlier(target)}
    began = time.monotonic()
    for name in chosen:
        if time.monotonic() - began > SECONDS:
            print("no time for", name, flush=True)
            continue
        report["cases"][name] = measure(CASES[name])
        print(name, json.dumps(report["cases"][name]), flush=True)
        target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Device, threads and versions; a library that is not installed has none."""
    versions: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "device": detect_hardware().name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _earlier(target: Path) -> dict[str, Any]:
    if not target.exists():
        return {}
    earlier: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))["cases"]
    return earlier


def measure(case: Case) -> dict[str, Any]:
    """Every engine on one base, in turns."""
    engines = [*("stock", "fast"), *(["liger"] if _has_liger() else [])]
    hardware = detect_hardware()
    dtype = "bfloat16" if hardware.computes_bfloat16 else "float32"
    set_seed(0)
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    with tempfile.TemporaryDirectory() as scratch:
        fits = {engine: make_fit(case, engine, dtype, Path(scratch)) for engine in engines}
        settings = fits["stock"].config
        values = {**CATALOGUE[case.model].config}
        base = build_random_base(values, settings.quantization, compute_dtype=dtype, device=hardware.kind)
        resolved = ResolvedModel(ModelReference(case.model, "catalogue"), scratch, None)
        model = attach_adapter(base, settings.lora, resolved)
        start = {name: tensor.clone() for name, tensor in trained_weights(model).items()}
        turns = [engine for _ in range(case.rounds) for engine in engines if engine != "liger"]
        for engine in [*turns, *(["liger"] if "liger" in runs else [])]:
            put_weights(model, start)  # so that the losses of all runs can be compared
            runs[engine].append(run(fits[engine], model, case))
    del model, base
    _release()
    found = {engine: summary(results) for engine, results in runs.items()}
    return {"case": vars(case), "dtype": dtype, "engines": found, "fast_over_stock": _ratios(found)}


def _has_liger() -> bool:
    try:
        return bool(version("liger-kernel")) and torch.cuda.is_available()
    except PackageNotFoundError:
        return False


def make_fit(case: Case, engine: str, dtype: str, scratch: Path) -> Fit:
    """The fit of a run with this engine, on rows that are the same for all engines."""
    packed = case.lengths == "chat"
    training = {
        "engine": "fast" if engine == "fast" else "stock",
        "max_steps": case.steps,
        "micro_batch_size": case.rows,
        "gradient_accumulation_steps": 1,
        "max_length_tokens": case.length,
        "packing": "bins" if packed else "off",
        "gradient_checkpointing": not case.kept,
    }
    config = parse_config(
        {
            "model": {"name": case.model},
            "data": {"path": "rows.jsonl"},
            "lora": {"rank": case.rank},
            "training": training,
            "output": {"directory": str(scratch)},
        }
    )
    rows = make_rows(case, int(CATALOGUE[case.model].config["vocab_size"]))
    training_set = build_training_set(rows, config.training, "bins" if packed else "off", 0)
    fit = Fit(config, training_set, rows, None, detect_hardware(), dtype, scratch, ignore, None, throw_away=True)
    return _WithLiger(**vars(fit)) if engine == "liger" else fit


class _WithLiger(Fit):
    """Stock with Liger's kernels."""

    def _arguments(self, cut: Any, *, evaluates: bool) -> dict[str, Any]:
        return {**super()._arguments(cut, evaluates=evaluates), "use_liger_kernel": True}


def make_rows(case: Case, vocabulary: int) -> TokenRows:
    """Random tokens; the demo learns about two fifths of its rows, the others all."""
    source = random.Random(0)
    per_bin = 2 * case.length // CHAT_MEAN if case.lengths == "chat" else 1
    made = []
    for number in range(case.steps * case.rows * per_bin):
        length = {"fixed": case.length, "demo": source.randint(46, 66), "chat": _chat_length(source)}[case.lengths]
        ids = [source.randrange(vocabulary) for _ in range(min(length, case.length))]
        prompt = round(0.61 * len(ids)) if case.lengths == "demo" else 0
        made.append(TokenRow(ids, [IGNORED] * prompt + ids[prompt:], number))
    return TokenRows(tuple(made), len(made), 0, 0, 0, ())


def _chat_length(source: random.Random) -> int:
    middle = CHAT_MEAN / 2.718281828 ** (CHAT_SPREAD**2 / 2)
    return max(8, round(source.lognormvariate(0, CHAT_SPREAD) * middle))


def run(fit: Fit, model: Any, case: Case) -> dict[str, Any]:
    """Train the steps of a round once; tokens are those of the rows, without padding."""
    _release()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    clock = Clock()
    data = fit.training_set.dataset
    try:
        trainer = fit.trainer(model, _tokenizer(), data, first_cut(fit.config.training), [clock])
        trainer.train()
    except torch.cuda.OutOfMemoryError:
        return {"error": "out of memory"}
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    model.zero_grad(set_to_none=True)
    tokens = [sum(fit.training_set.lengths[at : at + case.rows]) for at in range(0, len(data), case.rows)]
    pairs = list(zip(clock.ends, clock.ends[1:], tokens[1:], strict=False))[case.warm - 1 :]
    return {
        "seconds": [after[0] - before[0] for before, after, _ in pairs],
        "processor_seconds": [after[1] - before[1] for before, after, _ in pairs],
        "tokens": [count for _, _, count in pairs],
        "peak_allocated_bytes": peak,
        "losses": losses,
    }


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians and spread over the steps of all rounds."""
    failed = [one["error"] for one in results if "error" in one]
    if failed or not results:
        return {"error": failed[0] if failed else "not run"}
    seconds = [each for one in results for each in one["seconds"]]
    processor = [each for one in results for each in one["processor_seconds"]]
    tokens = sum(sum(one["tokens"]) for one in results)
    return {
        "tokens_per_second": round(tokens / sum(seconds), 1),
        "median_step_seconds": round(statistics.median(seconds), 4),
        "fastest_step_seconds": round(min(seconds), 4),
        "slowest_step_seconds": round(max(seconds), 4),
        "median_processor_seconds": round(statistics.median(processor), 4),
        "steps": len(seconds),
        "peak_allocated_bytes": results[-1]["peak_allocated_bytes"],
        "last_loss": results[-1]["losses"][-1],
    }


def _ratios(found: dict[str, dict[str, Any]]) -> dict[str, float] | None:
    stock, fast = found["stock"], found["fast"]
    if "error" in stock or "error" in fast:
        return None
    return {
        name: round(stock[name] / fast[name], 3)
        for name in ("median_step_seconds", "fastest_step_seconds", "median_processor_seconds")
    }


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
