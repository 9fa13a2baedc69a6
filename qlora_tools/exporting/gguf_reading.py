"""Reading a GGUF file: its fields, and the rows of its tensors.

Written from the description of the format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The reader of the gguf
library keeps an array object for every string of the file: over a gigabyte for a vocabulary of 256,000 tokens.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_TYPES = {0: "F32", 1: "F16", 8: "Q8_0", 30: "BF16"}
# Numbers in a block, and its bytes.
_BLOCKS = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q8_0": (32, 34)}


@dataclass(frozen=True)
class FoundTensor:
    """A tensor in a file; its shape has the rows first, as in Transformers."""

    path: Path
    shape: tuple[int, ...]
    type_name: str
    place: int

    def rows(self, chosen: Any) -> Any:
        """Some rows, as fp32."""
        import gguf

        numbers, size = _BLOCKS[self.type_name]
        width = self.shape[-1] // numbers * size
        rows = self.shape[:-1] if len(self.shape) > 1 else (1,)
        raw = np.asarray(np.memmap(self.path, np.uint8, "r", self.place, (*rows, width))[chosen])
        if self.type_name in ("F32", "F16"):
            return raw.view("<f4" if self.type_name == "F32" else "<f2").astype(np.float32)
        return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[self.type_name])


@dataclass(frozen=True)
class GgufFile:
    """Fields by name (arrays of numbers as numpy arrays), and tensors in their order."""

    fields: dict[str, Any]
    tensors: dict[str, FoundTensor]


def read_gguf(path: Path) -> GgufFile:
    """Read fields and places of tensors; raises `ValueError` for other files than GGUF 3, and types not written here."""
    with path.open("rb") as file:
        sign, version, tensors, fields = struct.unpack("<4sIQQ", file.read(24))
        if sign != b"GGUF" or version != 3:
            raise ValueError("no GGUF file of version 3")
        found = {_string(file): _value(file, _number(file, "<u4")) for _ in range(fields)}
        infos = [_info(file) for _ in range(tensors)]
        aligned = int(found.get("general.alignment", 32))
        start = -(-file.tell() // aligned) * aligned
    placed = {name: FoundTensor(path, shape, kind, start + offset) for name, shape, kind, offset in infos}
    return GgufFile(found, placed)


def _info(file: IO[bytes]) -> tuple[str, tuple[int, ...], str, int]:
    name = _string(file)
    shape = [_number(file, "<u8") for _ in range(_number(file, "<u4"))]
    kind = _number(file, "<u4")
    if kind not in _TYPES:
        raise ValueError(f"the tensor {name[:80]!a} is of the type {kind}")
    return name, tuple(reversed(shape)), _TYPES[kind], _number(file, "<u8")


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _number(file, _SCALARS[kind])
    inner, count = _number(file, "<u4"), _number(file, "<u8")
    if inner == _STRING:
        return [_string(file) for _ in range(count)]
    numbers = np.dtype(_SCALARS[inner])
    return np.frombuffer(file.read(count * numbers.itemsize), numbers)


def _string(file: IO[bytes]) -> str:
    return file.read(int.from_bytes(file.read(8), "little")).decode()


def _number(file: IO[bytes], kind: str) -> Any:
    numbers = np.dtype(kind)
    return np.frombuffer(file.read(numbers.itemsize), numbers)[0].item()
