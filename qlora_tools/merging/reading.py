"""Tensors of safetensors files as views of mapped pages: nothing is copied before it is used, and nothing is held."""

import mmap
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import ModelError
from ..models.stored_tensors import StoredTensor

TORCH_DTYPE = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_PIECE_BYTES = 2**18


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

    def _map(self, file: Path) -> mmap.mmap:
        with self._lock:
            if file not in self._maps:
                with file.open("rb") as opened:
                    self._maps[file] = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
                _first_view(self._maps[file])
            return self._maps[file]


def pieces(stored: StoredTensor) -> Iterator[tuple[int, memoryview]]:
    """Its bytes, each piece with its place among them; gone when the next one comes.

    Reading them into memory that stays in a core's cache takes half the time of writing them out of mapped pages, which
    are mapped one by one for it. Raises `ModelError` where the file has become shorter.
    """
    room, first = memoryview(bytearray(_PIECE_BYTES)), 0
    with stored.file.open("rb", buffering=0) as opened:
        opened.seek(stored.begin)
        while first < stored.size_bytes:
            read = opened.readinto(room[: min(stored.size_bytes - first, _PIECE_BYTES)])
            if not read:
                raise ModelError(f"{stored.file} has become shorter.", next_step="Fetch the model or adapter again.")
            yield first, room[:read]
            first += read


def _first_view(mapped: mmap.mmap) -> None:
    """torch warns once, of its first view of pages that cannot be written to; nobody writes to these."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.frombuffer(mapped, dtype=torch.uint8, count=1)


class Scratch(threading.local):
    """Working memory of each thread, by name and dtype, used for slice after slice: fresh memory costs more than most passes.

    What was put into a room is gone when the room is asked for again.
    """

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def room(self, name: str, count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """`count` numbers of any value, one after the other."""
        held = self._rooms.get((name, dtype))
        if held is None or held.numel() < count:
            held = self._rooms[name, dtype] = torch.empty(count, dtype=dtype)
        return held[:count]

    def fp32(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """A copy of `values` in fp32, in their shape."""
        return self.room(name, values.numel()).view(values.shape).copy_(values)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch compute each slice in one thread: the slices themselves are spread over the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
