"""One real training step in a model's shape on this machine, with its memory measured part by part."""

import json
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, set_seed

from ..config.library_arguments import resolve_compute_dtype
from ..config.schema import RunConfig
from ..data.collate import PaddedCollator
from ..data.rows import TokenRow, TokenRows
from ..errors import MachineError
from ..events import ignore
from ..memory.estimate import MemoryEstimate, estimate_training
from ..memory.training import Workload
from ..models.hardware import Hardware
from ..models.reference import ModelReference, ResolvedModel
from ..models.shape import ModelShape
from ..results import ProbePart, ProbeResult
from ..run_output import METRICS_FILE
from .adapters import attach_adapter
from .batches import TrainingSet
from .device import detect_hardware, host_hardware, peak_memory, release_memory, reset_peak_memory
from .fit import Fit
from .random_base import build_random_base

_STEPS = 2  # the optimiser's state exists from the second step on
_BASE = ("base weights", "quantisation constants", "experts (not quantised)", "embeddings and head", "norms and biases")


def probe(config: RunConfig, values: Mapping[str, Any], name: str) -> ProbeResult:
    """Run two steps of `config` on a random base in the shape of config.json `values`, and measure.

    Raises `MachineError` where it is expected not to fit, or does not.
    """
    hardware, shape = detect_hardware(), ModelShape.from_config(values)
    dtype = resolve_compute_dtype(config.quantization.compute_dtype, hardware)
    estimate = estimate_training(config, shape, compute_dtype=dtype, hardware=hardware, workload=Workload())
    if estimate.device_bytes > hardware.free_memory_bytes:
        raise MachineError(
            f"The step is expected to take {estimate.device_bytes / 2**30:.1f} GiB and {hardware.name} has "
            f"{hardware.free_memory_bytes / 2**30:.1f} GiB free; it was not tried.",
            next_step="Lower training.micro_batch_size or training.max_length_tokens, or choose a smaller model.",
        )
    set_seed(config.training.seed)
    try:
        with tempfile.TemporaryDirectory(prefix="qlora-probe-") as scratch:
            measured = _measure(config, values, dtype, hardware, Path(scratch), estimate)
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise MachineError(
            f"{hardware.name} ran out of memory, which the estimate did not expect.",
            next_step="Report it with the model and these settings; close what else uses the GPU.",
        ) from None
    finally:
        release_memory()
    return _result(name, config, hardware, estimate, measured)


@dataclass(frozen=True)
class _Measured:
    base: int
    adapter: int
    workspaces: int
    peak: int
    reserved: int
    seconds: float


def _measure(
    config: RunConfig,
    values: Mapping[str, Any],
    dtype: str,
    hardware: Hardware,
    scratch: Path,
    estimate: MemoryEstimate,
) -> _Measured:
    device = "cuda" if hardware.kind == "cuda" else "cpu"
    start = _held(hardware)
    reset_peak_memory(hardware)
    model = build_random_base(
        values,
        config.quantization,
        compute_dtype=dtype,
        attention_implementation=config.model.attention_implementation,
        device=device,
    )
    release_memory()
    base = _held(hardware) - start
    resolved = ResolvedModel(ModelReference("probe", "local"), str(scratch), None)
    adapted = attach_adapter(model, config.lora, resolved)
    adapter = _held(hardware) - start - base
    fit = _fit(config, int(values["vocab_size"]), dtype, hardware, scratch, estimate)
    fit.run(adapted, _tokenizer())
    for parameter in adapted.parameters():
        parameter.grad = None
    peak = peak_memory(hardware)
    release_memory()
    workspaces = _held(hardware) - start - base - adapter  # all that stays when trainer and optimiser are gone
    return _Measured(base, adapter, workspaces, peak.allocated_bytes - start, peak.reserved_bytes, _seconds(scratch))


def _held(hardware: Hardware) -> int:
    """Bytes in use now: of the GPU by torch, or of the process."""
    if hardware.kind == "cuda":
        torch.cuda.synchronize()
        return int(torch.cuda.memory_allocated())
    return int(psutil.Process().memory_info().rss)


def _fit(
    config: RunConfig, vocabulary: int, dtype: str, hardware: Hardware, scratch: Path, estimate: MemoryEstimate
) -> Fit:
    training = config.training.model_copy(update={"max_steps": _STEPS, "evaluation_every_steps": None})
    source = random.Random(0)
    count = _STEPS * training.micro_batch_size * training.gradient_accumulation_steps
    rows = [[source.randrange(vocabulary) for _ in range(training.max_length_tokens)] for _ in range(count)]
    items = [{"input_ids": row, "labels": row} for row in rows]
    counted = TokenRows(tuple(TokenRow(row, row) for row in rows), count, 0, 0, 0, ())
    lengths = [len(row) for row in rows]
    training_set = TrainingSet(Dataset.from_list(items), PaddedCollator(0), _STEPS, "off", count, lengths)
    config = config.model_copy(update={"training": training})
    return Fit(config, training_set, counted, None, hardware, dtype, scratch, ignore, estimate, throw_away=True)


def _tokenizer() -> Any:
    """The trainer wants a tokenizer, and the rows are random ids already: two words will do."""
    end, unknown = "<eos>", "<unk>"
    words = Tokenizer(WordLevel({end: 0, unknown: 1}, unk_token=unknown))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=end, pad_token=end, unk_token=unknown)


def _seconds(scratch: Path) -> float:
    """Time of the second step; the first one compiles and loads kernels."""
    lines = [json.loads(line) for line in (scratch / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    times = [line["seconds"] for line in lines if "loss" in line]
    return float(times[-1] - times[-2])


def _result(
    name: str, config: RunConfig, hardware: Hardware, estimate: MemoryEstimate, measured: _Measured
) -> ProbeResult:
    training = config.training
    tokens = training.micro_batch_size * training.gradient_accumulation_steps * training.max_length_tokens
    rows = _gpu_parts(estimate, measured) if hardware.kind == "cuda" else _process_parts(estimate)
    return ProbeResult(
        model=name,
        device=hardware.name,
        steps=_STEPS,
        seconds_per_step=measured.seconds,
        tokens_per_second=tokens / measured.seconds,
        parts=[ProbePart(name=part, predicted_bytes=was, measured_bytes=came) for part, was, came in rows],
    )


Rows = list[tuple[str, int, int]]


def _gpu_parts(estimate: MemoryEstimate, measured: _Measured) -> Rows:
    parts = estimate.parts
    base, adapter = sum(parts.get(part, 0) for part in _BASE), parts["adapter (fp32)"]
    workspaces = parts.get("cuBLAS workspaces", 0)
    passing = measured.peak - measured.base - measured.adapter - measured.workspaces
    return [
        ("base", base, measured.base),
        ("adapter", adapter, measured.adapter),
        ("workspaces", workspaces, measured.workspaces),
        (
            "optimiser state, activations, gradients, scratch",
            estimate.mid_bytes - base - adapter - workspaces,
            passing,
        ),
        ("peak allocated", estimate.mid_bytes, measured.peak),
        ("peak reserved", estimate.reserved_bytes, measured.reserved),
    ]


def _process_parts(estimate: MemoryEstimate) -> Rows:
    """On a CPU nobody counts by part: the system tells what the whole process took at most, libraries included."""
    return [("whole process", estimate.device_bytes, peak_memory(host_hardware()).allocated_bytes)]
