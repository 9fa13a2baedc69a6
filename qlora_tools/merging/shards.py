"""Writing tensors into safetensors shards, slice by slice and by several threads, each shard whole or not at all.

The sizes are known before, so a file gets its header and its length first and its slices in any order. A shard that is
finished has its own name; what was cut off has not, and is written again by the next try.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from ..durable import replace_file, sync_directory, sync_file
from ..models.stored_tensors import INDEX_FILE, SINGLE_FILE
from .plan import MergePlan, OutputTensor

_ALIGNMENT = 8
# How often what was written is sent to the disk while more is computed, in seconds.
_FLUSH_SECONDS = 0.2

# Writes bytes to a place in the file that is being made.
Put = Callable[[int, memoryview | bytes], None]
# Puts tensors, each of which begins at a place.
Fill = Callable[[Sequence[tuple[OutputTensor, int]], Put], None]


@dataclass(frozen=True)
class Shard:
    """One file: its tensors, and where each begins after the header."""

    name: str
    tensors: tuple[OutputTensor, ...]

    @property
    def size_bytes(self) -> int:
        """Of its tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    def header(self) -> bytes:
        """Length and JSON, padded so that the data is aligned."""
        place = 0
        told: dict[str, Mapping[str, object]] = {"__metadata__": {"format": "pt"}}
        for tensor in self.tensors:
            end = place + tensor.size_bytes
            told[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.source.shape),
                "data_offsets": [place, end],
            }
            place = end
        text = json.dumps(told, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        return len(text).to_bytes(8, "little") + text


def shards_of(plan: MergePlan, most_bytes: int) -> list[Shard]:
    """The tensors in their order, as files of at most `most_bytes` (a larger tensor has one of its own)."""
    groups: list[list[OutputTensor]] = [[]]
    for tensor in plan.tensors:
        held = sum(one.size_bytes for one in groups[-1])
        if groups[-1] and held + tensor.size_bytes > most_bytes:
            groups.append([])
        groups[-1].append(tensor)
    if len(groups) == 1:
        return [Shard(SINGLE_FILE, tuple(groups[0]))]
    total = len(groups)
    return [Shard(f"model-{n:05d}-of-{total:05d}.safetensors", tuple(group)) for n, group in enumerate(groups, 1)]


def write_index(directory: Path, shards: Sequence[Shard]) -> None:
    """The index that loaders read where there is more than one shard."""
    if len(shards) == 1:
        return
    places = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    total = sum(shard.size_bytes for shard in shards)
    document = {"metadata": {"total_size": total}, "weight_map": places}
    replace_file(directory / INDEX_FILE, json.dumps(document, indent=2).encode() + b"\n")


def write_shard(directory: Path, shard: Shard, fill: Fill, syncing: Executor) -> "Future[None]":
    """Write one shard, whose tensors `fill` puts. The future is done when the file has its name.

    What is in the page cache goes to the disk in the background, while more is computed.
    """
    partial = directory / f".{shard.name}.partial"
    header, filled = shard.header(), threading.Event()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(descriptor, header, 0)
        os.ftruncate(descriptor, len(header) + shard.size_bytes)
        flushing = syncing.submit(_flush, partial, filled)
        fill(list(_places(shard, len(header))), lambda offset, data: _put(descriptor, offset, data))
    finally:
        filled.set()
        os.close(descriptor)
    return syncing.submit(_publish, partial, directory / shard.name, flushing)


def _places(shard: Shard, place: int) -> Iterator[tuple[OutputTensor, int]]:
    for tensor in shard.tensors:
        yield tensor, place
        place += tensor.size_bytes


def _put(descriptor: int, offset: int, data: memoryview | bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _flush(partial: Path, filled: threading.Event) -> None:
    while not filled.wait(_FLUSH_SECONDS):
        sync_file(partial)


def _publish(partial: Path, file: Path, flushing: "Future[None]") -> None:
    flushing.result()
    sync_file(partial)
    partial.rename(file)
    sync_directory(file.parent)
