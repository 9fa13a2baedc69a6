"""From a plan to the shards of a merged model.

Slices are computed by as many threads as the processor has. What is copied is copied by one more thread meanwhile: only
one at a time can write into a file, so that two threads that do nothing else wait for each other.
"""

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from ..config.schema import QuantizationConfig
from ..errors import ModelError, WorkStopped
from ..events import Listener, RunEvent, StopAsked
from ..models.stored_tensors import BYTES_OF
from .arithmetic import Factors, replaced_rows, row_slices, rows_and_width
from .dequantized import RoundTrip, round_trip
from .plan import OutputTensor
from .reading import TORCH_DTYPE, MappedFiles, Scratch, one_thread_each, pieces
from .rows import loaded_rows
from .shards import Fill, Put, Shard, write_shard

# Each thread holds a few working copies of a slice: with more, memory grows and the disk sets the pace anyhow.
_MOST_THREADS = 8
T = TypeVar("T")


@dataclass
class WeightError:
    """How far the dequantised weights are from the original ones: sums of squares over all quantised tensors."""

    differences: float = 0.0
    originals: float = 0.0

    def add(self, sums: Sequence[tuple[float, float]]) -> None:
        """What slices of one tensor tell, in any order."""
        self.differences += math.fsum(differences for differences, _ in sums)
        self.originals += math.fsum(originals for _, originals in sums)

    @property
    def relative(self) -> float | None:
        """||dequantised - original|| / ||original|| (Frobenius); None where nothing was quantised."""
        return (self.differences / self.originals) ** 0.5 if self.originals else None


@dataclass
class ShardWriter:
    """Writes the shards of one merge into `directory`; those that are there already are kept.

    `loaded_as` is the dtype in which the base was loaded for training where that rounds (its quantised weights come of it),
    or None for the weights as they are stored.
    """

    directory: Path
    quantization: QuantizationConfig
    loaded_as: str | None
    on_event: Listener
    stop: StopAsked
    error: WeightError = field(default_factory=WeightError)
    _files: MappedFiles = field(default_factory=MappedFiles)
    _scratch: Scratch = field(default_factory=Scratch)
    _done: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def write(self, shards: list[Shard]) -> None:
        """Write those that are missing. Raises `WorkStopped` between two tensors, `OSError`, and `ModelError` for NaN."""
        total = sum(shard.size_bytes for shard in shards)
        with one_thread_each(), Crew() as crew, ThreadPoolExecutor(1) as aside, ThreadPoolExecutor(1) as syncing:
            synced: list[Future[None]] = []
            for shard in shards:
                if (self.directory / shard.name).is_file():
                    self._done += shard.size_bytes
                    self._tell(total)
                else:
                    synced.append(write_shard(self.directory, shard, self._filler(crew, aside, total), syncing))
            for future in synced:
                future.result()

    def _filler(self, crew: "Crew", aside: Executor, total: int) -> Fill:
        def fill(placed: Sequence[tuple[OutputTensor, int]], put: Put) -> None:
            copies = [aside.submit(self._copy, *one, put) for one in placed if one[0].is_copy]
            try:
                for tensor, place in placed:
                    if not tensor.is_copy:
                        self._compute(tensor, place, put, crew)
                        self._tell(total)
                for copy in copies:
                    copy.result()
                    self._tell(total)
            finally:
                # Nothing may be written any more when the file is closed.
                for copy in copies:
                    copy.cancel()
                wait(copies)

        return fill

    def _go_on(self) -> None:
        if self.stop():
            raise WorkStopped(f"Merging was stopped after {self._done / 1e9:.1f} GB.")

    def _count(self, tensor: OutputTensor) -> None:
        with self._counting:
            self._done += tensor.size_bytes

    def _tell(self, total: int) -> None:
        self.on_event(RunEvent("progress", "bytes merged", {"done": self._done, "total": total}))

    def _copy(self, tensor: OutputTensor, place: int, put: Put) -> None:
        self._go_on()
        for begin, piece in pieces(tensor.source):
            put(place + begin, piece)
        self._count(tensor)

    def _compute(self, tensor: OutputTensor, place: int, put: Put, crew: "Crew") -> None:
        self._go_on()
        slices = list(row_slices(tensor))
        trip = self._round_trip(tensor, slices, crew) if tensor.quantized else None
        read = [Factors.read(addition, self._files) for addition in tensor.additions]
        factors = [one.with_norms(lambda *part: self._base_rows(tensor, trip, *part)[0], slices) for one in read]
        row_bytes = rows_and_width(tensor.source)[1] * BYTES_OF[tensor.dtype]

        def merge_slice(part: tuple[int, int]) -> tuple[float, float]:
            weight, sums = self._base_rows(tensor, trip, *part)
            for one in factors:
                weight = one.applied(weight, *part, tensor.name)
            weight = replaced_rows(tensor, weight, part[0], self._files)
            merged = self._scratch.room("merged", weight.numel(), TORCH_DTYPE[tensor.dtype]).view(weight.shape)
            _require_finite(merged.copy_(weight), tensor)
            put(place + part[0] * row_bytes, _bytes(merged))
            return sums

        self.error.add(crew.each(merge_slice, slices))
        self._count(tensor)

    def _round_trip(self, tensor: OutputTensor, slices: list[tuple[int, int]], crew: "Crew") -> RoundTrip:
        return round_trip(
            self.quantization,
            lambda first, last: self._loaded(tensor, first, last),
            rows_and_width(tensor.source),
            slices,
            crew.each,
            self._scratch,
        )

    def _loaded(self, tensor: OutputTensor, first: int, last: int) -> torch.Tensor:
        return loaded_rows(self._files, tensor, self.loaded_as, (first, last))

    def _base_rows(
        self, tensor: OutputTensor, trip: RoundTrip | None, first: int, last: int
    ) -> tuple[torch.Tensor, tuple[float, float]]:
        """Rows of the base in fp32, and what quantising them changed."""
        loaded = self._loaded(tensor, first, last)
        plain = self._scratch.fp32("plain", loaded)
        if trip is None:
            return plain, (0.0, 0.0)
        base = trip.of(plain, loaded.dtype, first, self._scratch)
        flat = plain.view(-1)
        originals = float(torch.dot(flat, flat))
        flat.sub_(base.view(-1))
        return base, (float(torch.dot(flat, flat)), originals)


class Crew(ThreadPoolExecutor):
    """As many threads as the processor has."""

    def __init__(self) -> None:
        self._count = min(os.cpu_count() or 1, _MOST_THREADS)
        super().__init__(self._count)

    def each(self, function: Callable[[tuple[int, int]], T], parts: Sequence[tuple[int, int]]) -> list[T]:
        """What `function` gives for the parts, in any order; when it raises, no part is being worked on any more.

        Each thread takes the next part by itself: a future for each would wake the waiting thread as often.
        """
        waiting = iter(parts)
        futures = [self.submit(lambda: [function(part) for part in waiting]) for _ in range(self._count)]
        wait(futures)
        return [result for future in futures for result in future.result()]


def _require_finite(merged: torch.Tensor, tensor: OutputTensor) -> None:
    """NaN and what the stored dtype cannot hold: a sum is finite only where all numbers are, and takes one quick pass."""
    if not math.isfinite(float(merged.sum())) and not bool(merged.isfinite().all()):
        raise ModelError(
            f"The merged {tensor.name} has numbers that are not finite in {tensor.dtype}.",
            next_step="Merge with --dtype bfloat16 or float32; where that fails too, adapter or base is damaged.",
        )


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.contiguous().view(torch.uint8).numpy().reshape(-1))
