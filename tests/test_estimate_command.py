"""`qlora estimate`: what it says, its pictures, its exit codes, and the GPU that it finds by itself."""

import json
import re
import struct
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from qlora_tools.cli.main import run
from qlora_tools.memory import estimate_memory
from qlora_tools.models.catalogue import CATALOGUE
from qlora_tools.models.gpu_here import gpu_here
from qlora_tools.models.gpus import find_gpu
from qlora_tools.report.memory_heat_map import heat_map_lengths
from qlora_tools.report.memory_parts import settings_line, shown_parts, verdict
from qlora_tools.report.memory_table import memory_bar, print_memory_report
from qlora_tools.results import MemoryReport

Output = pytest.CaptureFixture[str]
Smi = Callable[[str], None]
LLAMA = ["estimate", "--model", "llama-3.1-8b-instruct"]
BIG = ["estimate", "--model", "llama-3.1-70b-instruct"]
GIB = 2**30


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder of programs, empty: no test depends on the GPU of the machine that it runs on."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("CUDA_VISIBLE_DEVICES", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def smi(programs: Path) -> Smi:
    """`smi(body)` puts an nvidia-smi there, a shell script."""

    def install(body: str) -> None:
        program = programs / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)

    return install


def document(capsys: Output) -> dict[str, Any]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert head[12:16] == b"IHDR"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def test_the_json_document_is_a_memory_report_and_names_no_pictures(capsys: Output) -> None:
    assert run([*LLAMA, "--gpu", "4090", "--json", "rank=64", "max_length_tokens=4096"]) == 0
    found = document(capsys)
    assert found.pop("plots") == []
    settings = {"lora.rank": 64, "training.max_length_tokens": 4096}
    assert MemoryReport.model_validate(found) == estimate_memory("llama-3.1-8b-instruct", gpu="4090", settings=settings)


@pytest.mark.parametrize(
    ("arguments", "code", "fits"),
    [
        ([*LLAMA], 0, None),
        ([*LLAMA, "--gpu", "4090"], 0, True),
        ([*LLAMA, "--memory-limit-gib", "12"], 0, True),
        ([*LLAMA, "--memory-limit-gib", "6"], 3, False),
        ([*LLAMA, "--gpu", "4090", "--memory-limit-gib", "6"], 3, False),
        ([*LLAMA, "--gpu", "4090", "--task", "full"], 3, False),
        ([*LLAMA, "--gpu", "t4", "--task", "inference"], 0, True),
        ([*BIG, "--gpu", "4090"], 3, False),
        ([*BIG, "--gpu", "4090", "--task", "merging"], 0, None),
    ],
)
def test_only_what_does_not_fit_is_code_3(arguments: list[str], code: int, fits: bool | None, capsys: Output) -> None:
    assert run([*arguments, "--json"]) == code
    assert document(capsys)["fits"] is fits


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--model", "llama-3.1-8b-instuct"], 2, "llama-3.1-8b-instruct"),
        (["--model", "gpt2", "--gpu", "rtx 4095"], 2, "RTX 4090"),
        (["--model", "gpt2", "--gpu", ""], 2, "No GPU called"),
        (["--model", "gpt2", "rnak=3"], 2, "lora.rank"),
        (["--model", "gpt2", "rank"], 2, "name=value"),
        (["--model", "gpt2", "rank=0"], 2, "lora.rank"),
        (["--model", "gpt2", "--task", "trainig"], 2, "training"),
        (["--model", "gpt2", "--memory-limit-gib", "0.1"], 2, "0.5"),
        (["--model", "gpt2", "--memory-limit-gib", "nan"], 2, "0.5"),
        (["--gpu", "t4"], 2, "--model"),
        (["--model", "gpt2", "--gpu", "m3 max"], 4, "Apple M3 Max is not supported"),
    ],
)
def test_a_mistake_is_told_in_words_with_what_was_meant(
    arguments: list[str], code: int, said: str, capsys: Output
) -> None:
    assert run(["estimate", *arguments, "--json"]) == code
    error = document(capsys)
    assert said in error["message"]
    assert error["next_step"]


