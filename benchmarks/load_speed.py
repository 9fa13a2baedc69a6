"""Seconds and peak memory of loading a base into NF4 from bf16 safetensors: as a run does, and read ahead.

    python benchmarks/load_speed.py OUT.json [case ...]

Checkpoints with random weights in the true shape are written into a temporary directory (of `LOAD_FOLDER`) and read once, so
that they lie in the page cache. Each load is a process of its own, in turns. A tiny model is loaded by `stock` first, so that
imports and the start of the device are not counted; nor is the tokenizer. `stock` is `from_pretrained` with
`BitsAndBytesConfig`, as a run loads, `read_ahead` the candidate in read_ahead.py, and `quantising` only the calls that
quantise, on tensors that are on the device already: the share that no way of reading can save.
"""

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qlora_tools.models.catalogue import CATALOGUE  # noqa: E402

LIBRARIES = ("torch", "transformers", "bitsandbytes", "accelerate", "safetensors")
WAYS = ("stock", "read_ahead", "quantising")
SHARD_BYTES = 4_500_000_000
MIB = 2**20
TINY = dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size", "head_dim"), 64) | dict.fromkeys(
    ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 1
)


@dataclass(frozen=True)
class Case:
    """A model of the catalogue, with fewer layers where the whole would take too long here."""

    model: str
    layers: int | None = None
    rounds: int = 3
    gpu: bool = False


CASES = {
    "135m": Case("smollm2-135m-instruct"),
    "1b-4-layers": Case("llama-3.2-1b-instruct", layers=4, rounds=2),
    "1b": Case("llama-3.2-1b-instruct", rounds=5, gpu=True),
    "8b": Case("llama-3.1-8b-instruct", rounds=5, gpu=True),
    "gemma-2-9b": Case("gemma-2-9b-it", rounds=3, gpu=True),
}


def main() -> None:
    """Measure the cases named on the command line, or those for this machine, and write after each."""
    import torch

    target, on_gpu = Path(sys.argv[1]), torch.cuda.is_available()
    chosen = sys.argv[2:] or [name for name, case in CASES.items() if case.gpu == on_gpu]
    report: dict[str, Any] = {"date": str(date.today()), "machine": _machine(), "cases": {}}
    for name in chosen:
        with tempfile.TemporaryDirectory(dir=os.environ.get("LOAD_FOLDER")) as folder:
            report["cases"][name] = measure(CASES[name], Path(folder))
        print(name, json.dumps(report["cases"][name]), flush=True)
        target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """The medians of all ways, and every round's seconds."""
    values = dict(CATALOGUE[case.model].config)
    write_checkpoint(values | ({"num_hidden_layers": case.layers} if case.layers else {}), folder)
    write_checkpoint(values | TINY, folder / "tiny")
    for file in folder.glob("*.safetensors"):
        file.read_bytes()
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(case.rounds):
        for way in WAYS:
            rounds[way].append(_in_a_process(way, folder))
    result: dict[str, Any] = {
        "model": case.model,
        "layers": case.layers,
        "file_mib": sum(file.stat().st_size for file in folder.glob("*.safetensors")) // MIB,
    }
    for way, measured in rounds.items():
        result[way] = {key: round(statistics.median(one[key] for one in measured), 3) for key in measured[0]}
        result[way]["each_seconds"] = [round(one["seconds"], 3) for one in measured]
    result["stock_over_read_ahead"] = round(result["stock"]["seconds"] / result["read_ahead"]["seconds"], 2)
    return result


