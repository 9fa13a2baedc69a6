"""Handing over to a server: the right arguments, every obstacle told before it starts, and one that really answers."""

import json
import os
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.adapters.record import read_adapter_record, write_record
from qlora_tools.cli.main import run as qlora
from qlora_tools.config.schema import QuantizationConfig
from qlora_tools.errors import MissingLibraryError, ModelError, UsageError
from qlora_tools.exporting.source import AdapterSource, find_source
from qlora_tools.serving import plan_serving, serve
from qlora_tools.serving.linked_model import make_linked_directory

from .small_adapters import small_adapter

Models = Callable[[str], Path]


@pytest.fixture(scope="module", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Links to models of tests do not belong into the cache of the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def run(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_adapter(tiny_model("qwen2"), tmp_path_factory.mktemp("run") / "tickets")


@pytest.fixture
def port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command called vllm on PATH."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def failed(plan: Any) -> dict[str, str]:
    return {check.name: check.message for check in plan.checks if not check.passed}


def test_a_merged_model_is_served_by_its_path(tiny_model: Models, port: int) -> None:
    plan = plan_serving(tiny_model("qwen2"), server="transformers", port=port)
    model = str(tiny_model("qwen2"))
    assert plan.command == [
        *(sys.executable, "-m", "transformers.cli.transformers", "serve", model),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    assert (plan.base, plan.model, plan.url) == ("merged", model, f"http://127.0.0.1:{port}/v1")
    assert failed(plan) == {} and plan.notes == []
    assert f"{plan.url}/chat/completions" in plan.curl and model in plan.curl and model in plan.python


@pytest.mark.parametrize(
    ("kind", "double", "option", "served", "noted"),
    [
        ("nf4", True, ["--quantization", "bnb-4bit"], "nf4", 1),
        ("nf4", False, ["--quantization", "bnb-4bit"], "nf4", 2),
        ("int8", True, ["--quantization", "bnb-8bit"], "int8", 1),
        ("fp4", True, [], "16-bit", 2),
        ("none", True, [], "16-bit", 1),
    ],
)
def test_an_adapter_is_served_on_a_base_in_the_quantisation_that_was_trained(
    kind: Any, double: bool, option: list[str], served: str, noted: int, tiny_model: Models, tmp_path: Path, port: int
) -> None:
    place = small_adapter(tiny_model("qwen2"), tmp_path / "run")
    trained = QuantizationConfig(kind=kind, double_quantization=double)
    record = read_adapter_record(place / "adapter").model_copy(update={"quantization": trained})
    write_record(place / "adapter", record)
    plan = plan_serving(place, server="transformers", port=port)
    assert plan.command[5:-4] == option
    assert (plan.base, len(plan.notes)) == (served, noted)
    assert not Path(plan.model).exists()  # a plan writes nothing


def test_what_was_trained_whole_is_refused_before_a_server_starts(
    tiny_model: Models, tmp_path: Path, port: int
) -> None:
    place = small_adapter(tiny_model("qwen2"), tmp_path / "run", {"modules_to_save": ["lm_head"]})
    with pytest.raises(ModelError, match="lm_head") as caught:
        serve(place, server="transformers", port=port)
    assert "qlora merge" in caught.value.next_step


def test_a_port_that_is_taken_is_told(run: Path, port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        plan = plan_serving(run, server="transformers", port=port)
    assert failed(plan) == {"port": f"Port {port} of 127.0.0.1 is in use."}
    assert f"--port, such as {port + 1}" in str(plan.checks[-1].next_step)


def test_a_host_that_others_reach_is_warned_of(run: Path, port: int) -> None:
    plan = plan_serving(run, server="transformers", host="0.0.0.0", port=port)
    assert any("asks for no password" in note for note in plan.notes)
    assert plan.url == f"http://127.0.0.1:{port}/v1"


def test_arguments_that_make_no_sense_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'ollama' is no server"):
        plan_serving(run, server="ollama")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not in 1 to 65535"):
        plan_serving(run, port=70_000)
    for word in ("--trust-remote-code", "--trust_remote", "--host=0.0.0.0", "--port", "--config=a.yaml"):
        with pytest.raises(UsageError, match="not handed on"):
            plan_serving(run, extra=[word])
    with pytest.raises(ModelError, match="does not exist"):
        plan_serving(tmp_path / "gone")


def test_without_vllm_the_line_that_installs_it_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingLibraryError, match="no command vllm") as caught:
        plan_serving(run, server="vllm")
    assert "pip install vllm" in caught.value.next_step


def test_without_the_libraries_of_the_server_the_line_that_installs_them_is_told(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("fastapi", "openai"):
        monkeypatch.setitem(sys.modules, name, None)
    for server in ("transformers", "auto"):
        with pytest.raises(MissingLibraryError) as caught:
            plan_serving(run, server=server)  # type: ignore[arg-type]
        assert "transformers[serving]" in caught.value.next_step


def test_vllm_gets_base_adapter_template_and_rank_and_needs_a_gpu(
    run: Path, tiny_model: Models, vllm: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    adapter = run / "adapter"
    plan = plan_serving(run, server="vllm", port=port, extra=["--max-model-len", "2048"])
    assert plan.command == [
        *(str(vllm), "serve", str(tiny_model("qwen2")), "--tokenizer", str(adapter)),
        *("--chat-template", str(adapter / "chat_template.jinja"), "--enable-lora", "--max-lora-rank", "8"),
        *("--lora-modules", json.dumps({"name": "tickets", "path": str(adapter)})),
        *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048"),
    ]
    assert (plan.model, plan.base) == ("tickets", "16-bit")
    assert "GPU" in failed(plan) and any("16 bits" in note for note in plan.notes)
    assert plan_serving(run, port=port).server == "transformers"  # without a GPU that is what works


def test_vllm_is_told_where_trained_answers_end_if_the_base_does_not_stop_there(
    tiny_model: Models, vllm: Path, tmp_path: Path, port: int
) -> None:
    place = small_adapter(tiny_model("qwen2"), tmp_path / "run")
    record = read_adapter_record(place / "adapter")
    write_record(place / "adapter", record.model_copy(update={"stop_token_ids": (2,)}))
    command = plan_serving(place, server="vllm", port=port).command
    told = Path(command[command.index("--generation-config") + 1])
    found = find_source(place)
    assert isinstance(found, AdapterSource) and found.base is not None
    assert make_linked_directory(found, found.base) == told
    assert json.loads((told / "generation_config.json").read_text())["eos_token_id"] == [*record.stop_token_ids, 2]


def test_a_dry_run_of_the_command_shows_the_plan_and_starts_nothing(
    run: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["serve", str(run), "--with", "transformers", "--dry-run", "--port", str(port)]
    assert qlora([*line, "--json", "--", "--log-level", "info"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["command"][-2:] == ["--log-level", "info"] and plan["server"] == "transformers"
    assert qlora(line) == 0
    shown = capsys.readouterr().out
    assert f"It answers at http://127.0.0.1:{port}/v1" in shown and "✓ port" in shown


@pytest.fixture
def llama(tiny_model: Models, tmp_path: Path) -> Path:
    """Transformers' server takes answers of Qwen apart, and drops white space; those of a Llama it passes on."""
    return small_adapter(tiny_model("llama"), tmp_path / "tickets")


@pytest.fixture
def served(llama: Path, port: int) -> Iterator[int]:
    """The port of a `qlora serve` that has loaded its model; its log tells when."""
    line = [sys.executable, "-m", "qlora_tools", "serve", str(llama), "--with", "transformers", "--port", str(port)]
    process = subprocess.Popen([*line, "--", "--device", "cpu"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log = []
    while "Uvicorn running" not in (log or [""])[-1]:
        log.append(process.stderr.readline())
        assert log[-1], "".join(log)
    yield port
    process.terminate()
    process.communicate(timeout=30)


@pytest.mark.slow
def test_transformers_serve_answers_over_http_as_the_adapter_does(served: int, llama: Path) -> None:
    from qlora_tools import generate

    asked = ["say two", "one", "six seven", "what is the capital of Japan?", "number"]
    answers = generate(llama, asked, side="both", max_new_tokens=8).answers
    expected = next(answer for answer in answers if answer.adapter != answer.base)
    (model,) = (Path(os.environ["QLORA_CACHE"]) / "served").glob("tickets-*")
    body = {"model": str(model), "messages": [{"role": "user", "content": expected.prompt}], "max_tokens": 8}
    request = urllib.request.Request(
        f"http://127.0.0.1:{served}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        told = json.loads(answer.read())["choices"][0]["message"]["content"]
    assert told == expected.adapter
