"""The GPU that an estimate is for; where none is named, that of this machine counts, with what is free on it now."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..models.gpu_here import gpu_here
from ..models.gpus import gpu_from_hardware_name
from ..models.hardware import Hardware
from ..results import MemoryReport
from .report import GIB, Task, estimate_memory

# A GPU that others fill has next to nothing free, and half a GiB is the smallest limit.
_LEAST_GIB = 0.5


@dataclass(frozen=True)
class Target:
    """The GPU to plan for; `found` is that of this machine, where none was named."""

    gpu: str | None
    limit_gib: float | None
    found: Hardware | None = None

    @classmethod
    def named_or_here(cls, gpu: str | None, memory_limit_gib: float | None, task: Task) -> "Target":
        """The GPU or limit that is given, else the GPU of this machine; no GPU for merging, which needs none."""
        if gpu is not None or memory_limit_gib is not None or task == "merging":
            return cls(gpu, memory_limit_gib)
        found = gpu_here()
        if found is None:
            return cls(None, None)
        known = gpu_from_hardware_name(found.name)
        return cls(known.name if known else None, max(_LEAST_GIB, found.free_memory_bytes / GIB), found)

    def estimate(self, model: str, *, task: Task, settings: Mapping[str, Any] | None = None) -> MemoryReport:
        """As `estimate_memory`, for this GPU."""
        report = estimate_memory(model, gpu=self.gpu, memory_limit_gib=self.limit_gib, task=task, settings=settings)
        if self.found is None:
            return report
        free, whole = self.found.free_memory_bytes / GIB, self.found.memory_bytes / GIB
        note = f"{self.found.name} is the GPU of this machine; {free:.2f} of its {whole:.2f} GiB are free now."
        return report.model_copy(update={"gpu": self.found.name, "notes": [*report.notes, note]})