def _in_a_process(way: str, folder: Path) -> dict[str, float]:
    made = subprocess.run(
        [sys.executable, __file__, "--load", way, str(folder)], stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return found


def load(way: str, folder: Path) -> dict[str, float]:
    """What one load takes in this process: seconds, and memory beside what imports and the device's context take."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    loaders = {"stock": _stock, "read_ahead": _read_ahead, "quantising": _quantising}
    on_gpu = torch.cuda.is_available()
    loader = loaders[way](folder)
    _stock(folder / "tiny")()
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with Resident() as resident:
        began, worked = time.perf_counter(), time.process_time()
        loaded = loader()
        if on_gpu:
            torch.cuda.synchronize()
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
    if way == "quantising":
        return dict(zip(("seconds", "processor_seconds"), loaded, strict=True))
    found = {"seconds": seconds, "processor_seconds": worked}
    found |= {"host_peak_mib": resident.peak / MIB, "host_peak_own_mib": resident.own_peak / MIB}
    if on_gpu:
        found["loaded_mib"] = torch.cuda.memory_allocated() / MIB
        found["peak_allocated_mib"] = torch.cuda.max_memory_allocated() / MIB
        found["peak_reserved_mib"] = torch.cuda.max_memory_reserved() / MIB
    return found


class Resident:
    """The most memory of this process within a `with` block over that at its start: all, and without mapped files."""

    def __enter__(self) -> "Resident":
        self._start, self._done = _resident(), threading.Event()
        self.peak = self.own_peak = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            whole, own = _resident()
            self.peak = max(self.peak, whole - self._start[0])
            self.own_peak = max(self.own_peak, own - self._start[1])


def _resident() -> tuple[int, int]:
    pages, shared = (int(field) for field in Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3])
    size = os.sysconf("SC_PAGE_SIZE")
    return pages * size, (pages - shared) * size


def _stock(folder: Path) -> Callable[[], Any]:
    from transformers import AutoModelForCausalLM

    return partial(AutoModelForCausalLM.from_pretrained, folder, **_arguments())


def _read_ahead(folder: Path) -> Callable[[], Any]:
    import torch
    from transformers import AutoConfig

    from benchmarks.read_ahead import load_read_ahead

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    arguments = _arguments()
    return lambda: load_read_ahead(folder, AutoConfig.from_pretrained(folder), device, arguments)


def _arguments() -> dict[str, Any]:
    import torch
    from transformers import BitsAndBytesConfig

    from qlora_tools.config import QuantizationConfig
    from qlora_tools.config.library_arguments import quantization_arguments

    settings = quantization_arguments(QuantizationConfig(), "bfloat16") or {}
    return {
        "dtype": torch.bfloat16,
        "quantization_config": BitsAndBytesConfig(**settings),
        "device_map": {"": 0 if torch.cuda.is_available() else "cpu"},
    }


def _quantising(folder: Path) -> Callable[[], tuple[float, float]]:
    import torch
    from bitsandbytes.functional import quantize_4bit
    from safetensors.torch import load_file

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def now() -> tuple[float, float]:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def quantise() -> tuple[float, float]:
        seconds = worked = 0.0
        for file in sorted(folder.glob("*.safetensors")):
            # A copy of its own: on a CPU the tensors of a file are mapped, and read when they are used.
            weights = [item.clone() for name, item in load_file(file, device).items() if name.endswith("_proj.weight")]
            before = now()
            for weight in weights:
                quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
            after = now()
            seconds, worked = seconds + after[0] - before[0], worked + after[1] - before[1]
        return seconds, worked

    return quantise


def write_checkpoint(values: Mapping[str, Any], folder: Path) -> None:
    """Random bf16 weights of standard deviation 0.02 for config.json `values`, in shards with an index, as on the Hub."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def close() -> None:
        name = f"model-{len(set(places.values())) + 1:05}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, weight in model.named_parameters():
        shard[name] = torch.empty(weight.shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02).cpu()
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD_BYTES:
            close()
    close()
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _machine() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    processors = {"processors": os.cpu_count(), "threads": torch.get_num_threads(), "machine": platform.machine()}
    return {
        "gpu": gpu,
        **processors,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


if __name__ == "__main__":
    if sys.argv[1] == "--load":
        print(json.dumps(load(sys.argv[2], Path(sys.argv[3]))))
    else:
        main()
