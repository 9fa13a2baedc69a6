"""The Triton kernels: right by fp64 formulas and by the plain twin, compiled without spills, wide accesses.

Without a GPU they run through Triton's interpreter, which proves the formulas and the addressing; that they also compile
for real GPUs is proven by compiling them. `pytest -m gpu` runs the same checks on the card.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from .kernel_checks import CHECKS

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "qlora_tools/engine/fast/kernels.py"
# It comes with torch's CUDA builds, and not at all for other platforms.
pytest.importorskip("triton", reason="Triton has no wheel for this platform")


def run_apart(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=600,
    )


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str | None]:
    """The failure or None of each check; one that is absent was not reached."""
    # bitsandbytes would compile its CPU decoding of odd shapes anew for every shape.
    done = run_apart("-m", "tests.kernel_checks", TRITON_INTERPRET="1", TORCHDYNAMO_DISABLE="1")
    found = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    return {"stderr": done.stderr, **found}


@pytest.mark.parametrize("name", CHECKS)
def test_a_kernel_is_right_in_the_interpreter(name: str, interpreted: dict[str, str | None]) -> None:
    assert name in interpreted, interpreted["stderr"]
    assert interpreted[name] is None, interpreted[name]


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHECKS)
def test_a_kernel_is_right_on_the_gpu(name: str) -> None:
    from qlora_tools.engine.fast import gpu

    CHECKS[name](gpu, torch.device("cuda"))


@pytest.mark.gpu
def test_rows_may_lie_further_apart_than_32_bits_count() -> None:
    from qlora_tools.engine.fast import gpu, plain

    device, far = torch.device("cuda"), 2**30 + 8
    whole = torch.empty(2 * far + 4096, dtype=torch.bfloat16, device=device)
    x = whole.as_strided((3, 64), (far, 1)).normal_()
    gate, up, out = (whole.as_strided((3, 64), (far, 1), 64 * place) for place in (1, 2, 3))
    gate.normal_()
    up.normal_()
    twin, weight = torch.empty((3, 64), dtype=torch.bfloat16, device=device), torch.ones(64, device=device)
    plain.swiglu(gate, up, twin)
    gpu.swiglu(gate, up, out)
    assert torch.equal(out, twin)
    plain.rms_norm(x, weight, 1e-6, twin)
    gpu.rms_norm(x, weight, 1e-6, out)
    assert float((out.float() - twin.float()).abs().max()) < 0.04
    angles = torch.rand(3, 32, device=device).repeat(1, 2)
    plain.rotate(x[:, None], angles.cos(), angles.sin(), twin[:, None], back=False)
    gpu.rotate(x[:, None], angles.cos(), angles.sin(), out[:, None], back=False)
    assert float((out.float() - twin.float()).abs().max()) < 0.04


@pytest.fixture(scope="module", params=[pytest.param(75, marks=pytest.mark.slow), 90])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the compiler made of every kernel: for a T4 in fp16, for an H100 in bf16."""
    out = tmp_path_factory.mktemp("kernels") / "report.json"
    done = run_apart("benchmarks/kernel_report.py", str(out), str(request.param))
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text(encoding="utf-8"))["kernels"]


def test_every_operation_compiles_for_real_gpus_and_spills_no_registers(compiled: list[dict[str, Any]]) -> None:
    # Read, not imported: importing torch and bitsandbytes takes longer than the rest of this test.
    (protocol,) = (
        node for node in ast.parse(KERNELS.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)
    )
    operations = {node.name for node in protocol.body if isinstance(node, ast.FunctionDef)}
    assert "rms_norm" in operations
    covered = {row["operation"].replace("decode_nested", "decode_4bit") for row in compiled}
    assert operations <= covered
    assert [row for row in compiled if row["stack_bytes"] or row["spilling_instructions"]] == []


def test_global_memory_is_accessed_16_bytes_at_a_time(compiled: list[dict[str, Any]]) -> None:
    usual = [row for row in compiled if not row["operation"].endswith("_odd")]
    assert {(row["widest_load_bits"], row["widest_store_bits"]) for row in usual} == {(128, 128)}


def test_the_committed_report_is_of_these_kernels() -> None:
    report = json.loads((ROOT / "benchmarks/results/kernel_report.json").read_text(encoding="utf-8"))
    from benchmarks.kernel_cases import OPERATIONS

    assert {row["capability"] for row in report["kernels"]} == {75, 80, 90, 120}
    assert {row["operation"] for row in report["kernels"]} == OPERATIONS.keys()
    assert all(row["stack_bytes"] == 0 for row in report["kernels"])
