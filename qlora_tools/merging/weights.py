"""Merging the weights: base in fp32, adapter added by PEFT, result saved as safetensors."""

from pathlib import Path
from typing import Any

import psutil
import torch

from ..adapters.record import AdapterRecord, adapter_directory, read_adapter_record
from ..config.schema import QuantizationConfig
from ..engine.device import host_hardware
from ..engine.loading import LoadedModel, load_model
from ..engine.output import full_disk_as_oserror
from ..errors import MachineError
from ..generation.session import adapter_tokenizer, with_adapter
from ..models.reference import ResolvedModel


def write_merged(source: Path, target: Path, *, base: str, dtype: str) -> None:
    """Write model, tokenizer and generation config of the merged model to the empty directory `target`."""
    directory = adapter_directory(source)
    record = read_adapter_record(directory)
    loaded = load_base(record, base)
    merged = with_adapter(loaded.model, directory).merge_and_unload(safe_merge=True)
    merged = merged.to(getattr(torch, dtype))
    merged.config.use_cache = True
    _stop_as_trained(merged.generation_config, record)
    with full_disk_as_oserror():
        merged.save_pretrained(target)
    adapter_tokenizer(directory, loaded.tokenizer).save_pretrained(target)


def _stop_as_trained(settings: Any, record: AdapterRecord) -> None:
    settings.eos_token_id = sorted({*record.stop_token_ids, *_as_list(settings.eos_token_id)})
    # Published configs set sampling parameters without saying that they sample; saving a changed one checks that.
    if any(getattr(settings, name) not in (None, 1.0) for name in ("temperature", "top_p")) or settings.top_k not in (
        None,
        50,
    ):
        settings.do_sample = True


def load_base(record: AdapterRecord, base: str) -> LoadedModel:
    """The base that an adapter is merged into, in fp32 on the host: dequantised ("trained") or as published."""
    resolved, unquantized = record.base(), QuantizationConfig(kind="none")
    _require_memory(resolved)
    quantization = record.quantization if base == "trained" else unquantized
    loaded = load_model(
        resolved,
        quantization,
        compute_dtype="float32",
        attention_implementation="auto",
        hardware=host_hardware(),
    )
    if quantization.kind == "none":
        return loaded
    return LoadedModel(_dequantized(loaded.model), loaded.tokenizer, "float32")


def _dequantized(model: Any) -> Any:
    plain = model.dequantize(dtype=torch.float32)
    plain.config.__dict__.pop("quantization_config", None)
    return plain


def _require_memory(resolved: ResolvedModel) -> None:
    """The files of a local model hold 16 bits a parameter; of one on the Hub nothing is known before it is loaded."""
    stored = sum(path.stat().st_size for path in Path(resolved.location).glob("*.safetensors"))
    needed, available = 2 * stored, psutil.virtual_memory().available
    if needed > available:
        raise MachineError(
            f"Merging holds the model in fp32: {needed / 2**30:.1f} GiB are needed and {available / 2**30:.1f} are free.",
            next_step="Merge on a machine with more memory, or serve base and adapter apart.",
        )


def _as_list(value: Any) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [int(value)]
