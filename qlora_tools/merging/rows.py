"""Rows of stored weights in fp32: as they are stored, or as they were when the adapter was trained."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from .arithmetic import replaced_rows, row_slices, rows_and_width
from .dequantized import RoundTrip, round_trip
from .plan import OutputTensor
from .reading import MappedFiles, Scratch

if TYPE_CHECKING:
    from .merge import MergeTask

Rows = Callable[[int, int], torch.Tensor]


def loaded_rows(files: MappedFiles, tensor: OutputTensor, dtype: str | None, part: tuple[int, int]) -> torch.Tensor:
    """Rows of the source as they were loaded for training, in `dtype`; as they are stored where it is None."""
    first, last = part
    rows = files.tensor(tensor.source).reshape(rows_and_width(tensor.source))[first:last]
    return rows if dtype is None else rows.to(getattr(torch, dtype))


def plain_rows() -> Callable[[OutputTensor], Rows]:
    """Rows as they lie in the files."""
    files = MappedFiles()

    def of(tensor: OutputTensor) -> Rows:
        def rows(first: int, last: int) -> torch.Tensor:
            return loaded_rows(files, tensor, None, (first, last)).to(torch.float32, copy=True)

        return rows

    return of


def trained_rows(task: "MergeTask") -> Callable[[OutputTensor], Rows]:
    """Rows of the base that a merge starts from: rounded and dequantised where that was asked for."""
    files, scratch = MappedFiles(), Scratch()
    dtype = task.loaded_as

    def of(tensor: OutputTensor) -> Rows:
        trip: list[RoundTrip] = []

        def loaded(first: int, last: int) -> torch.Tensor:
            return loaded_rows(files, tensor, dtype, (first, last))

        def rows(first: int, last: int) -> torch.Tensor:
            if not tensor.quantized:
                return replaced_rows(tensor, loaded(first, last).to(torch.float32, copy=True), first, files)
            if first == 0:
                # Constants of all layers together would be half a gigabyte, so they are found again for each pass.
                shape = rows_and_width(tensor.source)
                trip[:] = [round_trip(task.quantization, loaded, shape, list(row_slices(tensor)), _one_by_one, scratch)]
            found = loaded(first, last)
            return trip[0].of(scratch.fp32("plain", found), found.dtype, first, scratch).clone()

        return rows

    return of


def _one_by_one(function: Callable[[tuple[int, int]], None], parts: Sequence[tuple[int, int]]) -> None:
    for part in parts:
        function(part)
