"""The tensors of a GGUF file: name, shape and type of each, and its values, a few rows at a time.

Never more than one slice of one tensor is in memory: a file of any size takes some 200 MB.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np

from ..errors import ModelError
from ..models.stored_tensors import StoredTensor
from ..untrusted import visible_text
from .gguf_families import CONVERTER_STEP, Family, Kind, head_dim, rope_factors
from .gguf_source import Source

# Values turned at once; in fp32 and the written type together some 100 MB.
_SLICE = 1 << 24
_BLOCK = 32  # q8_0 quantises so many neighbours with one scale
_ROTATED = ("self_attn.q_proj", "self_attn.k_proj")
_LARGEST_F16 = 65504.0
_STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor to be written: `type_name` is its type in GGUF, `heads` are set where rows change places, `offset` is added.

    `values` stand in for a source that the model has no tensor of.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    source: StoredTensor | None
    heads: int | None = None
    offset: float = 0.0
    values: tuple[float, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes in the file, before padding."""
        elements = int(np.prod(self.shape))
        return elements // _BLOCK * (_BLOCK + 2) if self.type_name == "Q8_0" else elements * _BYTES[self.type_name]

    @cached_property
    def order(self) -> Any:
        """Which row of the source stands at each place; None where they stay."""
        if self.heads is None:
            return None
        return np.arange(self.shape[0]).reshape(self.heads, 2, -1).swapaxes(1, 2).reshape(-1)

    def rows(self, begin: int, end: int) -> Any:
        """The values of some rows as fp32."""
        if self.source is None:
            return np.asarray(self.values[begin:end], dtype=np.float32)
        chosen = slice(begin, end) if self.order is None else self.order[begin:end]
        return stored_rows(self.source, chosen) + np.float32(self.offset)


_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def stored_rows(tensor: StoredTensor, chosen: Any) -> Any:
    """Some rows of a tensor in a safetensors file, as fp32."""
    kind = np.dtype(_STORED[tensor.dtype])
    stored = np.memmap(tensor.file, dtype=kind, mode="r", offset=tensor.begin, shape=tensor.shape)[chosen]
    if tensor.dtype == "BF16":
        return (np.asarray(stored).astype(np.uint32) << 16).view(np.float32)
    return np.asarray(stored).astype(np.float32)


def plan_tensors(source: Source, family: Family, kind: Kind) -> list[PlannedTensor]:
    """Every tensor of the file in its order; raises `ModelError` for tensors that llama.cpp has no name for, or that lack."""
    import gguf

    config = source.config
    architecture = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[family.architecture]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    made = [
        PlannedTensor(name, (len(values),), "F32", None, values=tuple(values))
        for name, values in rope_factors(config).items()
    ]
    for tensor in source.tensors.values():
        if tensor.name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(
                f"llama.cpp has no name for the tensor {visible_text(tensor.name)[:80]} in a model of this family.",
                next_step=CONVERTER_STEP,
            )
        made.append(_planned(name, tensor, config, family, kind))
    _require_all(made, config, family)
    return made


def _planned(name: str, tensor: StoredTensor, config: Any, family: Family, kind: Kind) -> PlannedTensor:
    heads = None
    if family.interleaved and any(part in tensor.name for part in _ROTATED):
        heads = config.num_attention_heads if "q_proj" in tensor.name else config.num_key_value_heads
        if tensor.shape[0] != heads * head_dim(config):
            raise _odd_shape(tensor)
    small = len(tensor.shape) == 1 or name.endswith("_norm.weight")
    offset = family.norm_offset if tensor.name.endswith("norm.weight") else 0.0
    return PlannedTensor(name, tensor.shape, "F32" if small else _type(kind, tensor.shape), tensor, heads, offset)


def _type(kind: Kind, shape: tuple[int, ...]) -> str:
    # Rows that are no whole number of blocks cannot be quantised; llama.cpp's own tools fall back in the same way.
    return "F16" if kind == "q8_0" and shape[-1] % _BLOCK else kind.upper()


def _require_all(made: Sequence[PlannedTensor], config: Any, family: Family) -> None:
    """Every block must have what the first has, and embedding and head must be as large as the config says."""
    names = {tensor.name: tensor for tensor in made}
    first = [name.removeprefix("blk.0.") for name in names if name.startswith("blk.0.")]
    needed = [f"blk.{block}.{name}" for block in range(config.num_hidden_layers) for name in first]
    needed += ["token_embd.weight", "output_norm.weight", "blk.0.attn_output.weight"]
    needed += [] if config.tie_word_embeddings else ["output.weight"]
    missing = [name for name in needed if name not in names]
    if missing:
        raise ModelError(
            f"The model lacks {len(missing)} tensors that {family.architecture} needs: {', '.join(missing[:3])}.",
            next_step="Merge or fetch it again; a file may have been left out.",
        )
    for name in ("token_embd.weight", "output.weight"):
        tensor = names.get(name)
        if tensor is not None and tensor.source and tensor.shape != (config.vocab_size, config.hidden_size):
            raise _odd_shape(tensor.source)


def _odd_shape(tensor: StoredTensor) -> ModelError:
    return ModelError(
        f"The tensor {visible_text(tensor.name)[:80]} has the shape {list(tensor.shape)}, "
        "which is not what config.json says.",
        next_step="Check that config.json and the weights belong together.",
    )


@dataclass(frozen=True)
class LazyTensor:
    """What gguf's writer takes for an array: it asks for the size and has the bytes put into its file."""

    planned: PlannedTensor

    @property
    def nbytes(self) -> int:
        """Bytes that `tofile` writes."""
        return self.planned.size_bytes

    def tofile(self, file: IO[bytes]) -> None:
        """Write the tensor slice by slice; raises `ModelError` where its type cannot hold a value."""
        for begin, end in slices(self.planned):
            file.write(encoded(self.planned, self.planned.rows(begin, end)).tobytes())


def slices(planned: PlannedTensor) -> Iterator[tuple[int, int]]:
    """Rows that are turned together."""
    width = int(np.prod(planned.shape[1:]))
    step = max(1, _SLICE // width)
    for begin in range(0, planned.shape[0], step):
        yield begin, min(begin + step, planned.shape[0])


def encoded(planned: PlannedTensor, values: Any) -> Any:
    """fp32 values in the type of the file."""
    import gguf

    if not np.isfinite(values).all():
        raise ModelError(
            f"The tensor {planned.name} holds values that are no numbers (NaN or infinite).",
            next_step="The merge or the training went wrong: check the source of the model.",
        )
    if planned.type_name == "F16" and np.abs(values).max(initial=0.0) > _LARGEST_F16:
        raise ModelError(
            f"The tensor {planned.name} holds values beyond {_LARGEST_F16:,.0f}, which f16 cannot hold.",
            next_step="Export it as bf16 or q8_0.",
        )
    if planned.type_name in ("F32", "F16"):
        return values.astype("<f4" if planned.type_name == "F32" else "<f2")
    return gguf.quants.quantize(np.ascontiguousarray(values), gguf.GGMLQuantizationType[planned.type_name])
