"""What a merge starts from, found and checked from headers."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..adapters.record import AdapterRecord
from ..models.reference import ResolvedModel
from ..models.stored_tensors import StoredTensor
from .plan import WeightedAdapter


@dataclass(frozen=True)
class Found:
    """Adapters that fit their base, and where its tensors lie."""

    adapters: tuple[WeightedAdapter, ...]
    record: AdapterRecord
    resolved: ResolvedModel
    tensors: Mapping[str, StoredTensor]
