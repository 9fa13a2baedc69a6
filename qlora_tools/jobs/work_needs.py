"""What an evaluation, a merge or an export will need, so that the queue can place it; found in a moment and without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters import AdapterRecord, adapter_directory, read_adapter_record
from ..config.schema import QuantizationConfig
from ..memory.tasks import estimate_inference
from ..models.local_files import read_model_config
from ..models.shape import ModelShape
from .works import adapters_of

# Libraries, and tensors that pass through in slices.
_STREAMING_BYTES = 3 * 2**29
# A batch of answers with its prompts, as evaluations and parity checks ask for them.
_ROWS, _LENGTH = 16, 1024
_STREAMING = "tensors pass through in slices"
_WHOLE = QuantizationConfig(kind="none")
# Exports that copy an adapter.
_PACKAGES = ("adapter", "vllm")
_NOT_KNOWN = "not known: {} is not a family whose code was read"


@dataclass(frozen=True)
class Need:
    """Memory in bytes, None where it is not known, and how that was found; of a GPU if it may use one, else of the host."""

    model: str
    bytes: int | None
    how: str
    gpu: bool


def need_of(kind: str, arguments: Mapping[str, Any]) -> Need:
    """The need of such work. Raises `ModelError` for an adapter that cannot be read, or whose base is gone."""
    if kind == "export":
        return _need_of_export(Path(arguments["source"]), arguments.get("to"))
    record = read_adapter_record(adapter_directory(adapters_of(arguments)[0])).on(arguments.get("base_model"))
    if kind == "merge":
        return _need_of_merge(record, check=arguments.get("check", True))
    whole = "quantisation_cost" in arguments.get("instruments", ())
    return _need_of_answers(record, _WHOLE if whole else record.quantization, "estimated, for a full batch of answers")


def _need_of_export(source: Path, target: str | None) -> Need:
    adapter = adapter_directory(source)
    if target in _PACKAGES or not (adapter / "adapter_config.json").is_file():
        return Need("", _STREAMING_BYTES, _STREAMING, gpu=False)
    return _need_of_merge(read_adapter_record(adapter), check=True)


def _need_of_merge(record: AdapterRecord, *, check: bool) -> Need:
    if not check:
        return Need(record.base_name, _STREAMING_BYTES, _STREAMING, gpu=False)
    # Both models are asked one after the other, the merged one in 16 bits.
    need = _need_of_answers(record, _WHOLE, "estimated, for the parity check in 16 bits")
    return Need(need.model, None if need.bytes is None else need.bytes + _STREAMING_BYTES, need.how, gpu=True)


def _need_of_answers(record: AdapterRecord, quantization: QuantizationConfig, how: str) -> Need:
    shape = ModelShape.from_config(read_model_config(Path(record.base().location)))
    if not shape.traits.known:
        return Need(record.base_name, None, _NOT_KNOWN.format(shape.model_type), gpu=True)
    estimate = estimate_inference(shape, quantization, compute_dtype="bfloat16", rows=_ROWS, length=_LENGTH)
    return Need(record.base_name, estimate.needed_bytes, how, gpu=True)
