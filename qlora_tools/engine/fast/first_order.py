"""The mark of a backward pass that cannot be differentiated again: asking for it raises instead of giving a wrong number."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch.autograd.function import once_differentiable

_Backward = TypeVar("_Backward", bound=Callable[..., Any])


def first_order(backward: _Backward) -> _Backward:
    """`torch.autograd.function.once_differentiable` with its type kept."""
    marked: _Backward = once_differentiable(backward)
    return marked
