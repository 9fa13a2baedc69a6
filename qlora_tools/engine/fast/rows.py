"""The rows of a micro-batch side by side, without padding, with all that needs the host: lengths, and what is learnt."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ...data.collate import FlatCollator, PaddedCollator
from ...data.rows import IGNORED

BATCH_KEY = "side_by_side"


@dataclass(frozen=True)
class Rows:
    """One micro-batch: `tokens` and `positions` `[tokens]`, rows of `lengths` one behind the other, `starts` `[rows + 1]`.

    `places` are the tokens whose next one is learnt, `targets` what that is.
    """

    tokens: Tensor
    positions: Tensor
    places: Tensor
    targets: Tensor
    starts: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class RowsCollator:
    """The stock batch, so that the trainer counts what it always counts, and beside it the rows without padding."""

    stock: PaddedCollator | FlatCollator

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Tensors of one micro-batch; what `rows_of` reads lies under a key of its own."""
        lengths = [length for row in rows for length in row.get("lengths") or (len(row["input_ids"]),)]
        flat = FlatCollator()(rows)
        following = flat["labels"][0, 1:]
        places = (following != IGNORED).nonzero()[:, 0]
        beside = {
            "tokens": flat["input_ids"][0],
            "positions": flat["position_ids"][0],
            "places": places,
            "targets": following[places],
            "starts": torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
            "lengths": tuple(lengths),
        }
        return {**self.stock(rows), BATCH_KEY: beside}


def rows_of(batch: dict[str, Any]) -> Rows:
    """What `RowsCollator` put beside the stock batch, on the device that the trainer moved it to."""
    return Rows(**batch[BATCH_KEY])
