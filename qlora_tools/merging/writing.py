"""From a plan to the shards of a merged model: slices are computed by as many threads as the processor has."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
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
from .shards import Put, Shard, copy_slices, write_shard

# Each thread holds a few working copies of a slice: with more, memory grows and the disk sets the pace anyhow.
_MOST_THREADS = 8
T = TypeVar("T")


@dataclass
class WeightError:
    """How far the dequantised weights are from the original ones: sums of squares over all quantised tensors."""

    differences: float = 0.0
    originals: float = 0.0

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

    def write(self, shards: list[Shard]) -> None:
        """Write those that are missing. Raises `WorkStopped` between two tensors, `OSError`, and `ModelError` for NaN."""
        total = sum(shard.size_bytes for shard in shards)
        threads = min(os.cpu_count() or 1, _MOST_THREADS)
        with one_thread_each(), ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as syncing:
            synced: list[Future[None]] = []
            for shard in shards:
                if (self.directory / shard.name).is_file():
                    self._tell(shard.size_bytes, total)
                else:
                    synced.append(write_shard(self.directory, shard, self._filler(pool, total), syncing))
            for future in synced:
                future.result()

    def _filler(self, pool: ThreadPoolExecutor, total: int) -> Callable[[OutputTensor, int, Put], None]:
        def fill(tensor: OutputTensor, place: int, put: Put) -> None:
            if self.stop():
                raise WorkStopped(f"Merging was stopped after {self._done / 1e9:.1f} GB.")
            if tensor.is_copy:
                _spread(pool, lambda part: _copy(tensor, place, put, *part), copy_slices(tensor.source.size_bytes))
            else:
                self._compute(tensor, place, put, pool)
            self._tell(tensor.size_bytes, total)

        return fill

    def _tell(self, size: int, total: int) -> None:
        self._done += size
        self.on_event(RunEvent("progress", "bytes merged", {"done": self._done, "total": total}))

    def _compute(self, tensor: OutputTensor, place: int, put: Put, pool: ThreadPoolExecutor) -> None:
        slices = list(row_slices(tensor))
        trip = self._round_trip(tensor, slices, pool) if tensor.quantized else None
        read = [Factors.read(addition, self._files) for addition in tensor.additions]
        factors = [one.with_norms(lambda *part: self._base_rows(tensor, trip, *part)[0], slices) for one in read]
        row_bytes = rows_and_width(tensor.source)[1] * BYTES_OF[tensor.dtype]

        def merge_slice(part: tuple[int, int]) -> tuple[float, float]:
            weight, sums = self._base_rows(tensor, trip, *part)
            for one in factors:
                weight = one.applied(weight, *part, tensor.name)
            weight = replaced_rows(tensor, weight, part[0], self._files)
            _require_finite(weight, tensor)
            merged = self._scratch.room("merged", weight.numel(), TORCH_DTYPE[tensor.dtype]).view(weight.shape)
            put(place + part[0] * row_bytes, _bytes(merged.copy_(weight)))
            return sums

        for differences, originals in _spread(pool, merge_slice, slices):
            self.error.differences += differences
            self.error.originals += originals

    def _round_trip(self, tensor: OutputTensor, slices: list[tuple[int, int]], pool: ThreadPoolExecutor) -> RoundTrip:
        return round_trip(
            self.quantization,
            lambda first, last: self._loaded(tensor, first, last),
            rows_and_width(tensor.source),
            slices,
            lambda function, parts: _spread(pool, function, parts),
            self._scratch,
        )

    def _loaded(self, tensor: OutputTensor, first: int, last: int) -> torch.Tensor:
        return loaded_rows(self._files, tensor, self.loaded_as, (first, last))

    def _base_rows(
        self, tensor: OutputTensor, trip: RoundTrip | None, first: int, last: int
    ) -> tuple[torch.Tensor, tuple[float, float]]:
        """Rows of the base in fp32, and what quantising them changed."""
        loaded = self._loaded(tensor, first, last)
        if trip is None:
            return self._scratch.fp32("base", loaded), (0.0, 0.0)
        base = trip.of(loaded, first, self._scratch)
        plain = self._scratch.fp32("found", loaded.reshape(-1))
        originals = float(torch.dot(plain, plain))
        plain.sub_(base.reshape(-1))
        return base, (float(torch.dot(plain, plain)), originals)


def _copy(tensor: OutputTensor, place: int, put: Put, first: int, size: int) -> None:
    for begin, piece in pieces(tensor.source, first, size):
        put(place + begin, piece)


def _spread(
    pool: ThreadPoolExecutor, function: Callable[[tuple[int, int]], T], parts: Iterable[tuple[int, int]]
) -> list[T]:
    return list(pool.map(function, parts))


def _require_finite(merged: torch.Tensor, tensor: OutputTensor) -> None:
    """NaN and what the stored dtype cannot hold: one pass finds both, where `isfinite` takes three."""
    if not merged.numel():
        return
    least, most = torch.aminmax(merged)
    bound = torch.finfo(TORCH_DTYPE[tensor.dtype]).max
    if not (-bound <= float(least) and float(most) <= bound):
        raise ModelError(
            f"The merged {tensor.name} has numbers that are not finite in {tensor.dtype}.",
            next_step="Merge with --dtype bfloat16 or float32; where that fails too, adapter or base is damaged.",
        )


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.contiguous().view(torch.uint8).numpy().reshape(-1))
