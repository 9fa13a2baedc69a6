"""A real llama.cpp (the wheel xllamacpp) over its HTTP interface: tokens, prompts, answers and their probabilities."""

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Answer:
    """Tokens, log-probabilities by place and token, and why it ended."""

    tokens: list[int]
    chances: dict[int, dict[int, float]]
    end: str


class LlamaCpp:
    """One model file, opened in this process; exact on the CPU: one thread, fp32 cache, no fused attention."""

    def __init__(self, path: Path, context: int = 256) -> None:
        xllamacpp = pytest.importorskip("xllamacpp", reason="no llama.cpp here: its wheel xllamacpp is not installed")
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx = context
        settings.n_batch = 64
        settings.n_parallel = 1
        settings.n_gpu_layers = 0
        settings.cpuparams.n_threads = 1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.warmup = settings.fit_params = False
        settings.use_jinja = True
        settings.port = 0
        settings.verbosity = -1
        self._server = xllamacpp.Server(settings)

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """As a prompt is tokenised: BOS added where the file says so, special tokens read."""
        found: list[int] = self._asked("tokenize", content=text, add_special=special, parse_special=True)["tokens"]
        return found

    def prompt(self, turns: list[Any]) -> str:
        """The prompt that its own template engine builds."""
        return str(self._asked("apply-template", messages=turns)["prompt"])

    def answer(self, ids: list[int], count: int) -> "Answer":
        """Greedy tokens. Probabilities are told where the text so far is whole characters, so not for each of them."""
        told = self._asked(
            "completion", prompt=ids, n_predict=count, temperature=0, n_probs=64, return_tokens=True, cache_prompt=False
        )
        tokens, chances, place = told["tokens"], {}, 0
        for entry in told["completion_probabilities"]:
            place = tokens.index(entry["id"], place)
            chances[place] = {other["id"]: other["logprob"] for other in entry["top_logprobs"]}
            place += 1
        return Answer(tokens, chances, told["stop_type"])

    def _asked(self, what: str, **values: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._server.listening_address}/{what}",
            json.dumps(values).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found
