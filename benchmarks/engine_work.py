"""What every engine of the speed benchmark is given: the same rows, the same random base, the same settings."""

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_cases import Case
from transformers import PreTrainedTokenizerBase

from qlora_tools.config import RunConfig, parse_config
from qlora_tools.data.rows import IGNORED, TokenRow, TokenRows
from qlora_tools.engine.batches import Layout, TrainingSet, build_training_set
from qlora_tools.engine.device import detect_hardware
from qlora_tools.engine.expectation import expected_memory
from qlora_tools.engine.probe import _tokenizer
from qlora_tools.engine.random_base import build_random_base
from qlora_tools.memory.estimate import MemoryEstimate
from qlora_tools.models.catalogue import CATALOGUE

CHAT_MEAN, CHAT_SPREAD = 256, 0.8  # log-normal lengths of chat-like rows, in tokens


@dataclass(frozen=True)
class Work:
    """A case made ready for one process: its config, its rows, and what they are computed in."""

    case: Case
    engine: str
    scratch: Path
    config: RunConfig
    rows: TokenRows
    training_set: TrainingSet
    values: dict[str, Any]
    dtype: str
    device: str
    expected: MemoryEstimate | None


def work_of(case: Case, engine: str, scratch: Path) -> Work:
    """The case for `engine`; raises `ConfigError` where the config does not take it."""
    hardware = detect_hardware()
    dtype = "bfloat16" if hardware.computes_bfloat16 else "float32"
    config, values = _config(case, engine, scratch), {**CATALOGUE[case.model].config, **case.changes}
    rows = make_rows(case, config.training.max_steps or case.steps, int(values["vocab_size"]))
    layout: Layout = "bins" if case.lengths == "chat" else "off"
    training_set = build_training_set(rows, config.training, layout, 0)
    # By the function that a run asks too: with a memory limit it decides how many layers the fast engine keeps.
    expected = expected_memory(config, values, rows, layout=layout, compute_dtype=dtype, hardware=hardware)
    return Work(case, engine, scratch, config, rows, training_set, values, dtype, hardware.kind, expected)


def _config(case: Case, engine: str, scratch: Path) -> RunConfig:
    fast = engine in ("fast", "lora16")
    # The longest row: a limit that nothing meets, so that no layer is kept and all inputs wait on the host.
    limit = 0.5 if case.longest else case.limit_gib
    training = {
        "engine": "fast" if fast else "stock",
        # One more where the last step is profiled, which slows it.
        "max_steps": case.steps + case.profiled,
        "micro_batch_size": case.rows,
        "gradient_accumulation_steps": 1,
        "max_length_tokens": case.length,
        "packing": "bins" if case.lengths == "chat" else "off",
        "gradient_checkpointing": not case.kept,
        "log_every_steps": 1,
        **({"memory_limit_gib": limit} if fast and limit else {}),
    }
    return parse_config(
        {
            "model": {"name": case.model},
            "data": {"path": "rows.jsonl"},
            "lora": {"rank": case.rank, "dropout": 0.05 if engine == "tutorial" else 0},
            "quantization": {"kind": "none" if engine == "lora16" else "nf4"},
            "training": training,
            "output": {"directory": str(scratch)},
        }
    )


def make_rows(case: Case, steps: int, vocabulary: int) -> TokenRows:
    """Random tokens; the demo learns about two fifths of its rows, the others all."""
    source = random.Random(0)
    # Twice as many as fit on average, so that there are bins enough.
    per_bin = max(2, 2 * case.length // CHAT_MEAN) if case.lengths == "chat" else 1
    made = []
    for number in range(steps * case.rows * per_bin):
        length = {"fixed": case.length, "demo": source.randint(46, 66), "chat": _chat_length(source)}[case.lengths]
        ids = source.choices(range(vocabulary), k=min(length, case.length))
        prompt = round(0.61 * len(ids)) if case.lengths == "demo" else 0
        made.append(TokenRow(ids, [IGNORED] * prompt + ids[prompt:], number))
    return TokenRows(tuple(made), len(made), 0, 0, 0, ())


def _chat_length(source: random.Random) -> int:
    middle = CHAT_MEAN / math.exp(CHAT_SPREAD**2 / 2)
    return max(8, round(source.lognormvariate(0, CHAT_SPREAD) * middle))


def random_base(work: Work) -> Any:
    """The base in its true shape; the same weights in every process that draws them on the same device."""
    return build_random_base(work.values, work.config.quantization, compute_dtype=work.dtype, device=work.device)


def tokenizer() -> PreTrainedTokenizerBase:
    """Trainers want one, and the rows are ids already: two words will do."""
    words: PreTrainedTokenizerBase = _tokenizer()
    return words
