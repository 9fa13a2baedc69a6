"""Collators: the tensors that the model sees. Data checks look at labels through these very functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .rows import IGNORED

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PaddedCollator:
    """Rows padded on the right to the longest: `input_ids`, `attention_mask`, `labels`, each `[rows, longest]`."""

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Tensors of one micro-batch."""
        longest = max(len(row["input_ids"]) for row in rows)
        return {
            "input_ids": _padded([row["input_ids"] for row in rows], longest, self.pad_token_id),
            "attention_mask": _padded([[1] * len(row["input_ids"]) for row in rows], longest, 0),
            "labels": _padded([row["labels"] for row in rows], longest, IGNORED),
        }


@dataclass(frozen=True)
class FlatCollator:
    """Rows joined into one without padding: `input_ids`, `labels`, `position_ids`, each `[1, tokens]`.

    Positions restart with each row; that, and the absence of a mask, is how attention knows where rows end.
    """

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Tensors of one micro-batch."""
        lengths = [length for row in rows for length in row.get("lengths") or (len(row["input_ids"]),)]
        labels = torch.tensor([[label for row in rows for label in row["labels"]]])
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        # The first token of a row would be predicted from the row before it.
        labels[positions == 0] = IGNORED
        return {
            "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
            "labels": labels,
            "position_ids": positions,
        }


def _padded(values: list[list[int]], length: int, filler: int) -> torch.Tensor:
    return torch.tensor([value + [filler] * (length - len(value)) for value in values])
