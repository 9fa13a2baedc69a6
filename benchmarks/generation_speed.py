"""Answering many prompts: our loop beside a plain `model.generate`, one prompt after another, in one run.

    python benchmarks/generation_speed.py benchmarks/results/generation_speed.json [PROMPTS]

Llama-3.2-1B's shape with random weights in NF4 and two LoRA adapters on a GPU, a two-layer model where there is none.
Random weights never end an answer by themselves, so each prompt has its length of answer (log-normal), and every way is
told where to end: the plain loop asks for exactly that many new tokens. Reading the prompts and writing the answers takes
milliseconds and is left out. Measured are: the plain loop; batches of 64 rows of like length that run to their longest
answer; our loop, which fills the batch up again; one prompt alone, both ways in turn; and the change from one loaded
adapter to the other.
"""

import json
import math
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_report import LLAMA_1B  # noqa: E402
from qlora_tools.config.schema import QuantizationConfig  # noqa: E402
from qlora_tools.engine.device import detect_hardware  # noqa: E402
from qlora_tools.engine.random_base import build_random_base  # noqa: E402
from qlora_tools.generation.batch import Row  # noqa: E402
from qlora_tools.generation.decoding import Decoder  # noqa: E402
from qlora_tools.generation.sampling import Sampling  # noqa: E402
from qlora_tools.models.hardware import Hardware  # noqa: E402

SMALL = {**LLAMA_1B, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
MOST_NEW_TOKENS, ROUNDS, ALONE_TOKENS, ROWS = 64, 7, 64, 64


def main() -> None:
    """Write the report named on the command line; PROMPTS is 500 where it is not given."""
    target, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 500
    hardware = detect_hardware()
    model = adapted_model(hardware)
    asked = prompts(count, model.config.vocab_size)
    warm_up(model, hardware, asked)
    seconds: dict[str, float] = {}
    for name, way in reversed(WAYS.items()):
        seconds[name] = timed(way, model, hardware, asked)
        print(name, round(seconds[name], 2), flush=True)
    tokens = sum(length for _, length in asked)
    alone = {name: statistics.median(times) for name, times in one_prompt(model, hardware, asked).items()}
    report = {
        "date": str(date.today()),
        "device": hardware.name,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "shape": "Llama-3.2-1B" if hardware.kind == "cuda" else "two layers",
        "prompts": count,
        "prompt_tokens": sum(len(ids) for ids, _ in asked),
        "answer_tokens": tokens,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "answer_tokens_per_second": {name: round(tokens / value, 1) for name, value in seconds.items()},
        "times_the_plain_loop": round(seconds["plain"] / seconds["ours"], 2),
        "one_prompt_seconds": {name: round(value, 4) for name, value in alone.items()},
        "one_prompt_times_plain": round(alone["plain"] / alone["ours"], 3),
        "adapter_change_ms": round(1000 * adapter_change(model), 2),
    }
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def adapted_model(hardware: Hardware) -> Any:
    """The base in NF4 with two adapters of rank 16 on all its linear layers."""
    values = {"model_type": "llama", **(LLAMA_1B if hardware.kind == "cuda" else SMALL)}
    dtype = "bfloat16" if hardware.computes_bfloat16 else "float32"
    base = build_random_base(values, QuantizationConfig(), compute_dtype=dtype, device=hardware.kind)
    settings = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(base, settings)
    model.add_adapter("other", settings)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(base.dtype)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def prompts(count: int, vocabulary: int) -> list[tuple[list[int], int]]:
    """Tokens of each prompt (16 to 512, about 100) and the length of its answer (2 to 64, about 11)."""
    source = random.Random(0)
    made = []
    for _ in range(count):
        length = min(512, max(16, round(source.lognormvariate(math.log(80), 0.7))))
        answer = min(MOST_NEW_TOKENS, max(2, round(source.lognormvariate(math.log(8), 0.8))))
        made.append(([source.randrange(3, vocabulary) for _ in range(length)], answer))
    return made


Asked = list[tuple[list[int], int]]


def plain(model: Any, hardware: Hardware, asked: Asked) -> None:
    """What a notebook does: one prompt after the other."""
    for ids, length in asked:
        inputs = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            model.generate(
                input_ids=inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=length, do_sample=False
            )


def batches(model: Any, hardware: Hardware, asked: Asked) -> None:
    """Padded batches of like length, each until its longest answer is there."""
    ordered = sorted(asked, key=lambda one: len(one[0]))
    for start in range(0, len(ordered), ROWS):
        part = ordered[start : start + ROWS]
        widest = max(len(ids) for ids, _ in part)
        inputs = torch.tensor([[0] * (widest - len(ids)) + ids for ids, _ in part], device=model.device)
        mask = torch.tensor([[0] * (widest - len(ids)) + [1] * len(ids) for ids, _ in part], device=model.device)
        with torch.inference_mode():
            longest = max(length for _, length in part)
            model.generate(input_ids=inputs, attention_mask=mask, max_new_tokens=longest, do_sample=False)


def ours(model: Any, hardware: Hardware, asked: Asked) -> None:
    """The loop of `qlora generate`."""
    lengths = dict(enumerate(length for _, length in asked))
    sampling = Sampling(max_new_tokens=MOST_NEW_TOKENS)
    rows = [Row(number, ids, sampling.source(number)) for number, (ids, _) in enumerate(asked)]

    def ends(row: Row) -> bool:
        return len(row.answer) >= lengths[row.number]

    Decoder(model.get_base_model(), hardware, sampling, 0, ends, lambda row: None).run(rows)
    assert all(len(row.answer) == lengths[row.number] for row in rows)


WAYS: dict[str, Callable[[Any, Hardware, Asked], None]] = {"plain": plain, "batches": batches, "ours": ours}


def timed(way: Callable[[Any, Hardware, Asked], None], model: Any, hardware: Hardware, asked: Asked) -> float:
    """Seconds of one way, the device's work included."""
    _wait(hardware)
    began = time.perf_counter()
    way(model, hardware, asked)
    _wait(hardware)
    return time.perf_counter() - began


def warm_up(model: Any, hardware: Hardware, asked: Asked) -> None:
    """Kernels are chosen and memory is taken once; that belongs to no way."""
    for way in WAYS.values():
        way(model, hardware, asked[:8])


def one_prompt(model: Any, hardware: Hardware, asked: Asked) -> dict[str, list[float]]:
    """Seconds of one prompt with an answer of 64 tokens, plain and ours in turn."""
    one = [(asked[0][0], ALONE_TOKENS)]
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(ROUNDS):
        for name in times:
            times[name].append(timed(WAYS[name], model, hardware, one))
    return times


def adapter_change(model: Any) -> float:
    """Median seconds of the change from one loaded adapter to the other."""
    seconds = []
    for number in range(2 * ROUNDS):
        began = time.perf_counter()
        model.set_adapter(("other", "default")[number % 2], inference_mode=True)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _wait(hardware: Hardware) -> None:
    if hardware.kind == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
