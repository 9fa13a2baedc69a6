"""What the compiler makes of each Triton kernel at the shapes of an 8B model, for GPUs that need not be here.

    python benchmarks/kernel_report.py OUT.json [capability ...]

The functions of `engine/fast/gpu.py` run on tensors without storage and launch nothing: each kernel is compiled for the
capability (75, 80, 90 and 120 where none is given; fp16 below 80, bf16 from there on) and its machine code read. Columns:
registers a thread, bytes of stack and instructions that touch it (spills), shared memory, and the widest accesses to
global memory in bits.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.pop("TRITON_INTERPRET", None)

import torch  # noqa: E402
import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from benchmarks.kernel_cases import OPERATIONS, SHAPES, Maker  # noqa: E402
from qlora_tools.engine.fast import gpu  # noqa: E402

MODEL = "8B"
CAPABILITIES = (75, 80, 90, 120)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class AbsentGPU:
    """What Triton asks a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # kernels are remembered by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def recorded_launches() -> Iterator[list[tuple[str, tuple[int, ...], Any, float]]]:
    """Kernels launched in this block are compiled and listed, with name, grid and seconds, but not run."""
    launches: list[tuple[str, tuple[int, ...], Any, float]] = []
    original = JITFunction.run

    def run(kernel: Any, *arguments: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        begin = time.perf_counter()
        compiled = original(kernel, *arguments, grid=grid, warmup=True, **options)
        launches.append((kernel.__name__, grid, compiled, time.perf_counter() - begin))

    JITFunction.run = run
    try:
        yield launches
    finally:
        JITFunction.run = original


def machine_code(binary: bytes) -> dict[str, Any]:
    """Resources and accesses of a compiled kernel."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "kernel.cubin")
        path.write_bytes(binary)
        usage, code = (
            subprocess.run([TOOLS / name, *options, path], capture_output=True, text=True, check=True).stdout
            for name, *options in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    registers, stack, shared = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "SHARED"))
    return {
        "registers": registers,
        "stack_bytes": stack,
        "spilling_instructions": len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "shared_bytes": shared,
        "widest_load_bits": widest("LDG", code),
        "widest_store_bits": widest("STG", code),
        "instructions": len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!NOP)", code, re.M)),
    }


def widest(access: str, code: str) -> int:
    """Bits of the widest load or store of global memory in machine code."""
    sizes = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128, "256": 256}
    found = re.findall(rf"\b{access}((?:\.\w+)*)", code)
    return max((next((sizes[part] for part in one.split(".") if part in sizes), 32) for one in found), default=0)


def compiled_for(capability: int) -> Iterator[dict[str, Any]]:
    """Each operation, compiled for the capability."""
    driver.set_active(AbsentGPU(capability))
    dtype = torch.float16 if capability < 80 else torch.bfloat16
    for name, build in OPERATIONS.items():
        with recorded_launches() as launches:
            build(SHAPES[MODEL], Maker(dtype)).run(gpu)
        for kernel, grid, compiled, seconds in launches:
            yield {
                "capability": capability,
                "operation": name,
                "kernel": kernel,
                "dtype": str(dtype).removeprefix("torch."),
                "programs": grid[0],
                "warps": compiled.metadata.num_warps,
                "seconds": round(seconds, 2),
                **machine_code(compiled.asm["cubin"]),
            }


def main(out: Path, capabilities: tuple[int, ...]) -> None:
    # A fresh cache: the seconds are those of a user's first run.
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        rows = [row for number in capabilities for row in compiled_for(number)]
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "triton": triton.__version__,
        "model": MODEL,
        "kernels": rows,
    }
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(*(row[key] for key in ("capability", "operation", "registers", "stack_bytes", "shared_bytes")))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), tuple(map(int, sys.argv[2:])) or CAPABILITIES)
