"""Putting the trained adapter into the output directory: whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..adapters.record import ADAPTER_WEIGHTS, AdapterRecord, write_record
from ..disk import DISK_FULL
from ..durable import exchange_directories, publish_directory
from ..errors import CheckFailed


def publish_adapter(
    model: Any, tokenizer: Any, record: AdapterRecord, directory: Path, *, initial: Path | None = None
) -> None:
    """Write adapter, tokenizer and record beside `directory`, then put them in place by one rename.

    `initial` holds the adapter before training where it changed the base (PiSSA): what is saved is then a plain
    adapter of twice the rank that belongs on the unchanged base.
    """
    partial = Path(tempfile.mkdtemp(prefix=".adapter-", dir=directory.parent))
    try:
        with full_disk_as_oserror():
            model.save_pretrained(partial, path_initial_model_for_weight_conversion=str(initial) if initial else None)
        tokenizer.save_pretrained(partial)
        write_record(partial, record)
        assert (partial / ADAPTER_WEIGHTS).is_file()
        partial.chmod(0o755)
        _replace(directory, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(directory: Path, partial: Path) -> None:
    """Put `partial` in the place of `directory`; the earlier one goes only when the new one stands."""
    if not directory.exists():
        publish_directory(partial, directory)
        return
    exchange_directories(partial, directory)


@contextmanager
def full_disk_as_oserror() -> Iterator[None]:
    """safetensors reports a full disk in words of its own, without an errno."""
    try:
        yield
    except SafetensorError as error:
        for code in DISK_FULL:
            if f"os error {code}" in str(error):
                raise OSError(code, os.strerror(code)) from None
        raise


def require_finite(model: Any) -> None:
    """Raise `CheckFailed` when a trained weight is no number; such an adapter is never published."""
    broken = [name for name, p in model.named_parameters() if p.requires_grad and not torch.isfinite(p).all()]
    if broken:
        raise CheckFailed(
            f"{len(broken)} trained tensors hold NaN or infinity ({broken[0]}, ...); no adapter was written.",
            next_step="Lower training.learning_rate or training.max_gradient_norm, or raise training.warmup_fraction.",
        )
