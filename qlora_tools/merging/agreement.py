"""How far the answers of two models agree, token by token, and what passes for a merge."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

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
