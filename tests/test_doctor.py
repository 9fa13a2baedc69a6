"""The environment report, as far as it needs no heavy library, and the probe's own words for what is broken."""

import os
import stat
from pathlib import Path

import pytest

from qlora_tools.doctor import environment, known_bad, machine
from qlora_tools.doctor.check import numbers

Versions = dict[str, str]
SMI = """+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 560.35.03              Driver Version: 560.35.03      CUDA Version: 12.6     |
+-----------------------------------------------------------------------------------------+
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of PATH; `nvidia-smi` is put there by the tests."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "nvidia-smi"


def says(program: Path, text: str) -> None:
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_floors_are_those_that_the_package_states() -> None:
    floors = environment._floors()
    assert floors["torch"] == "2.10"
    assert floors["transformers"] == "5.17"
    assert floors["trl"] == "1.15"


@pytest.mark.parametrize(
    ("older", "newer"), [("2.9.1", "2.10"), ("1.15.0", "1.16.0.dev0"), ("4.8", "5.2.0"), ("2.10.0+cpu", "2.13.0+cpu")]
)
def test_versions_compare_by_number(older: str, newer: str) -> None:
    assert numbers(older) < numbers(newer)


def test_a_library_below_its_floor_fails_with_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "version", lambda name: "4.57.1")
    check = environment._library("transformers")
    assert (check.status, check.found) == ("failed", "4.57.1; at least 5.17 is needed")
    assert check.mend == "pip install --upgrade 'transformers>=5.17'"


def test_an_absent_library_fails_with_the_extra_to_install() -> None:
    check = environment._library("a-library-that-nobody-has")
    assert (check.status, check.mend) == ("failed", "pip install 'qlora-tools[train]'")


@pytest.mark.parametrize(
    ("versions", "name"),
    [
        ({"peft": "0.21.2", "torchao": "0.15.0"}, "peft and torchao"),
        ({"torchao": "0.18.0", "torch": "2.10.0"}, "torchao and torch"),
        ({"triton": "3.2.0", "bitsandbytes": "0.44.1"}, "triton and bitsandbytes"),
        ({"numpy": "2.1.0", "torch": "2.2.2"}, "numpy and torch"),
        ({"peft": "0.14.0", "transformers": "4.39.3"}, "peft and transformers"),
        ({"transformers": "5.17.0", "trl": "0.9.6"}, "transformers and trl"),
    ],
)
def test_versions_that_fail_together_are_named_with_the_command(versions: Versions, name: str) -> None:
    (check,) = known_bad._known(versions.get)
    assert (check.name, check.status) == (name, "failed")
    assert check.mend is not None and check.mend.startswith("pip ")


def test_versions_that_work_together_are_not_named() -> None:
    versions = {"peft": "0.21.2", "torchao": "0.17.0", "torch": "2.13.0", "numpy": "2.4.6", "transformers": "5.23.0"}
    assert list(known_bad._known(versions.get)) == []


@pytest.mark.parametrize(
    ("torch", "vision", "fits"),
    [("2.13.0+cpu", "0.28.0", True), ("2.12.0", "0.27.0", True), ("2.11.0", "0.25.0", False)],
)
def test_torchvision_has_to_be_built_for_this_torch(torch: str, vision: str, fits: bool) -> None:
    found = list(known_bad._torchvision({"torch": torch, "torchvision": vision}.get))
    assert (found == []) is fits


def test_a_requirement_that_is_not_met_is_told_with_the_command() -> None:
    check = known_bad._unmet(
        "transformers 5.23.0 has requirement tokenizers<=0.24,>=0.22, but you have tokenizers 0.19.1."
    )
    assert check.mend == "pip install 'tokenizers<=0.24,>=0.22', or: pip install --upgrade transformers"


def test_the_driver_is_told_with_the_cuda_that_it_knows(program: Path) -> None:
    says(program, SMI)
    (check,) = machine.check_driver()
    assert (check.status, check.found) == ("ok", "560.35.03, knows CUDA up to 12.6")
    assert machine.driver_cuda() == (12, 6)


def test_a_driver_that_does_not_answer_fails_with_what_it_said(program: Path) -> None:
    says(program, "Failed to initialize NVML: Driver/library version mismatch")
    (check,) = machine.check_driver()
    assert check.status == "failed"
    assert "version mismatch" in check.found


@pytest.mark.parametrize(("value", "status"), [("", "warning"), ("-1", "warning"), ("0,1", "ok")])
def test_hidden_gpus_are_told(value: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    (check,) = machine.check_visibility()
    assert check.status == status


def test_the_limit_of_a_container_counts_as_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(f"{4 * 2**30}\n", encoding="ascii")
    monkeypatch.setattr(machine, "_LIMIT_FILES", (tmp_path / "absent", limit))
    check = machine.check_host_memory()
    assert check.status == "warning"
    assert "this container may use 4.0" in check.found
    limit.write_text("max\n", encoding="ascii")
    assert "container" not in machine.check_host_memory().found


def test_disks_are_looked_at_where_they_are_and_where_models_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not-made-yet"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    checks = {check.name: check for check in machine.check_disks(tmp_path)}
    assert f"free at {tmp_path}" in checks["disk"].found
    assert f"free at {tmp_path}" in checks["Hugging Face cache"].found


def test_libraries_that_cannot_be_imported_are_told_with_the_command_of_the_known_failure() -> None:
    said = "Traceback (most recent call last):\nModuleNotFoundError: No module named 'triton.ops'\n"
    device, (check,) = environment._unprobed("failed", said)
    assert (device, check.status) == ("unknown", "failed")
    assert check.mend is not None and "pip install --upgrade bitsandbytes" in check.mend


def test_code_for_a_gpu_runs_on_later_ones_of_its_major_version() -> None:
    from qlora_tools.doctor.probe import _runs

    assert _runs("sm_80", 8, 6) and _runs("sm_86", 8, 9) and _runs("compute_90", 12, 0) and _runs("sm_90a", 9, 0)
    assert not _runs("sm_90", 8, 9) and not _runs("sm_90", 12, 0)
