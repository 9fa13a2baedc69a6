"""The cases of the memory grid, and which of them are held out from fitting.

A case is a catalogue model and what its config sets. A third is held out by a hash of the case, so the choice was made
before anything was measured and cannot be moved afterwards.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One run of the grid: dotted config fields beside the defaults; `padded` gives rows of unequal length."""

    model: str
    values: dict[str, Any] = field(default_factory=dict)
    padded: bool = False
    task: str = "training"

    @property
    def key(self) -> str:
        """The case as one line, the same in every run."""
        task = [] if self.task == "training" else [self.task]
        return json.dumps([self.model, self.values, self.padded, *task], sort_keys=True)

    @property
    def held_out(self) -> bool:
        """Whether the row may never be used to fit a constant."""
        return int(hashlib.sha256(self.key.encode()).hexdigest(), 16) % 3 == 0


def case(model: str, rows: int, length: int, rank: int = 16, **options: Any) -> Case:
    """Shorthand: `checkpointing`, `kind` and other fields by their last name."""
    named = {
        "checkpointing": "training.gradient_checkpointing",
        "accumulation": "training.gradient_accumulation_steps",
        "optimizer": "training.optimizer",
        "kind": "quantization.kind",
        "nested": "quantization.double_quantization",
        "dropout": "lora.dropout",
        "targets": "lora.target_modules",
        "dora": "lora.use_dora",
        "save": "lora.modules_to_save",
        "attention": "model.attention_implementation",
        "engine": "training.engine",
        "limit": "training.memory_limit_gib",
        "packing": "training.packing",
    }
    padded, task = options.pop("padded", False), options.pop("task", "training")
    values = {"training.micro_batch_size": rows, "training.max_length_tokens": length, "lora.rank": rank}
    values["training.gradient_accumulation_steps"] = options.pop("accumulation", 1)
    return Case(model, {**values, **{named[name]: value for name, value in options.items()}}, padded, task)


L1, L3, L8, L13 = "llama-3.2-1b-instruct", "llama-3.2-3b-instruct", "llama-3.1-8b-instruct", "llama-2-13b-chat"
Q1, Q3, Q7, Q14 = "qwen2.5-1.5b-instruct", "qwen2.5-3b-instruct", "qwen2.5-7b-instruct", "qwen2.5-14b-instruct"

CASES: tuple[Case, ...] = (
    case(L1, 4, 2048),
    case(L1, 4, 2048, checkpointing=False),
    case(L1, 2, 512, 64),
    case(L1, 1, 16384),
    case(L1, 8, 1024, kind="none", checkpointing=False),
    case(L1, 4, 2048, kind="none"),
    case(L1, 4, 2048, kind="int8"),
    case(L1, 2, 1024, optimizer="adamw_torch", rank=128, accumulation=2),
    case(L1, 4, 1024, padded=True, checkpointing=False),
    case(L1, 4, 2048, dropout=0.05),
    case(L1, 4, 1024, save=["lm_head"]),
    case(L3, 1, 512, 8),
    case(L3, 8, 512, 32),
    case(L3, 2, 4096, 64),
    case(L3, 1, 16384, 16),
    case(L3, 4, 1024, 16, checkpointing=False),
    case(L3, 2, 2048, 16, kind="none"),
    case(L3, 4, 2048, 16, kind="int8"),
    case(L3, 4, 2048, 128, accumulation=2),
    case(L3, 2, 2048, 16, padded=True),
    case(Q3, 4, 2048, 16),
    case(Q3, 2, 1024, 64, checkpointing=False),
    case(Q3, 1, 8192, 8),
    case(Q1, 8, 2048, 16),
    case(Q1, 2, 4096, 32, checkpointing=False),
    case("smollm3-3b", 2, 2048, 16),
    case("smollm3-3b", 1, 8192, 64, checkpointing=False),
    case("phi-3-mini-4k-instruct", 4, 1024, 16),
    case("phi-3-mini-4k-instruct", 2, 2048, 32, checkpointing=False),
    case("starcoder2-3b", 2, 2048, 16),
    case("starcoder2-3b", 2, 1024, 16, checkpointing=False),
    case(L8, 1, 512, 8),
    case(L8, 4, 2048, 16),
    case(L8, 4, 2048, 16, checkpointing=False),
    case(L8, 8, 1024, 64),
    case(L8, 1, 8192, 16),
    case(L8, 1, 16384, 128),
    case(L8, 2, 2048, 16, nested=False),
    case(L8, 2, 2048, 16, kind="none"),
    case(L8, 2, 2048, 16, kind="int8"),
    case(L8, 1, 4096, 32, targets="attention"),
    case(L8, 2, 1024, 16, checkpointing=False, accumulation=2),
    case(L8, 4, 1024, 16, padded=True),
    case(Q7, 1, 1024, 16),
    case(Q7, 4, 2048, 64),
    case(Q7, 1, 2048, 16, checkpointing=False),
    case(Q7, 2, 8192, 16),
    case("mistral-7b-instruct-v0.3", 2, 4096, 16),
    case("mistral-7b-instruct-v0.3", 4, 512, 32, checkpointing=False),
    case("qwen3-8b", 2, 2048, 16),
    case("qwen3-8b", 1, 2048, 32, checkpointing=False),
    case("qwen3-8b", 1, 512, 128, accumulation=2),
    case("olmo-2-1124-7b-instruct", 2, 2048, 16),
    case("olmo-2-1124-7b-instruct", 1, 1024, 16, checkpointing=False),
    case("granite-3.1-8b-instruct", 2, 2048, 16),
    case("gemma-2-2b-it", 2, 1024, 16),
    case("gemma-2-2b-it", 1, 2048, 16, checkpointing=False),
    case("gemma-3-1b-it", 4, 1024, 16),
    case("gemma-3-1b-it", 1, 4096, 16, checkpointing=False),
    case("gemma-2-9b-it", 1, 2048, 16),
    case("command-r7b-12-2024", 1, 2048, 16),
    case("glm-4-9b-0414", 1, 2048, 16),
    case("pythia-1.4b", 2, 1024, 16),
    case("olmoe-1b-7b-0924-instruct", 2, 2048, 16),
    case("olmoe-1b-7b-0924-instruct", 1, 2048, 16, checkpointing=False),
    case(L13, 1, 512, 16),
    case(L13, 2, 2048, 16),
    case(L13, 1, 4096, 64),
    case(L13, 1, 1024, 16, checkpointing=False),
    case(L13, 1, 2048, 16, kind="int8"),
    case(Q14, 1, 2048, 16),
    case(Q14, 1, 8192, 32),
    case(Q14, 2, 1024, 128, accumulation=2),
    case("qwen3-14b", 1, 4096, 16),
    case("phi-4", 4, 1024, 16),
    case("phi-4", 1, 2048, 8, checkpointing=False),
    case("phi-4", 1, 16384, 16),
    case(L8, 2, 1024, dora=True),
    case(L1, 2, 1024, dora=True, checkpointing=False),
    case(L8, 2, 1024, kind="fp4"),
    case(L1, 2, 2048, attention="eager"),
    case(L1, 2, 1024, attention="eager", checkpointing=False),
    case(L3, 1, 512, 128, optimizer="adamw_8bit"),
    case(L3, 1, 512, 64, optimizer="lion_8bit", accumulation=2),
    case(L3, 1, 1024, 128, optimizer="adafactor"),
    case(Q7, 1, 1024, save=["lm_head", "embed_tokens"]),
    case("qwen3-4b", 4, 1024, 32),
    case("mistral-nemo-12b-instruct", 1, 2048, 16),
    case("deepseek-v2-lite-chat", 1, 2048, 16),
    case("gpt2-xl", 4, 1024, 16),
    case("phi-2", 2, 1024, 16),
    case("phi-2", 1, 2048, 16, checkpointing=False),
    case("falcon-7b-instruct", 1, 1024, 16),
    case("stablelm-2-1.6b", 2, 2048, 16),
    case("yi-1.5-9b-chat", 1, 4096, 16),
    case(L1, 8, 2048, task="inference"),
    case(L8, 1, 8192, task="inference"),
    case(L8, 8, 1024, task="inference"),
    case("qwen3-8b", 2, 4096, task="inference"),
    case(Q14, 4, 2048, task="inference"),
    case("gemma-3-1b-it", 2, 4096, task="inference"),
)

