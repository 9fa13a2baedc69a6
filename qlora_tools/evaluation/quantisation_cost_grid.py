"""Whether weights were quantised before they were stored as 16 bits: then a block takes at most 16 different values.

The error of quantising such weights again says nothing about the original ones.
"""

from dataclasses import dataclass

import torch

from ..results.instruments import GridFinding

# Formats of 4 bits share a scale over 32 weights of a row or a multiple of it.
_BLOCK = 32
_LEVELS = 16
# Pruned weights are zero for another reason, so zeros do not count and blocks of many are left out.
_LEAST_NONZERO = 24
_MOST_SHARE = 0.9
_ROWS_LOOKED_AT = 64


@dataclass
class GridCount:
    """Counts over blocks of many tensors."""

    blocks: int = 0
    distinct: int = 0
    few: int = 0

    def add(self, part: torch.Tensor) -> None:
        """Look at the first rows of a slice `[rows, width]`; what does not fill a block is left out."""
        width = part.shape[1] // _BLOCK * _BLOCK
        blocks = part[:_ROWS_LOOKED_AT, :width].reshape(-1, _BLOCK).float().sort(dim=1).values
        nonzero = (blocks != 0).sum(1)
        steps = (blocks[:, 1:] != blocks[:, :-1]).sum(1) + 1
        distinct = (steps - (nonzero < _BLOCK).long())[nonzero >= _LEAST_NONZERO]
        self.blocks += len(distinct)
        self.distinct += int(distinct.sum())
        self.few += int((distinct <= _LEVELS).sum())

    def finding(self) -> GridFinding:
        """What the counts say; without a block to look at, nothing is found."""
        blocks = max(1, self.blocks)
        share = self.few / blocks
        return GridFinding(
            block=_BLOCK,
            blocks=self.blocks,
            mean_distinct=self.distinct / blocks,
            share_of_blocks=share,
            on_grid=share > _MOST_SHARE,
        )
