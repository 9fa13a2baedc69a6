"""Inputs of layers that wait in the memory of the host until the backward pass needs them."""

from dataclasses import dataclass

import torch
from torch import Tensor

# torch rounds page-locked memory up to powers of two: pieces of one lose nothing, and serve micro-batches of all sizes.
_PIECE_BYTES = 2**24


@dataclass
class _Waiting:
    """Where one tensor waits, its shape, and what was fetched ahead."""

    pieces: list[Tensor]
    shape: torch.Size
    fetched: Tensor | None = None
    ready: torch.cuda.Event | None = None


class Host:
    """A stack in page-locked memory: last in, first out. Copies run on a stream of their own, beside the computing.

    What is under the tensor that is taken is fetched at the same time, so that it is there when its turn comes. The memory
    is kept for the next micro-batch.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype, self._stream = device, dtype, torch.cuda.Stream(device)
        self._stack: list[_Waiting] = []
        self._spare: list[Tensor] = []

    def put(self, x: Tensor) -> int:
        """Copies `x`, contiguous; returns the number to take it by. The caller may let go of it at once."""
        parts = self._parts(x)
        waiting = _Waiting([self._piece() for _ in parts], x.shape)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for piece, part in zip(waiting.pieces, parts, strict=True):
                piece[: part.numel()].copy_(part, non_blocking=True)
        x.record_stream(self._stream)  # its memory is not given out again before the copies have been made
        self._stack.append(waiting)
        return len(self._stack) - 1

    def take(self, number: int) -> Tensor:
        """The tensor that was put last, on the device again.

        Raises:
            RuntimeError: It is not the last, or was taken before: what waits here serves one backward pass.
        """
        if number != len(self._stack) - 1:
            raise RuntimeError(
                f"input {number} does not wait on the host: it serves one backward pass, from last to first"
            )
        waiting = self._fetch(self._stack[number])
        if number:
            self._fetch(self._stack[number - 1])
        assert waiting.fetched is not None and waiting.ready is not None
        torch.cuda.current_stream(self._device).wait_event(waiting.ready)
        self._spare += self._stack.pop().pieces
        return waiting.fetched

    def clear(self) -> None:
        """Forgets what a backward pass that broke off has left."""
        if self._stack:  # what is being fetched goes to memory that is given back here
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        for waiting in self._stack:
            self._spare += waiting.pieces
        self._stack.clear()

    def _fetch(self, waiting: _Waiting) -> _Waiting:
        if waiting.fetched is None:
            # Made on the computing stream, where it will be used and freed; the copy waits for what that memory held before.
            waiting.fetched = torch.empty(waiting.shape, dtype=self._dtype, device=self._device)
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                for piece, part in zip(waiting.pieces, self._parts(waiting.fetched), strict=True):
                    part.copy_(piece[: part.numel()], non_blocking=True)
                waiting.ready = torch.cuda.Event()
                waiting.ready.record(self._stream)
        return waiting

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = x.view(-1).split(_PIECE_BYTES // self._dtype.itemsize)
        return parts

    def _piece(self) -> Tensor:
        if self._spare:
            return self._spare.pop()
        return torch.empty(_PIECE_BYTES // self._dtype.itemsize, dtype=self._dtype, pin_memory=True)
