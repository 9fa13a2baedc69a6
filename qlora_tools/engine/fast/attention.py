"""Attention of rows that lie side by side: each token sees the earlier ones of its own row."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .rows import Rows

# 2.10 has another signature, and 2.11 takes as many key heads as query heads only.
_TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
# cuDNN, which torch prefers on Hopper, is faster than flash attention, but plans anew for every length it has not met:
# tenths of a second each, in which the GPU waits. Lengths that are chosen are multiples of this, those that occur are not.
_PLANNED_LENGTH = 128


@dataclass(frozen=True)
class Attention:
    """Attention that was computed: its inputs `[tokens, heads, size]` and what they gave, `[tokens, heads * size]`."""

    query: Tensor
    key: Tensor
    value: Tensor
    seen: Tensor

    def gradients(self, of_seen: Tensor) -> tuple[Tensor, ...]:
        """Those of query, key and value."""
        found: tuple[Tensor, ...] = torch.autograd.grad(self.seen, (self.query, self.key, self.value), of_seen)
        return found


def attention(query: Tensor, key: Tensor, value: Tensor, rows: Rows, window: int | None, *, keep: bool) -> Attention:
    """`attend` with what its backward pass needs, where that is to be kept."""
    query, key, value = (part.detach().requires_grad_(keep) for part in (query, key, value))
    with torch.set_grad_enabled(keep):
        return Attention(query, key, value, attend(query, key, value, rows, window))


def attend(query: Tensor, key: Tensor, value: Tensor, rows: Rows, window: int | None) -> Tensor:
    """Causal attention within each row, `[tokens, heads, size]` to `[tokens, heads * size]`; key heads may be fewer.

    A token sees itself and what is before it, `window` tokens at most where that is given.
    """
    longest = max(rows.lengths)
    limit = window if window is not None and window < longest else None
    alike, flash = len(set(rows.lengths)) == 1, _has_flash_attention(query)
    if flash and not (alike and limit is None):
        return _by_lengths(query, key, value, rows, limit).flatten(1)
    # On a GPU only flash attention takes fewer key heads than query heads.
    if query.is_cuda and not flash and query.shape[1] != key.shape[1]:
        key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for part in (key, value))
    if alike:
        return _equal_rows(query, key, value, longest, limit)
    split = [part.split(rows.lengths) for part in (query, key, value)]
    return torch.cat([_equal_rows(q, k, v, q.shape[0], limit) for q, k, v in zip(*split, strict=True)])


def _equal_rows(query: Tensor, key: Tensor, value: Tensor, length: int, window: int | None) -> Tensor:
    q, k, v = (part.unflatten(0, (-1, length)).transpose(1, 2) for part in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    mask = _band(length, window, query.device) if window is not None and window < length else None
    with _backends(query, length):
        seen = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
    return seen.transpose(1, 2).flatten(0, 1).flatten(1)


def _backends(query: Tensor, length: int) -> AbstractContextManager[None]:
    if not query.is_cuda or length % _PLANNED_LENGTH == 0:
        return nullcontext()
    others = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    chosen: AbstractContextManager[None] = sdpa_kernel(others)
    return chosen


def _band(length: int, window: int, device: torch.device) -> Tensor:
    place = torch.arange(length, device=device)
    back = place[:, None] - place[None]
    return (back >= 0) & (back < window)


def _has_flash_attention(query: Tensor) -> bool:
    if not query.is_cuda or query.dtype == torch.float32 or _TORCH < (2, 11):
        return False
    return bool(torch.cuda.get_device_capability(query.device) >= (8, 0))


def _by_lengths(query: Tensor, key: Tensor, value: Tensor, rows: Rows, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = max(rows.lengths)
    seen = (-1 if window is None else window - 1, 0)
    grouped = query.shape[1] // key.shape[1]
    options: dict[str, Any] = {}
    if grouped > 1 and _TORCH < (2, 12):
        key, value = (part.repeat_interleave(grouped, dim=1) for part in (key, value))
    elif grouped > 1:
        options["enable_gqa"] = True
    found: Tensor = varlen_attn(
        query, key, value, rows.starts, rows.starts, longest, longest, window_size=seen, **options
    )
    return found
