"""What a listener hears while prompts are answered: how many are done, and of a single one its text as it grows."""

import time
from typing import TYPE_CHECKING, Any

from ..events import Listener, RunEvent
from .sampling import Sampling
from .stopping import answer_text, partial_text

if TYPE_CHECKING:
    from .batch import Row

# Text that people read; each time the whole answer is decoded.
_TEXT_SECONDS = 0.05
_COUNT_SECONDS = 0.2


class Telling:
    """Hears of every token of every row, and tells `on_event` what is worth telling.

    Of several prompts: message "answers", values `done` and `total`. Of one: the answer so far as the message, with the
    value `partial`, and tokens as `done` and `total`. That text is the model's: show it through `visible_text`.
    """

    def __init__(self, tokenizer: Any, total: int, sampling: Sampling, on_event: Listener) -> None:
        self._tokenizer = tokenizer
        self._total = total
        self._sampling = sampling
        self._on_event = on_event
        self._done = 0
        self._told = 0.0

    def __call__(self, row: "Row") -> None:
        """A token was added to `row`."""
        self._one(row) if self._total == 1 else self._several(row)

    def _one(self, row: "Row") -> None:
        if row.ended or self._due(_TEXT_SECONDS):
            strings = self._sampling.stop_strings
            whole = row.ended or strings
            text = (
                answer_text(self._tokenizer, row.answer, strings)
                if whole
                else partial_text(self._tokenizer, row.answer)
            )
            done, total = len(row.answer), self._sampling.max_new_tokens
            self._on_event(RunEvent("progress", text, {"done": done, "total": total, "partial": 1}))

    def _several(self, row: "Row") -> None:
        self._done += row.ended
        if row.ended and (self._done == self._total or self._due(_COUNT_SECONDS)):
            self._on_event(RunEvent("progress", "answers", {"done": self._done, "total": self._total}))

    def _due(self, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._told < seconds:
            return False
        self._told = now
        return True
