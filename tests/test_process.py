"""Real processes: the command beside the import, the built wheel in a clean environment, the server over stdio."""

import json
import os
import platform
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
Raw = Callable[..., dict[str, Any]]
Models = Callable[[str], Path]
pytestmark = pytest.mark.process


def qlora(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qlora_tools", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environment}
    )


def test_a_run_by_command_and_one_by_import_have_identical_losses(
    tiny_model: Models, chat_rows: Path, config_for: Raw, tmp_path: Path
) -> None:
    from qlora_tools import parse_config, train

    raw = config_for(tiny_model("llama"), chat_rows, data={"evaluation_fraction": 0.2})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    done = qlora("train", str(tmp_path / "run.yaml"), "--json")
    assert done.returncode == 0, done.stderr
    by_command = json.loads(done.stdout)
    raw["output"]["directory"] = str(tmp_path / "imported")
    by_import = train(parse_config(raw)).model_dump(mode="json")
    assert by_command["losses"] == by_import["losses"]
    assert by_command["evaluation_losses"] == {str(k): v for k, v in by_import["evaluation_losses"].items()}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is of x86 alone")
def test_a_cpu_without_avx2_is_code_4_and_nothing_is_written(
    tiny_model: Models, chat_rows: Path, config_for: Raw, tmp_path: Path
) -> None:
    raw = config_for(tiny_model("llama"), chat_rows)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    done = qlora("train", str(tmp_path / "run.yaml"), "--json", ATEN_CPU_CAPABILITY="default", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 4, done.stderr
    assert "no AVX2" in json.loads(done.stdout)["message"]
    assert not Path(raw["output"]["directory"]).exists()


def test_doctor_reports_this_machine_as_one_json_document() -> None:
    done = qlora("doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    checks = {check["name"]: check["status"] for check in report["checks"]}
    assert report["can_train"] is True
    assert checks["bitsandbytes 4-bit"] == "ok"
    assert {"Python", "torch", "GPU", "bfloat16", "disk"} <= checks.keys()


def test_a_bug_shows_its_traceback_and_code_1(tmp_path: Path) -> None:
    code = "from qlora_tools.cli import main; main.qlora.main = lambda *a, **k: 1 / 0; main.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(target), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(target.glob("*.whl"))


def test_the_wheel_holds_every_package_and_data_file_inside_qlora_tools_alone(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"qlora_tools"}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "qlora_tools").rglob("*") if path.is_file()}
    mapped = {
        f"qlora_tools/{path.relative_to(ROOT).as_posix()}"
        for top in ("server", "templates")
        for path in (ROOT / top).rglob("*.*")
    }
    expected = {name for name in sources | mapped if "__pycache__" not in name}
    assert expected - names == set()


def test_the_list_of_packages_is_complete() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "qlora_tools").rglob("__init__.py")}
    assert set(listed) == found | {"qlora_tools.server", "qlora_tools.server.tools", "qlora_tools.templates"}


def test_the_light_install_works_without_torch_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def clean(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    assert json.loads(clean("-m", "qlora_tools", "config", "schema", "--json").stdout)["title"] == "RunConfig"
    assert "# Memory" in clean("-m", "qlora_tools", "guide", "memory").stdout
    estimated = clean("-m", "qlora_tools", "estimate", "--model", "qwen3-8b", "--gpu", "4090", "--json")
    assert json.loads(estimated.stdout)["fits"] is True
    (tmp_path / "rows.jsonl").write_text('{"text": "a row"}\n' * 50)
    job = ("--model", "qwen3-8b", "--data", "rows.jsonl", "--gpu", "4090", "--json")
    assert json.loads(clean("-m", "qlora_tools", "plan", *job).stdout)["fits"] is True
    probed = clean("-m", "qlora_tools", "estimate", "--model", "gpt2", "--probe", "--json")
    assert (probed.returncode, "train" in json.loads(probed.stdout)["next_step"]) == (4, True)
    (tmp_path / "run.yaml").write_text("model: {name: ./m}\ndata: {path: r.jsonl}\noutput: {directory: out}\n")
    refused = clean("-m", "qlora_tools", "train", "run.yaml", "--json")
    assert refused.returncode == 4
    assert "pip install 'qlora-tools[train]'" in json.loads(refused.stdout)["next_step"]
    doctor = clean("-m", "qlora_tools", "doctor", "--json")
    assert doctor.returncode == 3
    assert clean("-c", "import qlora_tools.server, qlora_tools.templates").returncode == 0
    top_level = {
        path.name for path in Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "clean")})).iterdir()
    }
    assert not {"server", "templates", "torch", "transformers"} & top_level


def test_a_plain_checkout_works_without_installing() -> None:
    code = "import qlora_tools.server, qlora_tools.templates; print(qlora_tools.server.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert Path(done.stdout.strip()) == ROOT / "server" / "__init__.py"
