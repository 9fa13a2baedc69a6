"""A GPU is found by any of its usual names, and its figures are those of a machine that can be planned for."""

import pytest

from qlora_tools.errors import MachineError, UsageError
from qlora_tools.models import Hardware
from qlora_tools.models.gpus import Gpu, find_gpu, gpu_from_hardware_name, load_gpus

SUPPORTED = [gpu for gpu in load_gpus() if gpu.supported]
UNSUPPORTED = [gpu for gpu in load_gpus() if not gpu.supported]


def named(gpu: Gpu) -> str:
    return gpu.name


def plain(label: str) -> str:
    """Names are compared without case, separators and vendors; no label of the table holds a vendor but Apple's."""
    return "".join(letter for letter in label.lower().removeprefix("apple") if letter.isalnum())


def test_the_table_spans_t4_to_b200_and_names_what_is_not_supported() -> None:
    assert len(SUPPORTED) >= 50
    names = {gpu.name for gpu in SUPPORTED}
    assert names >= {"T4", "V100 16GB", "A100 40GB", "A100 80GB", "RTX 3090", "RTX 4090", "L4", "L40S", "H100 SXM"}
    assert names >= {"RTX 5090", "RTX PRO 6000 Blackwell", "H200", "GH200 96GB", "GB10", "B200"}
    assert {gpu.vendor for gpu in UNSUPPORTED} == {"apple", "amd", "intel", "google"}


@pytest.mark.parametrize("gpu", SUPPORTED, ids=named)
def test_a_supported_gpu_has_plausible_figures(gpu: Gpu) -> None:
    assert gpu.vendor == "nvidia"
    assert gpu.reason is None
    assert gpu.compute_capability is not None
    assert (6, 0) <= gpu.compute_capability <= (12, 1)
    assert 0.93 * gpu.memory_mib <= gpu.usable_mib < gpu.memory_mib
    assert 5 * 1024 <= gpu.memory_mib <= 192 * 1024
    assert 200 <= gpu.bandwidth_gb_s <= 8000
    assert gpu.tflops_16bit is None or 15 <= gpu.tflops_16bit <= 2500
    assert gpu.computes_bfloat16 == (gpu.compute_capability >= (8, 0))


@pytest.mark.parametrize("gpu", [gpu for gpu in load_gpus() if not gpu.usable_measured], ids=named)
def test_usable_memory_that_nobody_reported_is_the_stated_estimate(gpu: Gpu) -> None:
    assert gpu.usable_mib == int(gpu.memory_mib * 0.985)


def test_memory_and_speed_rise_with_the_class_of_card() -> None:
    ladder = [find_gpu(name) for name in ("t4", "a10", "a100-40gb", "h100-sxm", "h200", "b200")]
    assert [gpu.usable_mib for gpu in ladder] == sorted(gpu.usable_mib for gpu in ladder)
    assert [gpu.bandwidth_gb_s for gpu in ladder] == sorted(gpu.bandwidth_gb_s for gpu in ladder)


@pytest.mark.parametrize("name", ["P100", "V100", "V100 32GB", "T4", "RTX 2080 Ti", "RTX 2060"])
def test_cards_before_ampere_do_not_compute_bfloat16(name: str) -> None:
    gpu = find_gpu(name)
    assert not gpu.computes_bfloat16
    assert not gpu.hardware().computes_bfloat16


def test_no_two_names_or_aliases_are_the_same() -> None:
    labels = [plain(label) for gpu in load_gpus() for label in (gpu.name, *gpu.aliases)]
    assert sorted(labels) == sorted(set(labels))


