"""What tensors safetensors files hold, from their headers alone: names, shapes and places, without torch.

The format (https://huggingface.co/docs/safetensors): eight bytes with the length of the header, the header as JSON with
dtype, shape and offsets of each tensor, then the data.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
# The format allows no longer header.
_LONGEST_HEADER = 100_000_000
BYTES_OF = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
FLOATING = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: `begin` and `end` are places in bytes from the start of the file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """What it takes in the file."""
        return self.end - self.begin


def file_tensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, in the order of their places. Raises `ModelError` for a file that is cut off or damaged."""
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
                raise ValueError("it is cut off, or no safetensors file")
            header = json.loads(opened.read(length))
        found = [_stored(file, name, told, 8 + length) for name, told in header.items() if name != "__metadata__"]
        _require_whole(found, 8 + length, size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} cannot be read: {error}.", next_step="Fetch or copy the file again.") from None
    return {tensor.name: tensor for tensor in found}


def model_tensors(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of a model directory, of one file or of shards. Raises `ModelError` where one is missing or damaged."""
    index = directory / INDEX_FILE
    if not index.is_file():
        return file_tensors(directory / SINGLE_FILE)
    try:
        places: dict[str, str] = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{index} is not a valid index of shards.", next_step="Fetch the model again.") from None
    shards = {shard: file_tensors(_beside(index, shard)) for shard in dict.fromkeys(places.values())}
    missing = [name for name, shard in places.items() if name not in shards[shard]]
    if missing:
        raise ModelError(
            f"{directory} lacks {len(missing)} tensors that its index names ({', '.join(missing[:3])}).",
            next_step="Fetch the model again; a download may have been cut off.",
        )
    return {name: tensors[name] for tensors in shards.values() for name in tensors if name in places}


def _beside(index: Path, shard: str) -> Path:
    if Path(shard).name != shard:
        raise ModelError(f"{index} names a file elsewhere: {shard[:80]!a}.", next_step="Fetch the model again.")
    return index.parent / shard


def _stored(file: Path, name: str, told: Mapping[str, Any], start: int) -> StoredTensor:
    begin, end = (int(value) for value in told["data_offsets"])
    tensor = StoredTensor(
        name, file, str(told["dtype"]), tuple(int(n) for n in told["shape"]), start + begin, start + end
    )
    if tensor.dtype in BYTES_OF and tensor.size_bytes != tensor.elements * BYTES_OF[tensor.dtype]:
        raise ValueError(f"the tensor {name} has another size than its shape says")
    return tensor


def _require_whole(tensors: list[StoredTensor], start: int, size: int) -> None:
    place = start
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    for tensor in tensors:
        if tensor.begin != place:
            raise ValueError(f"the tensor {tensor.name} does not begin where the one before ends")
        place = tensor.end
    if place != size:
        raise ValueError(f"it has {size:,} bytes and its header describes {place:,}")