def test_the_text_tells_parts_band_moment_and_verdict_without_escape_codes(capsys: Output) -> None:
    assert run([*LLAMA, "--gpu", "4090"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    report = estimate_memory("llama-3.1-8b-instruct", gpu="4090")
    lines = text.splitlines()
    assert "8.03 billion parameters · licence Llama 3.1 Community · https://huggingface.co/meta-llama" in lines[0]
    assert lines[1] == "QLoRA training: 2,048 tokens, micro-batch 1, nf4, rank 16, checkpointing"
    assert lines[3] == memory_bar(report, 80, plain=True).plain
    for said in (
        f"base weights {report.parts['base weights'] / GIB:.2f}",
        f"{report.low_bytes / GIB:.2f} / {report.mid_bytes / GIB:.2f} / {report.high_bytes / GIB:.2f} GiB",
        f"reserved by torch {report.reserved_bytes / GIB:.2f} GiB",
        f"not counted by torch {report.context_bytes / GIB:.2f} GiB CUDA context",
        f"{report.paged_bytes / GIB:.2f} GiB paged optimiser state",
        f"nvidia-smi would show {report.device_bytes / GIB:.2f} GiB",
        f"needed to be sure {report.needed_bytes / GIB:.2f} GiB",
        f"fullest moment {report.moment}",
        "RTX 4090, 23.52 GiB fits, with",
        f"Next: {report.next_step}",
    ):
        assert said in re.sub(r"\s+", " ", text)


def test_a_terminal_gets_the_same_bar_in_coloured_blocks() -> None:
    report = estimate_memory("llama-3.1-70b-instruct", gpu="4090")
    stream = StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=120, markup=False)
    print_memory_report(console, report, {})
    assert "\x1b[38;2;0;114;178m███" in stream.getvalue()
    coloured, plain = (memory_bar(report, 100, plain=plain) for plain in (False, True))
    assert len(coloured) == len(plain) == 100
    assert coloured.plain.index("┃") == plain.plain.index("|")
    letters = "".join(part.mark for part in shown_parts(report))
    assert len(re.findall("█", coloured.plain)) == len(re.findall(f"[{letters}]", plain.plain))


def test_the_cells_of_the_bar_are_as_many_as_the_parts_are_large() -> None:
    report = estimate_memory("llama-3.1-8b-instruct", memory_limit_gib=10)
    bar = memory_bar(report, 81, plain=True).plain
    cells = 80 / report.gpu_bytes if report.gpu_bytes else 0
    for part in shown_parts(report):
        assert bar.count(part.mark) == pytest.approx(part.size * cells, abs=1)
    assert bar.count("+") == pytest.approx((report.device_bytes - report.mid_bytes) * cells, abs=1)
    assert bar.count("?") == pytest.approx((report.needed_bytes - report.device_bytes) * cells, abs=1)
    assert bar.endswith(".|")
    assert len(bar) == 81


def test_what_does_not_fit_stands_beyond_the_edge() -> None:
    report = estimate_memory("llama-3.1-70b-instruct", gpu="4090")
    assert report.gpu_bytes is not None
    bar = memory_bar(report, 81, plain=True).plain
    assert "." not in bar
    assert bar.index("|") == round(80 * report.gpu_bytes / report.needed_bytes)
    assert bar[bar.index("|") + 1] == "A"


def test_parts_come_biggest_first_and_small_ones_are_summed_up() -> None:
    report = estimate_memory("llama-3.1-8b-instruct")
    parts = shown_parts(report)
    assert sum(part.size for part in parts) == report.mid_bytes
    *large, other = parts
    assert [part.size for part in large] == sorted((part.size for part in large), reverse=True)
    assert all(part.size >= 0.005 * report.mid_bytes for part in large)
    assert other.name == "other"
    assert set(other.holds) | {part.name for part in large} == report.parts.keys()
    assert len({part.colour for part in parts}) == len({part.mark for part in parts}) == len(parts)


def test_models_of_every_kind_are_shown_in_full_width() -> None:
    for name in list(CATALOGUE)[::8]:
        report = estimate_memory(name, gpu="t4")
        stream = StringIO()
        print_memory_report(Console(file=stream, width=70, markup=False), report, {})
        assert len(stream.getvalue().splitlines()[3]) == 70, name


@pytest.mark.parametrize(("limit", "said"), [(9, "fits, with"), (7.9, "may fit but not for sure"), (7, "does not fit")])
def test_the_verdict_tells_sure_from_likely(limit: float, said: str) -> None:
    report = estimate_memory("llama-3.1-8b-instruct", memory_limit_gib=limit)
    assert verdict(report, round(limit * GIB)).startswith(said)


def test_settings_that_were_given_are_shown_and_those_of_another_task_are_not() -> None:
    settings = {"lora.use_dora": True, "training.micro_batch_size": 4, "training.gradient_checkpointing": False}
    report = estimate_memory("gpt2", settings=settings)
    assert settings_line(report, settings) == (
        "2,048 tokens, micro-batch 4, nf4, rank 16, no checkpointing, use_dora=True"
    )
    assert settings_line(report, settings, sized=False) == "nf4, rank 16, no checkpointing, use_dora=True"
    answering = estimate_memory("gpt2", task="inference", settings={"quantization.kind": "none"})
    assert settings_line(answering, {"quantization.kind": "none"}) == "2,048 tokens, micro-batch 1, 16-bit base"


def test_merging_tells_host_memory_and_disk_instead_of_a_gpu(capsys: Output) -> None:
    assert run([*LLAMA, "--task", "merging"]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    host = estimate_memory("llama-3.1-8b-instruct", task="merging").host
    assert host is not None
    assert f"host memory {host.memory_bytes / GIB:.2f} GiB disk for the result {host.disk_bytes / GIB:.2f} GiB" in text
    assert "torch" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        [*LLAMA, "--gpu", "4090"],
        [*BIG, "--gpu", "4090", "gradient_checkpointing=false"],
        ["estimate", "--model", "gpt2", "--task", "inference", "micro_batch_size=3"],
    ],
    ids=["fits", "spills over", "without a GPU"],
)
def test_both_pictures_are_png_files_of_a_size_that_can_be_read(
    arguments: list[str], tmp_path: Path, capsys: Output
) -> None:
    bar, cells = tmp_path / "bar.png", tmp_path / "map.PNG"
    assert run([*arguments, "--plot", str(bar), "--heat-map", str(cells), "--json"]) in (0, 3)
    assert document(capsys)["plots"] == [str(bar), str(cells)]
    for path in (bar, cells):
        width, height = png_size(path)
        assert 1000 <= width <= 2000
        assert 600 <= height <= 1000


