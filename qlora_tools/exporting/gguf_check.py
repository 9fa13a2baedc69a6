"""Reading a GGUF file again, as any reader would, and holding it against the model that it was made from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..models.stored_tensors import StoredTensor
from ..results.gguf import GgufCheck
from .gguf_reading import FoundTensor, read_gguf
from .gguf_tensors import PlannedTensor, stored_rows
from .gguf_tokenizer import Vocabulary

# Rows of each tensor that are compared: the ends, and some between.
_ROWS = 8
_TINY = 2.0**-14  # below it f16 has fewer digits


def check_file(path: Path, planned: Sequence[PlannedTensor], vocabulary: Vocabulary) -> GgufCheck:
    """Compare shapes, some rows of every tensor, tokens and chat template. Raises `ValueError` for a file that is no GGUF."""
    file = read_gguf(path)
    found = file.tensors
    same_shapes = list(found) == [tensor.name for tensor in planned] and all(
        (found[tensor.name].shape, found[tensor.name].type_name) == (tensor.shape, tensor.type_name)
        for tensor in planned
    )
    errors, values = [0.0], 0
    for tensor in planned if same_shapes else ():
        rows = _rows(tensor)
        expected = _expected(tensor, rows)
        errors.append(_error(found[tensor.name], rows, expected))
        values += expected.size
    same_tokens = (
        file.fields.get("tokenizer.ggml.tokens") == vocabulary.tokens
        and file.fields["tokenizer.ggml.token_type"].tolist() == vocabulary.types
    )
    same_template = file.fields.get("tokenizer.chat_template") == vocabulary.template
    return GgufCheck(
        tensors=len(found),
        compared_tensors=len(errors) - 1,
        compared_values=values,
        largest_error=float(max(errors)),
        same_shapes=same_shapes,
        same_tokens=same_tokens,
        same_template=same_template,
        passed=same_shapes and same_tokens and same_template and bool(max(errors) <= 1),
    )


def _rows(tensor: PlannedTensor) -> Any:
    return np.unique(np.linspace(0, tensor.shape[0] - 1, _ROWS).astype(int))


def _expected(tensor: PlannedTensor, rows: Any) -> Any:
    """What must stand in these rows, worked out without the code that wrote them."""
    if tensor.source is None:
        return np.asarray(tensor.values, dtype=np.float32)[rows]
    return stored_rows(tensor.source, _places(tensor.source, tensor.heads, rows)) + np.float32(tensor.offset)


def _places(source: StoredTensor, heads: int | None, rows: Any) -> Any:
    """Where the rows stand in the source: even places hold the first half of each head, odd places the second."""
    if heads is None:
        return rows
    width = source.shape[0] // heads
    head, place = np.divmod(rows, width)
    return head * width + (place % 2) * (width // 2) + place // 2


def _error(found: FoundTensor, rows: Any, expected: Any) -> float:
    """The largest difference in units of what rounding to the type allows."""
    # A tensor of one dimension is one row.
    values = found.rows(rows) if len(found.shape) > 1 else found.rows(0)[rows]
    if found.type_name == "F32":
        return 0.0 if np.array_equal(values, expected) else float("inf")
    return float((np.abs(values - expected) / _allowed(found.type_name, expected)).max(initial=0.0))


def _allowed(kind: str, expected: Any) -> Any:
    """Half a step of the type at each value."""
    if kind == "Q8_0":
        blocks = np.abs(expected).reshape(*expected.shape[:-1], -1, 32).max(axis=-1, keepdims=True)
        # Half a step of 127, and the rounding of the scale to f16, which is coarser below its normal numbers.
        step = np.broadcast_to(blocks / 127, (*blocks.shape[:-1], 32)).reshape(expected.shape)
        return 0.5 * step + 127 * np.maximum(step * 2.0**-11, 2.0**-25) + 1e-30
    bits = 11 if kind == "F16" else 8
    smallest = _TINY if kind == "F16" else 2.0**-126
    return np.maximum(np.abs(expected), smallest) * 2.0**-bits * 1.001
