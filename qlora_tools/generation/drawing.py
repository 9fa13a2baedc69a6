"""From the scores of the next token to the token, for a batch of rows at once."""

from collections.abc import Sequence

import torch

from .sampling import Sampling


def next_tokens(
    scores: torch.Tensor, sampling: Sampling, numbers: Sequence[float], seen: torch.Tensor | None
) -> torch.Tensor:
    """One token a row. `scores` is [rows, vocabulary]; `numbers` holds a random number in [0, 1) for each row.

    `seen` [rows, vocabulary] marks the tokens of prompt and answer; None without a repetition penalty. A row's token is read
    from its distribution at its own number, so rounding that differs between batches moves it only where the number
    falls on an edge.
    """
    if seen is not None:
        scores = _penalised(scores.float(), seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return scores.argmax(-1)
    scores = scores.float()
    scores, tokens = _likeliest(scores / sampling.temperature, sampling)
    shares = scores.softmax(-1)
    if sampling.top_p < 1:
        # The token that reaches top_p is the last that stays, and the first one always does.
        shares = shares.masked_fill(shares.cumsum(-1) - shares >= sampling.top_p, 0)
    summed = shares.cumsum(-1)
    # In (0, 1]: a share of zero is then never the first to reach it.
    places = 1 - torch.tensor(list(numbers), dtype=torch.float64, device=scores.device).float()
    places = places.clamp(min=torch.finfo(torch.float32).tiny)
    chosen = (summed < places[:, None] * summed[:, -1:]).sum(-1)
    return chosen if tokens is None else tokens.gather(-1, chosen[:, None])[:, 0]


def _penalised(scores: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def _likeliest(scores: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The scores to draw from, the highest first, with their tokens; all of them in their own order where that will do."""
    if 0 < sampling.top_k < scores.shape[-1]:
        highest, tokens = scores.topk(sampling.top_k)
        return highest, tokens
    if sampling.top_p < 1:
        highest, tokens = scores.sort(descending=True)
        return highest, tokens
    return scores, None
