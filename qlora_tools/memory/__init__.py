"""How much memory a run takes, part by part: a ledger that is checked against measurements."""

from .estimate import MemoryEstimate, estimate_training
from .report import estimate_memory
from .training import Workload

__all__ = ["MemoryEstimate", "Workload", "estimate_memory", "estimate_training"]
