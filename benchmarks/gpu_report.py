"""Run the GPU tests and one real shape on this GPU, and write what came out as JSON.

    python benchmarks/gpu_report.py benchmarks/results/gpu_stock.json

The real shape is Llama-3.2-1B with random weights: speed and memory depend on the shape, not on the values.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "datasets", "accelerate")
LLAMA_1B = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}


def main() -> None:
    """Write the report named on the command line."""
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    report = {"date": str(date.today()), "machine": machine(), "tests": run_tests(), "llama_1b_shape": run_shape()}
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"tests": report["tests"]["counts"], "llama_1b_shape": report["llama_1b_shape"]}, indent=1))


def machine() -> dict[str, Any]:
    """GPU, driver side and library versions."""
    import torch

    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def run_tests() -> dict[str, Any]:
    """Outcome and seconds of every test marked gpu."""
    with tempfile.TemporaryDirectory() as scratch:
        xml = Path(scratch) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py"]
        began = time.monotonic()
        subprocess.run([*command, f"--junitxml={xml}"], cwd=ROOT, check=False)
        cases = ElementTree.parse(xml).getroot().iter("testcase")  # noqa: S314 - our own file
        outcomes = {case.attrib["name"]: "failed" if len(case) else "passed" for case in cases}
    counts = {word: list(outcomes.values()).count(word) for word in ("passed", "failed")}
    return {"counts": counts, "seconds": round(time.monotonic() - began, 1), "outcomes": outcomes}


def run_shape() -> list[dict[str, Any]]:
    """Ten steps of 4 x 2048 tokens on the 1B shape, predicted and measured, with and without checkpointing."""
    from qlora_tools import parse_config, train
    from qlora_tools.memory import estimate_training
    from qlora_tools.models import ModelShape

    sys.path.insert(0, str(ROOT))
    measured = []
    with tempfile.TemporaryDirectory() as scratch:
        model, rows = make_shape(Path(scratch) / "model"), make_rows(Path(scratch) / "rows.jsonl")
        shape = ModelShape.from_config(json.loads((model / "config.json").read_text()))
        for checkpointing in (True, False):
            training = {
                "max_steps": 10,
                "micro_batch_size": 4,
                "gradient_accumulation_steps": 1,
                "max_length_tokens": 2048,
                "gradient_checkpointing": checkpointing,
                "smoke_generation": False,
            }
            parts = {"model": {"name": str(model)}, "data": {"path": str(rows), "check": "warn"}, "training": training}
            config = parse_config({**parts, "output": {"directory": f"{scratch}/{checkpointing}"}})
            estimate = estimate_training(config, shape, compute_dtype="bfloat16")
            result = train(config)
            lines = (Path(result.output_directory) / "metrics.jsonl").read_text().splitlines()
            speeds = sorted(json.loads(line)["tokens_per_second"] for line in lines)
            measured.append(
                {
                    "gradient_checkpointing": checkpointing,
                    "tokens_per_second_median": round(speeds[len(speeds) // 2]),
                    "peak_allocated_gib": round(result.peak_allocated_bytes / 2**30, 3),
                    "peak_reserved_gib": round(result.peak_reserved_bytes / 2**30, 3),
                    "predicted_mid_gib": round(estimate.mid_bytes / 2**30, 3),
                    "first_and_last_loss": [round(result.losses[0], 3), round(result.losses[-1], 3)],
                }
            )
    return measured


def make_shape(target: Path) -> Path:
    """A Llama-3.2-1B-shaped model with random weights and a small tokenizer."""
    import torch
    import transformers

    from tests.families import FAMILIES, make_tokenizer

    torch.manual_seed(0)
    with torch.device("cuda"):
        config = transformers.LlamaConfig(**LLAMA_1B)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to("cpu").save_pretrained(target)
    make_tokenizer(FAMILIES["llama"]).save_pretrained(target)
    return target


def make_rows(path: Path) -> Path:
    """Rows of more than 2,048 tokens, to be cut to exactly that."""
    row = json.dumps({"text": "one two three four five six seven eight nine ten " * 400})
    path.write_text(f"{row}\n" * 64, encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
