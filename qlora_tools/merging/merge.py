"""The public call: an adapter in, a plain model directory out, checked before it is called merged.

A first version: it holds the whole model in host memory as fp32 while merging.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from ..disk import disk_errors
from ..errors import CheckFailed, UsageError
from ..events import Listener, RunEvent, ignore
from ..paths import as_path
from ..requirements import require_training_libraries
from ..results import MergeResult, ParityResult
from .prompts import PARITY_PROMPTS

MergeBase = Literal["trained", "original"]
MergeDtype = Literal["bfloat16", "float16", "float32"]


def merge(
    adapter: str | Path,
    output: str | Path,
    *,
    base: MergeBase = "trained",
    dtype: MergeDtype = "bfloat16",
    prompts: Sequence[str] = PARITY_PROMPTS,
    check: bool = True,
    on_event: Listener = ignore,
) -> MergeResult:
    """Merge an adapter and write a model directory that plain Transformers loads.

    `base` "trained" merges into the weights that the adapter was trained against (for a 4-bit base: dequantised),
    so the result answers as the adapter did; "original" merges into the 16-bit weights. With `check`, the merged
    model is compared on `prompts` with that base plus the adapter, and only then put in place.

    Raises `ModelError`, `UsageError` (output exists), `MachineError` (memory, disk), `CheckFailed` (parity).
    """
    require_training_libraries("merging")
    began = time.monotonic()
    target = as_path(str(output))
    if not prompts and check:
        raise UsageError("There is no prompt to compare answers on.", next_step="Give prompts, or check=False.")
    if target.exists():
        raise UsageError(f"The output {target} exists.", next_step="Choose a directory that does not exist yet.")
    from .parity import check_parity
    from .weights import write_merged

    source = as_path(str(adapter))
    with disk_errors(target.parent, left="nothing was written"), _aside(target) as partial:
        on_event(RunEvent("phase", f"Merging into the {base} base"))
        write_merged(source, partial, base=base, dtype=dtype)
        parity = None
        if check:
            on_event(RunEvent("phase", f"Comparing answers to {len(prompts)} prompts"))
            stored = 4 if dtype == "float32" else 2
            parity = check_parity(source, partial, prompts, base=base, stored_bytes=stored)
            _require_parity(parity)
    size = sum(path.stat().st_size for path in target.iterdir())
    return MergeResult(
        directory=str(target), base=base, dtype=dtype, size_bytes=size, parity=parity, seconds=time.monotonic() - began
    )


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A directory beside `target` that takes its place when all went well, and is gone when not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_parity(parity: ParityResult) -> None:
    if not parity.passed:
        raise CheckFailed(
            f"The merged model does not answer as base plus adapter: top-1 agreement {parity.top1_agreement:.4f} (at least "
            f"0.99 is needed), mean KL {parity.mean_kl:.2e} nats (at most 1e-3); nothing was written.",
            next_step="Merge with --dtype float32, or keep base and adapter apart.",
        )
