"""How many layers of the fast engine keep their activations: arithmetic alone, so that a plan needs no GPU and no torch."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class KeptLayers:
    """So many of all layers are kept, the last ones. `limit_bytes` decided it; None where the config says all or none.

    If `on_host`, the inputs of the others wait in the memory of the host.
    """

    count: int
    layers: int
    limit_bytes: int | None
    on_host: bool = False


def most_kept(needed_bytes: Callable[[int], int], layers: int, limit_bytes: int) -> int:
    """The largest number of `layers` with which `needed_bytes` is within the limit; 0 where none is.

    From one layer on, each further one needs more. The first may need less than none at all, since it is not computed again
    beside the gradient that comes in, so that nothing is concluded from none.
    """
    return bisect_right(range(1, layers + 1), limit_bytes, key=needed_bytes)
