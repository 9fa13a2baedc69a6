"""Rows that are answered at the same time: their tokens, their cache, and one step of the model for all of them."""

import inspect
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .cached_rows import can_regroup, regrouped


@dataclass
class Row:
    """One prompt in tokens and the answer as far as it is; `source` gives its random numbers."""

    number: int
    prompt: list[int]
    source: random.Random
    answer: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def tokens(self) -> list[int]:
        """Prompt and answer: what a row that was put aside goes on from."""
        return self.prompt + self.answer


@dataclass
class Batch:
    """Rows side by side, padded on the left to `width` tokens; `pads` [rows] counts their padding.

    `positions` is off for attention with linear biases, which finds the places of tokens in the mask.
    """

    rows: list[Row]
    pads: torch.Tensor
    padded: bool
    positions: bool
    width: int = 0
    cache: Any = None
    seen: torch.Tensor | None = None

    @property
    def active(self) -> list[int]:
        """Places of the rows that are not at their end."""
        return [place for place, row in enumerate(self.rows) if not row.ended]

    @property
    def regroups(self) -> bool:
        """Whether rows can leave and join."""
        return can_regroup(self.cache)


def prefilled(network: Any, rows: list[Row], pad: int, penalty: bool) -> tuple[Batch, torch.Tensor]:
    """The batch of `rows` after reading all their tokens, and the scores [rows, vocabulary] of the next one."""
    tokens = [row.tokens for row in rows]
    widest = max(map(len, tokens))
    ids = torch.tensor([[pad] * (widest - len(one)) + one for one in tokens], device=network.device)
    positions = "position_ids" in inspect.signature(network.forward).parameters
    batch = Batch(rows, *_padding([widest - len(one) for one in tokens], network.device), positions)
    scores = forward(network, batch, ids)
    if penalty:
        batch.seen = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        for place, one in enumerate(tokens):
            batch.seen[place, torch.tensor(sorted(set(one)), device=scores.device)] = True
    return batch, scores


def step(network: Any, batch: Batch) -> torch.Tensor:
    """Read the last token of each row; the scores of the next one. Rows that have ended run along."""
    ids = torch.tensor([[row.answer[-1]] for row in batch.rows], device=network.device)
    if batch.seen is not None:
        batch.seen.scatter_(1, ids, True)
    return forward(network, batch, ids)


def forward(network: Any, batch: Batch, ids: torch.Tensor) -> torch.Tensor:
    """Run the model on `ids` [rows, tokens] behind the batch's cache; the scores behind the last token."""
    before, batch.width = batch.width, batch.width + ids.shape[1]
    places = {}
    if batch.padded:
        columns = torch.arange(batch.width, device=ids.device)
        places["attention_mask"] = (columns >= batch.pads[:, None]).long()
        if batch.positions:
            places["position_ids"] = (columns[before:] - batch.pads[:, None]).clamp(min=0)
    # Without padding neither is given: attention then takes its fastest way.
    output = network(input_ids=ids, past_key_values=batch.cache, use_cache=True, logits_to_keep=1, **places)
    batch.cache = output.past_key_values
    scores: torch.Tensor = output.logits[:, -1]
    return scores


def joined(batches: Sequence[Batch]) -> Batch | None:
    """One batch of the rows that have not ended, no wider than the longest of them; None where all have."""
    batches = [batch for batch in batches if batch.active]
    if not batches:
        return None
    if len(batches) == 1 and len(batches[0].active) == len(batches[0].rows):
        return batches[0]
    kept = [batch.active for batch in batches]
    rows = [batch.rows[place] for batch, places in zip(batches, kept, strict=True) for place in places]
    # The last token of an answer is not in the cache: the next step reads it.
    lengths = [len(row.prompt) + len(row.answer) - 1 for row in rows]
    width, device = max(lengths), batches[0].pads.device
    states = regrouped([batch.cache for batch in batches], kept, width)
    seen = [batch.seen[places] for batch, places in zip(batches, kept, strict=True) if batch.seen is not None]
    pads = _padding([width - length for length in lengths], device)
    return Batch(rows, *pads, batches[0].positions, width=width, cache=states, seen=torch.cat(seen) if seen else None)


def _padding(counts: list[int], device: Any) -> tuple[torch.Tensor, bool]:
    return torch.tensor(counts, device=device), any(counts)