@pytest.mark.parametrize("gpu", load_gpus(), ids=named)
def test_every_name_and_alias_finds_its_own_card_however_it_is_written(gpu: Gpu) -> None:
    for label in (gpu.name, *gpu.aliases):
        for written in (label, label.upper(), label.replace(" ", "_"), label.replace(" ", ""), f"NVIDIA {label}"):
            assert find_gpu(written) is gpu, written


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("rtx4090", "RTX 4090"),
        ("GeForce-RTX-4090", "RTX 4090"),
        ("4090 24GB", "RTX 4090"),
        ("a100-80gb", "A100 80GB"),
        ("A100 80 GiB", "A100 80GB"),
        ("a100_pcie_80g", "A100 80GB"),
        ("4060ti-16gb", "RTX 4060 Ti 16GB"),
        ("H100 SXM5 80GB", "H100 SXM"),
        ("H100 94GB", "H100 NVL"),
        ("a10g 24gb", "A10G"),
        ("A40 48GB", "A40"),
        ("b200 192gb", "B200"),
        ("dgx spark", "GB10"),
        ("m3 max 64gb", "Apple M3 Max"),
    ],
)
def test_names_that_people_write_are_understood(written: str, name: str) -> None:
    assert find_gpu(written).name == name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("a100", "A100 40GB"),
        ("v100", "V100 16GB"),
        ("3080", "RTX 3080 10GB"),
        ("RTX 4060 Ti", "RTX 4060 Ti 8GB"),
        ("h100", "H100 PCIe"),
        ("H100 80GB", "H100 PCIe"),
    ],
)
def test_a_name_of_several_cards_means_the_one_with_least_memory(written: str, name: str) -> None:
    assert find_gpu(written).name == name


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("Tesla P100-PCIE-16GB", "P100"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", "GH200 96GB"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB10", "GB10"),
        ("NVIDIA GeForce RTX 3060", "RTX 3060 12GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090 Laptop"),
        ("NVIDIA RTX A2000", "RTX A2000 6GB"),
        ("NVIDIA RTX A2000 12GB", "RTX A2000 12GB"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
        ("AMD Instinct MI300X", "MI300X"),
        ("AMD Radeon RX 7900 XTX", "RX 7900 XTX"),
    ],
)
def test_device_names_as_torch_reports_them_are_found(reported: str, name: str) -> None:
    found = gpu_from_hardware_name(reported)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "reported",
    [
        "CPU (x86_64, 2 threads)",
        "NVIDIA A100-SXM4-40GB MIG 1g.10gb",
        "NVIDIA GeForce RTX 3060 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "",
    ],
)
def test_a_device_that_is_not_in_the_table_is_not_taken_for_another(reported: str) -> None:
    assert gpu_from_hardware_name(reported) is None


@pytest.mark.parametrize(
    ("written", "nearest"), [("rtx 4095", "RTX 4090"), ("h1000", "H100 SXM"), ("rtx 4090 48gb", "RTX 4090")]
)
def test_an_unknown_name_is_answered_with_the_nearest_and_with_another_way(written: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_gpu(written)
    assert repr(written) in caught.value.message
    assert nearest in caught.value.message
    assert "--memory-limit-gib 24" in caught.value.next_step


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(UsageError, match=r"No GPU called 'quux' is among the \d+ known ones\.$"):
        find_gpu("quux")


def test_a_gpu_becomes_an_empty_machine_with_its_usable_memory() -> None:
    gpu = find_gpu("A100 80GB")
    assert gpu.hardware() == Hardware("cuda", "A100 80GB", gpu.usable_bytes, gpu.usable_bytes, True, (8, 0))
    assert gpu.usable_bytes == gpu.usable_mib * 2**20


@pytest.mark.parametrize("gpu", UNSUPPORTED, ids=named)
def test_an_unsupported_accelerator_is_found_and_refused_with_its_reason(gpu: Gpu) -> None:
    assert gpu.reason is not None
    assert gpu.reason.endswith("use an NVIDIA GPU.") and gpu.reason.count(". ") == 0
    assert gpu.compute_capability is None and not gpu.computes_bfloat16
    with pytest.raises(MachineError) as caught:
        find_gpu(gpu.name).hardware()
    assert gpu.name in caught.value.message
    assert gpu.reason in caught.value.message
    assert "NVIDIA" in caught.value.next_step
