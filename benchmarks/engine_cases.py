"""The cases of the speed benchmark, in order of importance, and which engines each is run with. No torch."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# `fast` and `stock` are this package's engines; `lora16` is the fast one on a base that is not quantised. Peers: `trl` is TRL
# and PEFT without the upcast to fp32 and without dropout, `trl-liger` the same with Liger's kernels, `tutorial` the usual
# recipe (prepare_model_for_kbit_training and dropout 0.05), `unsloth` the installed package at its best (dropout 0).
ENGINES = ("fast", "stock", "lora16", "trl", "trl-liger", "tutorial", "unsloth")


@dataclass(frozen=True)
class Case:
    """A shape of work.

    `lengths`: all rows as long as `length`, chat-like ones packed into bins of it, or the demo's. `kept`: no activation is
    computed again. `limit_gib`: GiB that the allocator may reserve. `changes`: fields of the model's config.json set
    otherwise. `longest`: find the longest row that fits into the limit instead of timing steps. `seconds`: what one process
    may take. `whole_step`: of `longest`, train a whole step at the length that was found.
    """

    model: str
    rows: int
    length: int
    kept: bool = False
    rank: int = 16
    lengths: Literal["fixed", "chat", "demo"] = "fixed"
    steps: int = 10
    warm: int = 3
    rounds: int = 1
    engines: tuple[str, ...] = ("fast", "unsloth")
    limit_gib: float | None = None
    longest: bool = False
    whole_step: bool = True
    profiled: bool = False
    seconds: float = 120
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def on_cpu(self) -> bool:
        """Whether the case is one for machines without a GPU."""
        return self.lengths == "demo"

    @property
    def shape(self) -> str:
        """What cases must share to use one checkpoint on disk."""
        return self.model + "".join(f"-{name}-{value}" for name, value in sorted(self.changes.items()))

    def values(self) -> dict[str, Any]:
        """The case as JSON has it."""
        return {**asdict(self), "engines": list(self.engines)}


L8, L1, L70 = "llama-3.1-8b-instruct", "llama-3.2-1b-instruct", "llama-3.1-70b-instruct"
_SMALL = {"rows": 8, "length": 66, "lengths": "demo", "steps": 4, "warm": 1, "engines": ("fast", "stock", "trl")}
_OTHERS = {
    "qwen2.5-7b": "qwen2.5-7b-instruct",
    "qwen3-8b": "qwen3-8b",
    "mistral-7b": "mistral-7b-instruct-v0.3",
    "gemma-2-9b": "gemma-2-9b-it",
    "phi-3-mini": "phi-3-mini-4k-instruct",
}

CASES: dict[str, Case] = {
    "8b-4x2048": Case(
        L8,
        4,
        2048,
        engines=("fast", "unsloth", "trl-liger", "lora16", "trl", "tutorial", "stock"),
        profiled=True,
    ),
    "8b-4x2048-kept": Case(L8, 4, 2048, kept=True, engines=("fast", "unsloth", "lora16", "trl"), profiled=True),
    "8b-4x2048-24gib": Case(L8, 4, 2048, limit_gib=24, engines=("fast",)),
    "8b-chat": Case(L8, 1, 8192, lengths="chat", engines=("fast", "unsloth", "trl-liger", "stock"), profiled=True),
    "8b-chat-kept": Case(L8, 1, 8192, kept=True, lengths="chat"),
    "1b-2x512": Case(L1, 2, 512, steps=40, warm=10, engines=("fast", "unsloth", "tutorial", "stock"), profiled=True),
    "1b-4x2048": Case(L1, 4, 2048, steps=16),
    "1b-4x2048-kept": Case(L1, 4, 2048, kept=True, steps=16),
    "8b-1x8192": Case(L8, 1, 8192),
    "8b-1x512": Case(L8, 1, 512, steps=20, warm=5),
    "70b-1x2048": Case(L70, 1, 2048, steps=5, warm=2, engines=("fast",)),
    "70b-4x2048": Case(L70, 4, 2048, steps=4, warm=2, engines=("fast",)),
    "70b-4x2048-kept": Case(L70, 4, 2048, steps=4, warm=2, limit_gib=78, engines=("fast",)),
    "8b-longest-24": Case(L8, 1, 16384, rank=32, limit_gib=24, longest=True, seconds=220, engines=("fast",)),
    **{f"{name}-4x2048": Case(model, 4, 2048, steps=8) for name, model in _OTHERS.items()},
    **{f"{name}-4x2048-kept": Case(model, 4, 2048, kept=True, steps=8) for name, model in _OTHERS.items()},
    "8b-longest-80": Case(
        L8, 1, 32768, rank=32, limit_gib=78.5, longest=True, whole_step=False, seconds=420, engines=("fast",)
    ),
    "demo": Case("smollm2-135m-instruct", rounds=2, seconds=600, **_SMALL),  # type: ignore[arg-type]
    "demo-kept": Case("smollm2-135m-instruct", kept=True, rounds=2, seconds=600, **_SMALL),  # type: ignore[arg-type]
}

# Tokens a second of one H100 if nothing but bf16 products, flash attention and decoding took time, each timed alone; of two
# figures the second leaves out the recomputation of `down_proj`.
FLOORS: dict[str, tuple[float, ...]] = {
    "8b-4x2048": (13_760, 14_900),
    "8b-4x2048-kept": (20_000,),
    "8b-1x8192": (11_590,),
    "70b-1x2048": (1_650,),
}

_CASE = re.compile(r"(?P<model>[\w.-]+):(?P<rows>\d+)x(?P<length>\d+)(?P<words>(:[\w.]+)*)")


def case_named(name: str) -> Case:
    """A case of `CASES`, or one spelled out: `MODEL:ROWSxLENGTH[:rRANK][:kept][:chat][:limitGIB]`.

    Raises `ValueError` for anything else.
    """
    if name in CASES:
        return CASES[name]
    read = _CASE.fullmatch(name)
    if read is None:
        raise ValueError(
            f"{name!r} is no case; say MODEL:4x2048[:r32][:kept][:chat][:limit24] or one of {', '.join(CASES)}"
        )
    words = dict(_fields(word) for word in read["words"].split(":") if word)
    return Case(read["model"], int(read["rows"]), int(read["length"]), **words)


def _fields(word: str) -> tuple[str, Any]:
    if word == "kept":
        return "kept", True
    if word == "chat":
        return "lengths", "chat"
    if number := re.fullmatch(r"r(\d+)", word):
        return "rank", int(number[1])
    if number := re.fullmatch(r"limit([\d.]+)", word):
        return "limit_gib", float(number[1])
    raise ValueError(f"{word!r} is no part of a case; say rRANK, kept, chat or limitGIB")


@dataclass(frozen=True)
class Job:
    """One process: a case with one engine, or the `checkpoint` that Unsloth reads."""

    name: str
    case: Case
    engine: str
    round: int = 0


def jobs_of(names: list[str], engines: list[str]) -> Iterator[Job]:
    """The jobs of the cases in their order, of all their engines or of those named; rounds take turns."""
    for name in names:
        case = case_named(name)
        wanted = engines or case.engines
        for turn in range(case.rounds):
            yield from (Job(name, case, engine, turn) for engine in wanted)
