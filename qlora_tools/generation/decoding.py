"""Answering many rows: a batch that is filled up again as answers end.

A batch that runs until its longest answer is there computes mostly rows that have ended. Here rows that have ended leave as
soon as an eighth of the batch has, and the next prompts take their places. Prompts of like length stand together, since all
rows of a batch are as wide as the longest of them.
"""

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from ..engine.device import release_memory
from ..errors import MachineError, ModelError
from ..events import StopAsked, never
from ..memory.tasks import cache_bytes
from ..models.hardware import Hardware
from ..models.shape import ModelShape
from .batch import Batch, Row, joined, prefilled, step
from .drawing import next_tokens
from .sampling import Sampling
from .stopping import AnsweringStopped

# Enough to keep the device busy; more rows make a step slower and answers no cheaper.
_MOST_ROWS = {"cuda": 128, "cpu": 64}
# Prompt tokens that are read at once: their activations stand beside the cache.
_PREFILL_TOKENS = {"cuda": 16_384, "cpu": 4_096}
# Where a model's shape is not known.
_TOKENS_IN_CACHE = {"cuda": 65_536, "cpu": 16_384}
_SHARE_OF_FREE = {"cuda": 0.5, "cpu": 0.25}


@dataclass(frozen=True)
class Room:
    """What fits at once: rows, tokens in the cache, tokens of prompts in one pass."""

    rows: int
    tokens: int
    prefill: int

    @classmethod
    def on(cls, hardware: Hardware, network: Any) -> "Room":
        """The room that is left beside the model, by the keys and values that one token takes."""
        kind = hardware.kind
        try:
            shape = ModelShape.from_config(network.config.to_dict())
        except ModelError:
            return cls(_MOST_ROWS[kind], _TOKENS_IN_CACHE[kind], _PREFILL_TOKENS[kind])
        each = cache_bytes(shape, rows=1, length=1, width=network.dtype.itemsize)
        tokens = int(_SHARE_OF_FREE[kind] * _free_bytes(hardware) / max(1, each))
        return cls(_MOST_ROWS[kind], tokens, _PREFILL_TOKENS[kind])

    def takes(self, rows: int, widest: int) -> bool:
        """Whether so many rows fit that may grow to `widest` tokens; one always may try."""
        return rows == 1 or (rows <= self.rows and rows * widest <= self.tokens)


def _free_bytes(hardware: Hardware) -> int:
    if hardware.kind == "cpu":
        return int(psutil.virtual_memory().available)
    free, _ = torch.cuda.mem_get_info()
    return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


@dataclass
class Decoder:
    """Answers rows with one model. `ends` says whether a row is at its end; `told` hears of every token."""

    network: Any
    hardware: Hardware
    sampling: Sampling
    pad: int
    ends: Callable[[Row], bool]
    told: Callable[[Row], None]
    stop: StopAsked = never

    def __post_init__(self) -> None:
        if "past_key_values" not in inspect.signature(self.network.forward).parameters:
            name = type(self.network).__name__
            raise ModelError(f"{name} keeps no keys and values.", next_step="Choose a model with attention.")
        self._room = Room.on(self.hardware, self.network)
        self._tried = 0

    def run(self, rows: Sequence[Row]) -> None:
        """Answer all rows, each up to and including its last token.

        Raises `AnsweringStopped` when asked to, `MachineError` where not even one row fits the memory.
        """
        waiting, batch = _queued(rows), None
        while waiting or batch is not None:
            if self.stop():
                raise AnsweringStopped(sum(row.ended for row in rows), len(rows))
            try:
                with torch.inference_mode():
                    batch = self._advanced(batch, waiting)
                continue
            except torch.cuda.OutOfMemoryError:
                pass
            # What is left of the batch is no use: some layers have read the token, others not. Answers so far are kept.
            batch = None
            release_memory()
            waiting = _queued(rows)
            self._room = self._smaller_room(waiting[0])

    def _advanced(self, batch: Batch | None, waiting: deque[Row]) -> Batch | None:
        if batch is None or self._should_regroup(batch, bool(waiting)):
            return self._filled(batch, waiting)
        self._take(batch, step(self.network, batch))
        return batch

    def _should_regroup(self, batch: Batch, others_wait: bool) -> bool:
        ended = len(batch.rows) - len(batch.active)
        if ended == len(batch.rows):
            return True
        # Leaving costs a copy of the cache, so a few go together.
        return batch.regroups and ended >= max(1, len(batch.rows) // (8 if others_wait else 4))

    def _filled(self, batch: Batch | None, waiting: deque[Row]) -> Batch | None:
        """The rows of `batch` that go on, with as many of those that wait as fit."""
        parts = [batch] if batch is not None and batch.active else []
        inside = [row for part in parts for row in part.rows if not row.ended]
        while group := self._next_group(waiting, inside):
            inside += group
            self._tried = len(inside)
            part, scores = prefilled(self.network, group, self.pad, self.sampling.repetition_penalty != 1)
            self._take(part, scores)
            parts.append(part)
            if not part.regroups:
                break
        return joined(parts)

    def _next_group(self, waiting: deque[Row], inside: Sequence[Row]) -> list[Row]:
        group: list[Row] = []
        widest = max(map(self._most_tokens, inside), default=0)
        while waiting:
            row, rows = waiting[0], len(group) + 1
            widest = max(widest, self._most_tokens(row))
            longest = max(len(row.tokens), len(group[0].tokens) if group else 0)
            if not self._room.takes(len(inside) + rows, widest) or (group and rows * longest > self._room.prefill):
                break
            group.append(waiting.popleft())
        return group

    def _most_tokens(self, row: Row) -> int:
        return len(row.prompt) + self.sampling.max_new_tokens

    def _take(self, batch: Batch, scores: torch.Tensor) -> None:
        numbers = [row.source.random() for row in batch.rows] if self.sampling.temperature > 0 else []
        # One device sync a step: the host must know who has ended.
        tokens = next_tokens(scores, self.sampling, numbers, batch.seen).tolist()
        for row, token in zip(batch.rows, tokens, strict=True):
            if not row.ended:
                row.answer.append(token)
                row.ended = self.ends(row)
                self.told(row)

    def _smaller_room(self, longest: Row) -> Room:
        rows = min(self._room.rows, self._tried) // 2
        if rows == 0:
            raise MachineError(
                f"The GPU ran out of memory answering one prompt of {len(longest.prompt)} tokens.",
                next_step="Ask for fewer new tokens or a shorter prompt.",
            )
        return Room(rows, self._room.tokens, max(1, self._room.prefill // 2))


def _queued(rows: Sequence[Row]) -> deque[Row]:
    """The longest first: memory that is short shows at once, and short ones fill the gaps at the end."""
    return deque(sorted((row for row in rows if not row.ended), key=lambda row: -len(row.tokens)))
