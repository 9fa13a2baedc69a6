"""How far the answers of two models agree, token by token, and what passes for a merge."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LogitsProcessor

from ..results import ParityResult

_LEAST_AGREEMENT = 0.99
_MOST_KL = 1e-3
# Weights in bf16 move log-probabilities by about so much: which of two such tokens leads says nothing about a merge.
_NEAR_TIE = 0.02


@dataclass(frozen=True)
class Asked:
    """One prompt and the reference's answer, in tokens."""

    prompt_ids: list[int]
    answer_ids: list[int]


@dataclass(frozen=True)
class Measured:
    """One row: where the most likely token agrees, where its lead was clear, and the summed KL divergence in nats."""

    same: torch.Tensor
    clear: torch.Tensor
    divergence: float


class Kept:
    """Log-probabilities `[prompts, tokens, vocabulary]` of a reference, taken down while it generates.

    They lie in a file: for a large vocabulary they are a gigabyte.
    """

    def __init__(self, file: Path, prompts: int, tokens: int) -> None:
        self._file, self._shape = file, (prompts, tokens)
        self._held = torch.empty(*self._shape, 0)

    def put(self, indices: Sequence[int], token: int, logits: torch.Tensor) -> None:
        """Take down the `logits` `[rows, vocabulary]` at one token of the answers to the prompts `indices`."""
        if not self._held.numel():
            self._file.touch()
            size = self._shape[0] * self._shape[1] * logits.shape[1]
            flat = torch.from_file(str(self._file), shared=True, size=size, dtype=torch.float32)
            self._held = flat.view(*self._shape, -1)
        for index, row in zip(indices, logits, strict=True):
            self._held[index, token] = row.float().log_softmax(-1)

    def of(self, rows: Sequence[Asked]) -> dict[int, torch.Tensor]:
        """Of each row's answer, `[answer tokens, vocabulary]`."""
        return {index: self._held[index, : len(row.answer_ids)] for index, row in enumerate(rows)}


class Keeping(LogitsProcessor):
    """Lets `generate` put the logits of each step into `kept`, and changes none."""

    def __init__(self, kept: Kept, indices: Sequence[int]) -> None:
        self._kept, self._indices, self._token = kept, indices, 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """As `generate` calls it at each step, with `[rows, vocabulary]`."""
        self._kept.put(self._indices, self._token, scores)
        self._token += 1
        return scores


def measured_rows(
    indices: Sequence[int], logits: torch.Tensor, held: dict[int, torch.Tensor], rows: Sequence[Asked]
) -> list[Measured]:
    """What the `logits` of the rows `indices`, one after the other, say beside the `held` log-probabilities."""
    found = []
    for index, part in zip(indices, logits.split([len(rows[i].answer_ids) for i in indices]), strict=True):
        mine, theirs = part.log_softmax(-1), held[index]
        same = mine.argmax(-1) == theirs.argmax(-1)
        first, second = theirs.topk(2, dim=-1).values.T
        found.append(Measured(same, first - second >= _NEAR_TIE, float((theirs.exp() * (theirs - mine)).sum())))
    return found


def parity_of(rows: Sequence[Asked], measured: Sequence[Measured], method: str) -> ParityResult:
    """All rows together; `method` says how they were computed."""
    tokens = sum(len(row.answer_ids) for row in rows)
    same, clear = (torch.cat([getattr(one, name) for one in measured]) for name in ("same", "clear"))
    divergence = math.fsum(one.divergence for one in measured) / tokens
    clear_agreement = float(same[clear].float().mean()) if bool(clear.any()) else 1.0
    return ParityResult(
        prompts=len(rows),
        tokens=tokens,
        same_answers=sum(bool(one.same.all()) for one in measured),
        top1_agreement=float(same.float().mean()),
        near_ties=int((~clear).sum()),
        clear_agreement=clear_agreement,
        mean_kl=max(divergence, 0.0),  # rounding may leave it a little below
        passed=clear_agreement >= _LEAST_AGREEMENT and divergence <= _MOST_KL,
        method=method,
    )
