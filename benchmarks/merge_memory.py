"""What a merge takes, measured from outside: `merge_memory.py [LAYERS] [DIRECTORY] [CHECKED]`, 2 layers, unchecked.

For the widths of Llama-3.1-8B and 70B with so many layers, random weights in bf16 and an adapter of rank 16 on all
projections, embedding and head: peak anonymous memory (RssAnon) of the merging process above what its imports take, and
its time beside copying the same files. Both are done in turn, several times, since other work on a machine moves both:
the median counts, of a case's merges and of all copies of a model's files, which are the same in each case; the
processor's seconds stand beside. A merge takes from its call to its return, with the
result on the disk; importing and the end of the process are told apart. Cases: LoRA into the original base, into the NF4
base, and trained embeddings and head (modules to save). Writes `benchmarks/results/merge_memory.json`.
"""

import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RESULT = Path(__file__).parent / "results" / "merge_memory.json"
MODELS = ("llama-3.1-8b-instruct", "llama-3.1-70b-instruct")
CASES: dict[str, dict[str, Any]] = {
    "lora, original base": {"base": "original"},
    "lora with embedding and head, original base": {"base": "original", "adapter": "everything"},
    "embedding and head trained in full, original base": {"base": "original", "adapter": "saved"},
    "lora, nf4 base": {"base": "nf4"},
}
_REPETITIONS = 3
_RANK = 16
_CHUNK = 2**24


def main(layers: int, folder: Path, check: bool) -> None:
    measured = [row for model in MODELS for row in _of_model(model, layers, folder, check)]
    document = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {os.sysconf('SC_PHYS_PAGES') * 4096 / 2**30:.0f} GiB",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")},
        "layers": layers,
        "repetitions": _REPETITIONS,
        "checked": check,
        "rows": measured,
    }
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _of_model(name: str, layers: int, folder: Path, check: bool) -> Iterator[dict[str, Any]]:
    catalogue = json.loads((ROOT / "qlora_tools" / "models" / "catalogue.json").read_text(encoding="utf-8"))
    config = next(model["config"] for model in catalogue if model["name"] == name)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        base = Path(place) / "base"
        _write_base(base, {**config, "num_hidden_layers": layers})
        size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
        copies: list[dict[str, Any]] = []
        merges: dict[str, list[dict[str, Any]]] = {}
        for case, wanted in CASES.items():
            settings = dict(wanted)
            adapter = _write_adapter(Path(place) / "adapter", base, settings.pop("adapter", "linear"))
            merges[case] = []
            for _ in range(_REPETITIONS):
                copies.append(_copied(base, Path(place) / "copy"))
                merges[case].append(_merged(adapter, Path(place) / "merged", {**settings, "check": check}))
            shutil.rmtree(adapter)
    copied = _medians(copies)
    for case, rows in merges.items():
        row = {"model": name, "case": case, "gigabytes": round(size / 1e9, 2), **copied, **_together(rows)}
        row["speed_of_copying"] = round(row["copy_seconds"] / row["merge_seconds"], 2)
        print(json.dumps(row), flush=True)
        yield row


def _write_base(directory: Path, config: dict[str, Any]) -> None:
    """config.json, tensors of random bits that are small bf16 numbers, and a tokenizer of a tiny model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.families import FAMILIES, make_tokenizer

    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    make_tokenizer(FAMILIES["llama"]).save_pretrained(directory)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    _write_random(directory / "model.safetensors", shapes)


def _write_adapter(directory: Path, base: Path, kind: str) -> Path:
    """A PEFT adapter: on all projections, on embedding and head too, or these two trained in full."""
    from qlora_tools.models.stored_tensors import model_tensors

    directory.mkdir()
    shapes: dict[str, list[int]] = {}
    for name, tensor in model_tensors(base).items():
        if len(tensor.shape) < 2:
            continue
        module, (out, width) = "base_model.model." + name.removesuffix(".weight"), tensor.shape
        embedding = "embed_tokens" in name
        if kind == "saved" and (embedding or "lm_head" in name):
            shapes[f"{module}.weight"] = [out, width]
        elif embedding and kind == "everything":
            shapes |= {f"{module}.lora_embedding_A": [_RANK, out], f"{module}.lora_embedding_B": [width, _RANK]}
        elif "_proj" in name or kind == "everything":
            shapes |= {f"{module}.lora_A.weight": [_RANK, width], f"{module}.lora_B.weight": [out, _RANK]}
    _write_random(directory / "adapter_model.safetensors", shapes)
    settings = {"peft_type": "LORA", "r": _RANK, "lora_alpha": 32, "base_model_name_or_path": str(base)}
    settings |= {"modules_to_save": ["embed_tokens", "lm_head"]} if kind == "saved" else {}
    (directory / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def _write_random(file: Path, shapes: dict[str, list[int]]) -> None:
    """bf16 normal numbers of standard deviation 0.02; the same 32 MiB again and again."""
    import math

    import torch

    noise = (torch.randn(_CHUNK) * 0.02).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
    header, place = {}, 0
    for name, shape in shapes.items():
        end = place + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for begin in range(0, place, len(noise)):
            opened.write(noise[: min(len(noise), place - begin)])


def _together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of what was measured each time; of memory the most."""
    most = {name: max(row[name] for row in rows) for name in ("imports_mib", "peak_above_imports_mib")}
    return {**_medians(rows), **most, "parity": rows[-1]["parity"]}


def _medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0] if "seconds" in name}


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _copied(base: Path, target: Path) -> dict[str, Any]:
    """A copy of the same files to the same disk, on the disk at its end as a merge is."""
    began, used = time.perf_counter(), _processor_seconds()
    shutil.copytree(base, target)
    for file in target.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    seconds = {
        "copy_seconds": time.perf_counter() - began,
        "copy_processor_seconds": _processor_seconds() - used,
    }
    shutil.rmtree(target)
    return seconds


def _merged(adapter: Path, target: Path, settings: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--merge", str(adapter), str(target), json.dumps(settings)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    began = time.perf_counter()
    child.stdout.readline()  # Its libraries are imported.
    ready = time.perf_counter()
    imports, peaks = _anonymous(child.pid), [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            peaks[0] = max(peaks[0], _anonymous(child.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    told = child.stdout.readline()
    merged = time.perf_counter()
    child.communicate()
    ended = time.perf_counter()
    over.set()
    watcher.join()
    if child.returncode:
        raise SystemExit(f"the merge failed: {told}")
    shutil.rmtree(target)
    return {
        "import_seconds": ready - began,
        "merge_seconds": merged - ready,
        "end_seconds": ended - merged,
        "imports_mib": round(imports / 2**20),
        "peak_above_imports_mib": round((peaks[0] - imports) / 2**20),
        **json.loads(told),
    }


def _anonymous(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    lines = [line.split()[1] for line in text.splitlines() if line.startswith("RssAnon")]
    return int(lines[0]) * 1024 if lines else 0


def merge_here(adapter: str, target: str, settings: str) -> None:
    """In the child: import what merging needs, say so, and merge."""
    from qlora_tools.merging import merge, parity, writing  # noqa: F401

    print("ready", flush=True)
    used = _processor_seconds()
    result = merge(adapter, target, **json.loads(settings)).model_dump(mode="json")
    told = {"merge_processor_seconds": _processor_seconds() - used, "parity": result["parity"]}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--merge"]:
        merge_here(*sys.argv[2:])
    else:
        given = sys.argv[1:]
        main(
            int(given[0]) if given else 2, Path(given[1]) if given[1:] else Path(tempfile.gettempdir()), bool(given[2:])
        )
