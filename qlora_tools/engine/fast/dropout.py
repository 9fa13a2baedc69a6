"""Dropout before LoRA, with masks that the backward pass draws again instead of keeping them."""

from dataclasses import dataclass

import torch
from torch import Tensor

_WORD = 2**64


@dataclass(frozen=True)
class Dropout:
    """Sets elements to zero with probability `share` and divides the others by `1 - share` (Srivastava et al. 2014)."""

    share: float
    seed: int

    def of(self, number: int) -> "Dropout":
        """Other masks, the same ones for the same `number`."""
        return Dropout(self.share, _mixed(self.seed + number))

    def __call__(self, x: Tensor) -> Tensor:
        """`x` with the mask of this seed and shape; of a gradient, that of what went in."""
        source = torch.Generator(x.device).manual_seed(self.seed % 2**63)
        kept = torch.empty(x.shape, device=x.device, dtype=x.dtype).bernoulli_(1 - self.share, generator=source)
        return kept.mul_(x).mul_(1 / (1 - self.share))


def within(dropout: Dropout | None, number: int) -> Dropout | None:
    """Other masks, the same ones for the same `number`: of a layer, a group, a slice of the tokens."""
    return None if dropout is None else dropout.of(number)


def _mixed(word: int) -> int:
    """A word whose bits all depend on all bits of `word` (the finaliser of splitmix64, Steele et al. 2014)."""
    word = (word + 0x9E3779B97F4A7C15) % _WORD
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB % _WORD
    return word ^ word >> 31