def test_an_older_picture_is_replaced_and_merging_has_a_bar_too(tmp_path: Path, capsys: Output) -> None:
    bar = tmp_path / "bar.png"
    bar.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert run([*LLAMA, "--task", "merging", "--plot", str(bar)]) == 0
    assert png_size(bar)[0] > 1000
    assert f"Picture: {bar}" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--plot", "--heat-map"])
def test_a_picture_replaces_nothing_but_a_picture(option: str, tmp_path: Path, capsys: Output) -> None:
    taken = tmp_path / "notes.png"
    taken.write_text("mine")
    (tmp_path / "folder.png").mkdir()
    cases = {
        str(taken): "is not a PNG; it was left as it is",
        str(tmp_path / "folder.png"): "is a directory",
        str(tmp_path / "none" / "a.png"): "There is no directory",
        str(tmp_path / "a.jpg"): "does not end in .png",
        "-": "starts with '-'",
    }
    for path, said in cases.items():
        assert run([*LLAMA, option, path, "--json"]) == 2
        assert said in document(capsys)["message"]
    assert taken.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "notes.png", "programs"]


def test_pictures_that_cannot_be_are_refused(tmp_path: Path, capsys: Output) -> None:
    path = str(tmp_path / "a.png")
    assert run([*LLAMA, "--plot", path, "--heat-map", path, "--json"]) == 2
    assert "the same file" in document(capsys)["message"]
    assert run([*LLAMA, "--task", "merging", "--heat-map", path, "--json"]) == 2
    assert "merging has neither" in document(capsys)["message"]
    assert not Path(path).exists()


