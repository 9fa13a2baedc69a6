"""Tensors of safetensors files as views of mapped pages: nothing is copied before it is used, and nothing is held."""

import mmap
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..models.stored_tensors import StoredTensor

TORCH_DTYPE = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class MappedFiles:
    """Files that are mapped when they are first asked for. Threads may share it."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}
        self._lock = threading.Lock()

    def tensor(self, stored: StoredTensor) -> torch.Tensor:
        """The whole tensor as a view that must not be written to."""
        if stored.elements == 0:
            return torch.empty(stored.shape, dtype=TORCH_DTYPE[stored.dtype])
        mapped = self._map(stored.file)
        flat = torch.frombuffer(mapped, dtype=TORCH_DTYPE[stored.dtype], count=stored.elements, offset=stored.begin)
        return flat.reshape(stored.shape)

    def pages(self, stored: StoredTensor, first: int, size: int) -> memoryview:
        """Some of its bytes, as they lie in the file."""
        begin = stored.begin + first
        return memoryview(self._map(stored.file))[begin : begin + size]

    def _map(self, file: Path) -> mmap.mmap:
        with self._lock:
            if file not in self._maps:
                with file.open("rb") as opened:
                    self._maps[file] = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
                _first_view(self._maps[file])
            return self._maps[file]


def _first_view(mapped: mmap.mmap) -> None:
    """torch warns once, of its first view of pages that cannot be written to; nobody writes to these."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.frombuffer(mapped, dtype=torch.uint8, count=1)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch compute each slice in one thread: the slices themselves are spread over the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
