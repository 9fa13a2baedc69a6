"""Rows of a cache of keys and values: choosing some, and joining those of several caches into one.

Rows stand at the right edge of their cache, padded on the left, so rows of any length can stand side by side and the cache
of a batch is never wider than its longest row.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


def can_regroup(cache: Any) -> bool:
    """Whether the rows of this cache can be told apart: true of plain and of sliding attention, not of other states."""
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return type(cache) is DynamicCache and all(type(layer) in kinds for layer in cache.layers)


def regrouped(caches: Sequence[Any], kept: Sequence[Sequence[int]], width: int) -> Any:
    """One cache of `width` tokens with the rows `kept` of each cache, in that order. The caches are used up.

    Layers that hold nothing, because they share the keys of others, stay as they are.
    """
    first = caches[0]
    for number, layer in enumerate(first.layers):
        if not layer.is_initialized:
            continue
        room = min(width, layer.sliding_window - 1) if layer.is_sliding else width
        layers = [cache.layers[number] for cache in caches]
        for name in ("keys", "values"):
            parts = [_rows(getattr(one, name), rows, room) for one, rows in zip(layers, kept, strict=True)]
            setattr(layer, name, torch.cat(parts) if len(parts) > 1 else parts[0])
            for one in layers[1:]:
                setattr(one, name, None)  # One layer is doubled at a time, not the whole cache.
        if layer.is_sliding:
            layer.cumulative_length = width
    return first


def _rows(states: torch.Tensor, rows: Sequence[int], width: int) -> torch.Tensor:
    """[rows, heads, tokens, size]: the rows asked for, cut or padded on the left to `width` tokens."""
    chosen = states[torch.tensor(rows, device=states.device)] if len(rows) < len(states) else states
    return pad(chosen[:, :, -width:], (0, 0, max(0, width - chosen.shape[2]), 0))