def test_without_matplotlib_a_picture_is_code_4_and_the_estimate_still_works(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run([*LLAMA, "--plot", str(tmp_path / "a.png"), "--json"]) == 4
    error = document(capsys)
    assert error["error"] == "MissingLibraryError"
    assert "pip install" in error["next_step"]
    assert run([*LLAMA]) == 0


@pytest.mark.parametrize(
    ("longest", "lengths"),
    [
        (None, (512, 1024, 2048, 4096, 8192, 16384, 32768)),
        (131_072, (512, 1024, 2048, 4096, 8192, 16384, 32768)),
        (5000, (512, 1024, 2048, 4096)),
        (512, (512,)),
        (256, (256,)),
    ],
)
def test_the_lengths_of_a_heat_map_double_up_to_what_the_model_takes(
    longest: int | None, lengths: tuple[int, ...]
) -> None:
    assert heat_map_lengths(longest) == lengths


def test_a_known_card_is_found_with_what_is_free_on_it(smi: Smi) -> None:
    smi("echo 'NVIDIA GeForce RTX 4090, 24564, 20000'")
    card = find_gpu("4090")
    here = gpu_here()
    assert here is not None
    assert (here.name, here.memory_bytes) == ("RTX 4090", card.usable_bytes)
    assert (here.free_memory_bytes, here.compute_capability) == (20_000 * 2**20, (8, 9))
    smi("echo 'NVIDIA GeForce RTX 4090, 24564, 24500'")
    here = gpu_here()
    assert here is not None
    assert here.free_memory_bytes == card.usable_bytes


def test_an_unknown_card_has_the_memory_that_nvidia_smi_tells(smi: Smi) -> None:
    smi("echo 'NVIDIA X9000, Max, 10000, 10000'")
    here = gpu_here()
    assert here is not None
    assert here.name == "NVIDIA X9000, Max"
    assert here.memory_bytes == here.free_memory_bytes == round(0.985 * 10_000 * 2**20)


def test_a_card_that_shares_the_memory_of_its_host_is_taken_from_the_table(smi: Smi) -> None:
    smi("echo 'NVIDIA GB10, [N/A], [N/A]'")
    assert gpu_here() == find_gpu("GB10").hardware()


@pytest.mark.parametrize("body", ["exit 9", "true", "echo 'No devices were found'", "echo 'NVIDIA X9000, 1, ?'"])
def test_where_nvidia_smi_tells_no_gpu_there_is_none(body: str, smi: Smi) -> None:
    smi(body)
    assert gpu_here() is None


def test_without_nvidia_smi_there_is_no_gpu() -> None:
    assert gpu_here() is None


@pytest.mark.parametrize(
    ("visible", "name"), [("1", "T4"), (" 1,0", "T4"), ("GPU-12ab-34", "L4"), ("", None), ("-1", None), ("MIG-1", None)]
)
def test_hidden_gpus_are_not_found(visible: str, name: str | None, smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    smi(
        'case "$*" in *--id=1) echo "Tesla T4, 15360, 15000";; *--id=GPU-12ab-34) echo "NVIDIA L4, 23034, 22000";; '
        '*) echo "NVIDIA A10, 23028, 22000";; esac'
    )
    here = gpu_here()
    assert (here.name if here else None) == name


def test_the_gpu_of_this_machine_is_planned_for_with_what_is_free(smi: Smi, capsys: Output) -> None:
    smi("echo 'NVIDIA GeForce RTX 4090, 24564, 6144'")
    assert run([*LLAMA, "--json"]) == 3
    found = document(capsys)
    assert (found["gpu"], found["gpu_bytes"], found["fits"]) == ("RTX 4090", 6 * GIB, False)
    assert "6.00 of its 23.52 GiB are free now" in found["notes"][-1]
    assert run([*LLAMA, "--gpu", "h100", "--json"]) == 0
    assert document(capsys)["gpu"] == "H100 PCIe"


def test_an_unknown_or_a_full_gpu_of_this_machine_is_planned_for_too(smi: Smi, capsys: Output) -> None:
    smi("echo 'NVIDIA X9000, 32768, 32768'")
    assert run([*LLAMA, "--json"]) == 0
    assert document(capsys)["gpu"] == "NVIDIA X9000"
    smi("echo 'NVIDIA X9000, 32768, 3'")
    assert run([*LLAMA, "--json"]) == 3
    assert document(capsys)["fits"] is False


def test_the_help_teaches_by_example(capsys: Output) -> None:
    assert run(["estimate", "--help"]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "qlora estimate --model llama-3.1-8b-instruct --gpu 4090" in text
    assert "NAME=VALUE sets a field of the run config" in text
