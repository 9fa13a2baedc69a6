"""The frozen norm of a layer."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """An RMSNorm with its frozen weight."""

    weight: Tensor
    eps: float
