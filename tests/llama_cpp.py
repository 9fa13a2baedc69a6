"""A real llama.cpp (the wheel xllamacpp) over its HTTP interface: tokens, prompts, answers and their probabilities.

It runs in a process of its own: native threads that crash or stay behind must not be those of the test runner.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_SERVER = Path(__file__).with_name("llama_cpp_server.py")
# A tiny model is closed in milliseconds; what has not ended by then never will.
_CLOSING_SECONDS = 30


@dataclass(frozen=True)
class Answer:
    """Tokens, log-probabilities by place and token, and why it ended."""

    tokens: list[int]
    chances: dict[int, dict[int, float]]
    end: str


@dataclass(frozen=True)
class LlamaCpp:
    """A running server that has opened one model file."""

    address: str

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
            f"{self.address}/{what}",
            json.dumps(values).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found


@contextmanager
def opened(path: Path, context: int = 256) -> Iterator[LlamaCpp]:
    """llama.cpp with `path` open. If its process ends by itself the test fails with what it wrote to stderr."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("no llama.cpp here: its wheel xllamacpp is not installed")
    command = [sys.executable, "-I", "-X", "faulthandler", str(_SERVER), str(path), str(context)]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as written,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=written, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "llama.cpp did not open the file"
            yield LlamaCpp(address)
        finally:
            code = _closed(process)
            written.seek(0)
            # A crash is told beside the lost connection that it caused in the test.
            assert code == 0, f"llama.cpp ended with {code}:\n{written.read()}"


def _closed(process: subprocess.Popen[str]) -> int:
    """Its exit code."""
    try:
        process.communicate(timeout=_CLOSING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    return process.returncode
