"""One case with one engine in this process: steps timed one by one, peaks, losses, and where a step's time goes."""

import gc
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import engine_peers
import torch
from engine_cases import Case
from engine_longest import find_longest
from engine_profile import StepProfile
from engine_work import Work, random_base, tokenizer, work_of
from transformers import TrainerCallback, set_seed

from qlora_tools.engine.adapters import attach_adapter
from qlora_tools.engine.device import detect_hardware
from qlora_tools.engine.fit import Fit
from qlora_tools.engine.micro_batches import first_cut
from qlora_tools.events import ignore
from qlora_tools.models.reference import ModelReference, ResolvedModel

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "triton", "liger-kernel", "unsloth")


@dataclass(frozen=True)
class Prepared:
    """A model with its adapter, how its engine makes a trainer of some work, and which engine trains in the end (`used`)."""

    model: Any
    trainer: Callable[[Work, list[Any]], Any]
    used: str


def reply_to(request: dict[str, Any]) -> dict[str, Any]:
    """The result of a request, or that memory was short; everything else that goes wrong ends the process."""
    case = Case(**{**request["case"], "engines": tuple(request["case"]["engines"])})
    work, checkpoint = work_of(case, request["engine"], Path(request["scratch"])), Path(request["checkpoint"])
    set_seed(0)
    if work.engine == "checkpoint":
        engine_peers.write_checkpoint(work, checkpoint)
        return {}
    try:
        found = _measured(work, checkpoint)
    except torch.OutOfMemoryError as error:
        found = {"error": "out of memory", "last_line": str(error).splitlines()[0]}
    return {**found, "dtype": work.dtype, "machine": machine()}


def _measured(work: Work, checkpoint: Path) -> dict[str, Any]:
    began = time.perf_counter()
    if work.case.limit_gib and work.device == "cuda":
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, work.case.limit_gib * 2**30 / whole))
    prepared = prepare(work, checkpoint)
    release()
    built, base = time.perf_counter(), allocated()
    found = find_longest(work, prepared, release) if work.case.longest else train(work, prepared)
    seconds = {"model": built - began, "training": time.perf_counter() - built}
    about = {"engine_used": prepared.used, "base_bytes": base, "predicted_peak_bytes": _predicted(work)}
    return {**about, **found, "phase_seconds": seconds}


def _predicted(work: Work) -> int | None:
    """What the estimator expects torch to allocate, for the engines that it knows."""
    known = work.engine in ("fast", "stock", "lora16") and work.device == "cuda" and not work.case.longest
    return work.expected.mid_bytes if known and work.expected is not None else None


def prepare(work: Work, checkpoint: Path) -> Prepared:
    """The model of the work's engine."""
    if work.engine == "unsloth":
        model = engine_peers.unsloth_model(work, checkpoint)
        return Prepared(model, lambda one, callbacks: engine_peers.unsloth_trainer(one, model, callbacks), "unsloth")
    if work.engine in ("trl", "trl-liger", "tutorial"):
        model = engine_peers.trl_model(work)
        return Prepared(model, lambda one, callbacks: engine_peers.trl_trainer(one, model, callbacks), work.engine)
    resolved = ResolvedModel(ModelReference(work.case.model, "catalogue"), str(work.scratch), None)
    model = attach_adapter(random_base(work), work.config.lora, resolved)
    choice = _fit(work).engine(model)
    return Prepared(model, partial(_our_trainer, model), f"{choice.name}: {choice.reason}")


def _fit(work: Work) -> Fit:
    return Fit(
        work.config,
        work.training_set,
        work.rows,
        None,
        detect_hardware(),
        work.dtype,
        work.scratch,
        ignore,
        work.expected,
        throw_away=True,
    )


def _our_trainer(model: Any, work: Work, callbacks: list[Any]) -> Any:
    return _fit(work).trainer(model, tokenizer(), work.training_set.dataset, first_cut(work.config.training), callbacks)


class Clock(TrainerCallback):
    """Wall and processor seconds at each step's end; the step after the last timed one is profiled."""

    def __init__(self, profiled_step: int | None) -> None:
        self.ends: list[tuple[float, float]] = []
        self.watched_norm = lambda norm, scaled: norm
        self.milliseconds: dict[str, float] | None = None
        self._profiled_step, self._profile = profiled_step, StepProfile() if profiled_step else None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._profile and state.global_step + 1 == self._profiled_step:
            self._profile.start()
            self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self._profile and state.global_step == self._profiled_step:
            self.milliseconds = self._profile.stop(time.perf_counter() - self._started)
        else:
            self.ends.append((time.perf_counter(), time.process_time()))


class Counted:
    """A collator that notes the tokens of each micro-batch, without padding."""

    def __init__(self, collator: Callable[[Any], Any]) -> None:
        self.tokens: list[int] = []
        self._collator = collator

    def __call__(self, items: Any) -> Any:
        self.tokens.append(sum(len(item["input_ids"]) for item in items))
        return self._collator(items)


def train(work: Work, prepared: Prepared) -> dict[str, Any]:
    """Train the steps of a case once. Peaks are those from here on, the model included."""
    case, on_gpu = work.case, work.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(case.steps + 1 if case.profiled and on_gpu else None)
    trainer = prepared.trainer(work, [clock])
    trainer.data_collator = counted = Counted(trainer.data_collator)
    trainer.train()
    # The first step has no beginning of its own, so it is always one of the warm ones.
    pairs = list(zip(clock.ends, clock.ends[1:], counted.tokens[1:], strict=False))[case.warm - 1 : case.steps - 1]
    history = trainer.state.log_history
    return {
        "step_seconds": [round(after[0] - before[0], 5) for before, after, _ in pairs],
        "step_processor_seconds": [round(after[1] - before[1], 5) for before, after, _ in pairs],
        "step_tokens": [count for _, _, count in pairs],
        "first_tokens": counted.tokens[0],
        "peak_allocated_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "peak_reserved_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,
        "losses": [round(float(line["loss"]), 6) for line in history if "loss" in line],
        "gradient_norms": [round(float(line["grad_norm"]), 6) for line in history if "grad_norm" in line],
        "kernel_milliseconds": clock.milliseconds,
    }


def release() -> None:
    """Give freed memory back to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def allocated() -> int | None:
    """Bytes that torch holds on the GPU now."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else None


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
