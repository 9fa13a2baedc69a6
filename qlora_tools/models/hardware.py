"""What the machine that trains has, as plain data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Hardware:
    """The device that a run uses. Memory in bytes: of the GPU, or of the host where there is none."""

    kind: Literal["cuda", "cpu"]
    name: str
    memory_bytes: int
    free_memory_bytes: int
    computes_bfloat16: bool
    compute_capability: tuple[int, int] | None = None
