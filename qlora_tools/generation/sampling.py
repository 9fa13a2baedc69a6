"""How answers are drawn: the settings, their bounds, and the random numbers of each row."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from ..errors import UsageError

MOST_NEW_TOKENS = 32_768
_MOST_STOP_STRINGS, _LONGEST_STOP_STRING = 16, 200


class SamplingOptions(TypedDict, total=False):
    """The settings as keyword arguments; see `Sampling`."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int
    stop_strings: Sequence[str]


@dataclass(frozen=True)
class Sampling:
    """Settings of one request. Raises `UsageError` for a value outside its bounds.

    `temperature` 0 takes the likeliest token; higher is more varied. `top_p` (0 to 1] and `top_k` (0 = all) leave only the
    likeliest tokens to draw from. `repetition_penalty` above 1 divides the scores of tokens that stand in prompt or answer
    already (Keskar et al. 2019, arXiv 1909.05858). An answer ends before the first of `stop_strings` that it holds.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_strings: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_strings", tuple(self.stop_strings))
        _within("max_new_tokens", self.max_new_tokens, 1, MOST_NEW_TOKENS)
        _within("temperature", self.temperature, 0, 5)
        _within("top_p", self.top_p, 0, 1, above=True)
        _within("top_k", self.top_k, 0, 1_000_000)
        _within("repetition_penalty", self.repetition_penalty, 0.1, 10)
        _within("seed", self.seed, 0, 2**63 - 1)
        _check_stop_strings(self.stop_strings)

    def options(self) -> SamplingOptions:
        """The settings as keyword arguments."""
        return SamplingOptions(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop_strings=list(self.stop_strings),
        )

    def source(self, number: int) -> random.Random:
        """The random numbers of row `number`. They depend on the seed and the number, never on the rows beside it."""
        return random.Random(f"{self.seed}:{number}")


def _within(name: str, value: float, least: float, most: float, *, above: bool = False) -> None:
    if not least <= value <= most or (above and value == least):
        allowed = f"above {least:g} and at most {most:g}" if above else f"{least:g} to {most:g}"
        raise UsageError(f"{name} is {value:g}; allowed is {allowed}.", next_step=f"Give another {name}.")


def _check_stop_strings(strings: Sequence[str]) -> None:
    wrong = [text for text in strings if not 0 < len(text) <= _LONGEST_STOP_STRING]
    if wrong or len(strings) > _MOST_STOP_STRINGS:
        raise UsageError(
            f"There are {len(strings)} stop strings, {len(wrong)} of them empty or over {_LONGEST_STOP_STRING} characters.",
            next_step=f"Give at most {_MOST_STOP_STRINGS} of 1 to {_LONGEST_STOP_STRING} characters.",
        )
