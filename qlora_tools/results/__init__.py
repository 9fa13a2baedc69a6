"""What the operations return. Plain pydantic models: `model_dump(mode="json")` is what `--json` prints."""

from .answers import Answer, GenerateResult, MergeResult, ParityResult
from .data import (
    DatasetReport,
    Finding,
    LengthSummary,
    LimitShare,
    MappingProposal,
    MaskedRow,
    MaskPiece,
    PackingSummary,
    RowMapping,
)
from .memory import (
    HostMemory,
    MemoryReport,
    PastRuns,
    ProbePart,
    ProbeResult,
)
from .training import Recovery, RowCounts, TrainResult

__all__ = [
    "Answer",
    "DatasetReport",
    "Finding",
    "GenerateResult",
    "HostMemory",
    "LengthSummary",
    "LimitShare",
    "MappingProposal",
    "MaskPiece",
    "MaskedRow",
    "MemoryReport",
    "MergeResult",
    "PackingSummary",
    "ParityResult",
    "PastRuns",
    "ProbePart",
    "ProbeResult",
    "Recovery",
    "RowCounts",
    "RowMapping",
    "TrainResult",
]