# Models, lengths and ranks that no case above has, measured once and last; nothing was changed because of them.
BLIND: tuple[Case, ...] = (
    case("qwen2.5-0.5b-instruct", 6, 1536, 24),
    case("tinyllama-1.1b-chat", 3, 3072, 48, checkpointing=False),
    case("smollm2-1.7b-instruct", 5, 1280, 96, accumulation=3),
    case("qwen3-1.7b", 1, 12288, 20),
    case("granite-3.1-2b-instruct", 3, 1792, 40, checkpointing=False),
    case("phi-4-mini-instruct", 2, 3000, 12),
    case("yi-1.5-6b-chat", 3, 700, 56, kind="none"),
    case("llama-2-7b-chat", 7, 640, 28, targets="attention"),
    case("llama-3-8b-instruct", 3, 1536, 48),
    case("gemma-7b-it", 1, 3584, 36),
    case("falcon3-7b-instruct", 2, 2560, 80, dropout=0.1),
    case("mistral-nemo-12b-instruct", 1, 6144, 24),
    case("olmo-2-1124-13b-instruct", 2, 1100, 72),
    case("phi-3-medium-4k-instruct", 1, 1900, 20),
    case("mistral-small-24b-instruct-2501", 1, 1536, 16),
    case("codellama-34b-instruct", 1, 1024, 8),
)


def fast(model: str, rows: int, length: int, rank: int = 16, **options: Any) -> Case:
    """A case of the fast engine."""
    return case(model, rows, length, rank, engine="fast", **options)


# Of the fast engine, in a file of their own: `memory_grid.py FILE fast`.
FAST: tuple[Case, ...] = (
    fast(L8, 4, 2048),
    fast(L8, 4, 2048, checkpointing=False),
    fast(L8, 4, 2048, limit=24),
    fast(L8, 4, 2048, limit=16),
    fast(L8, 1, 8192),
    fast(L8, 1, 32768, 32),
    fast(L8, 1, 512),
    fast(L8, 4, 2048, padded=True),
    fast(L8, 2, 2048, kind="none"),
    fast(L8, 2, 2048, kind="fp4", nested=False, targets="attention"),
    fast(L8, 2, 2048, dropout=0.05, accumulation=2),
    fast(L1, 4, 2048),
    fast(L1, 4, 2048, checkpointing=False),
    fast(L1, 2, 512, checkpointing=False),
    fast(Q7, 4, 2048),
    fast(Q7, 2, 2048, checkpointing=False),
    fast("qwen3-8b", 4, 2048),
    fast("qwen3-8b", 2, 2048, checkpointing=False),
    fast("mistral-7b-instruct-v0.3", 4, 2048),
    fast("phi-3-mini-4k-instruct", 4, 2048, 24),
)
