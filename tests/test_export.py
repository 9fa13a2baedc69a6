"""What is handed to other tools: loadable there, without a path of this machine, and asked as it was trained."""

import json
import os
import shutil
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Callable
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from qlora_tools.cli.main import run as qlora
from qlora_tools.errors import DiskSpaceError, ModelError, QloraError, UsageError, WorkStopped
from qlora_tools.exporting import check_export, export, push

from .families import FAMILIES
from .small_adapters import small_adapter

Models = Callable[[str], Path]
BASE = "acme/tiny-qwen"


@pytest.fixture(scope="module")
def run(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_adapter(tiny_model("qwen2"), tmp_path_factory.mktemp("run") / "tickets")


@pytest.fixture(scope="module")
def package(run: Path) -> Path:
    target = run.parent / "package"
    export(run, to="adapter", output=target, base_name=f"{BASE}@abc123")
    return target


def texts_of(directory: Path) -> dict[str, str]:
    weights = (".safetensors", ".gguf")
    files = [path for path in directory.rglob("*") if path.is_file() and not path.name.endswith(weights)]
    return {path.name: path.read_text(encoding="utf-8") for path in files}


def test_a_package_holds_what_other_tools_load_and_its_checksums_are_right(package: Path) -> None:
    assert sorted(path.name for path in package.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "checksums.sha256",
        "export.json",
        "generation_config.json",
        "qlora_tools.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_record.json",
    ]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "checksums.sha256"], cwd=package, check=True)


def test_no_path_of_this_machine_and_no_row_of_the_data_is_in_a_package(package: Path, run: Path) -> None:
    for name, text in texts_of(package).items():
        for hidden in (str(run.parent.parent), str(Path.home()) + "/", "/tmp/", "my secret row"):
            assert hidden not in text, name


def test_plain_peft_loads_a_package_and_computes_what_the_adapter_did(
    package: Path, run: Path, tiny_model: Models
) -> None:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    def logits(directory: Path) -> torch.Tensor:
        base = AutoModelForCausalLM.from_pretrained(tiny_model("qwen2"), dtype=torch.float32)
        model = PeftModel.from_pretrained(base, directory).eval()
        with torch.no_grad():
            return model(torch.arange(20)[None]).logits  # type: ignore[no-any-return]

    assert torch.equal(logits(package), logits(run / "adapter"))
    named = PeftConfig.from_pretrained(package)
    assert (named.base_model_name_or_path, named.revision) == (BASE, "abc123")


def test_a_package_is_an_adapter_that_can_be_exported_again(package: Path, tmp_path: Path) -> None:
    again = export(package, to="adapter", output=tmp_path / "again", name="second")
    assert (again.base, again.name) == (BASE, "second")
    assert any("not on this machine" in note for note in again.notes)
    first, second = (
        json.loads((place / "training_record.json").read_text()) for place in (package, tmp_path / "again")
    )
    assert first == second and first["sources"][0]["name"] == "tickets-rows.jsonl"


def test_rounding_to_bfloat16_halves_the_weights_and_is_told(run: Path, package: Path, tmp_path: Path) -> None:
    made = export(run, to="adapter", output=tmp_path / "half", base_name=BASE, dtype="bfloat16")
    size = {file.name: file.size_bytes for file in made.files}["adapter_model.safetensors"]
    assert size < 0.6 * (package / "adapter_model.safetensors").stat().st_size
    (told,) = [note for note in made.notes if "rounded to bfloat16" in note]
    assert 0 < float(told.split("by ")[1].split(" %")[0]) < 0.4  # half a unit in the eighth bit, at most
    assert (tmp_path / "half" / "adapter_model.safetensors").stat().st_mode & 0o044


def test_a_base_that_is_a_directory_only_has_to_be_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="directory of this machine") as caught:
        export(run, to="adapter", output=tmp_path / "out")
    assert "--base-name" in caught.value.next_step
    for name in ("tiny", "a/b/c", "a/b@../c", "~/model", "a/b@x y"):
        with pytest.raises(UsageError):
            export(run, to="adapter", output=tmp_path / "out", base_name=name)
    assert not (tmp_path / "out").exists()


def without_tensors(place: Path) -> None:
    (place / "adapter" / "adapter_model.safetensors").write_bytes(b"\0" * 100)


def without_adapter(place: Path) -> None:
    shutil.rmtree(place / "adapter")


def with_another_base(place: Path) -> None:
    config = place / "adapter" / "qlora_tools.json"
    config.write_text(config.read_text().replace("qwen2", "gone"), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_tensors, "cannot be read"),
        (without_adapter, "has not ended with an adapter"),
        (with_another_base, "is not there"),
    ],
)
def test_a_broken_adapter_is_refused_before_anything_is_written(
    spoil: Callable[[Path], None], told: str, run: Path, tmp_path: Path
) -> None:
    place = tmp_path / "broken"
    shutil.copytree(run, place)
    spoil(place)
    with pytest.raises(ModelError, match=told):
        export(place, to="adapter", output=tmp_path / "out", base_name=BASE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def quantised(place: Path) -> None:
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}}))


def cut_off(place: Path) -> None:
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def without_a_shard(place: Path) -> None:
    (place / "model.safetensors").rename(place / "model-00001-of-00002.safetensors")
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(shards))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(quantised, "is quantised"), (cut_off, "cannot be read"), (without_a_shard, "lacks 1 of 2 shards")],
)
def test_a_broken_model_is_refused_before_anything_is_written(
    spoil: Callable[[Path], None], told: str, tiny_model: Models, tmp_path: Path
) -> None:
    place = tmp_path / "broken"
    shutil.copytree(tiny_model("qwen2"), place)
    spoil(place)
    with pytest.raises(ModelError, match=told):
        export(place, to="gguf", output=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def test_wrong_arguments_are_refused_in_words(run: Path, tiny_model: Models, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    asked: dict[str, tuple[Path, dict[str, Any]]] = {
        "Nothing is exported to 'onnx'": (run, {"to": "onnx"}),
        "The dtype 'q8_0' is none of": (run, {"to": "adapter", "dtype": "q8_0"}),
        "exists": (run, {"to": "adapter", "output": tmp_path / "there"}),
        "is too long": (run, {"to": "adapter", "output": tmp_path / ("x" * 250)}),
        "has letters that": (run, {"to": "adapter", "name": "a name/with"}),
        "is a whole model": (tiny_model("qwen2"), {"to": "vllm"}),
        "does not exist": (tmp_path / "gone", {"to": "gguf"}),
        "is a file": (run / "config.yaml", {"to": "gguf"}),
        "holds no adapter and no model": (tmp_path / "there", {"to": "gguf"}),
    }
    for told, (source, arguments) in asked.items():
        with pytest.raises(QloraError, match=told):
            check_export(source, **{"output": tmp_path / "out", "base_name": BASE, **arguments})


def test_a_disk_without_room_is_told_before_anything_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskSpaceError, match=r"0\.06 GiB"):
        export(run, to="adapter", output=tmp_path / "out", base_name=BASE)
    assert list(tmp_path.iterdir()) == []


def test_the_very_same_export_is_told_again_and_another_is_refused(run: Path, package: Path) -> None:
    asked: dict[str, Any] = {"to": "adapter", "output": package, "base_name": f"{BASE}@abc123"}
    again = export(run, **asked)
    assert sorted(file.name for file in again.files) == sorted([*texts_of(package), "adapter_model.safetensors"])
    assert (again.directory, again.name, again.base) == (str(package), "tickets", BASE)
    for changed in ({"name": "other"}, {"dtype": "bfloat16"}, {"base_name": BASE}):
        with pytest.raises(UsageError, match="exists"):
            export(run, **{**asked, **changed})
    with pytest.raises(UsageError, match="exists"):
        check_export(run, **asked)


def test_a_template_that_was_changed_since_the_training_is_refused(run: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(run, tmp_path / "run"))
    template = place / "adapter" / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "Assistant"))
    for to in ("adapter", "vllm", "gguf", "ollama"):
        with pytest.raises(ModelError, match="not the one that the adapter was trained with"):
            check_export(place, to=to, output=tmp_path / "out", base_name=BASE)


def test_a_stopped_export_leaves_nothing(run: Path, tmp_path: Path) -> None:
    for dtype in (None, "bfloat16"):
        with pytest.raises(WorkStopped):
            export(run, to="adapter", output=tmp_path / "out", base_name=BASE, dtype=dtype, stop=lambda: True)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_command_for_vllm_is_a_list_with_the_rank_that_vllm_allows(run: Path, tmp_path: Path) -> None:
    made = export(run, to="vllm", output=tmp_path / "out", base_name=f"{BASE}@abc123", name="tickets")
    told = json.loads((tmp_path / "out" / "vllm_command.json").read_text())
    assert told["arguments"] == [
        *(
            "vllm",
            "serve",
            BASE,
            "--revision",
            "abc123",
            "--tokenizer",
            ".",
            "--chat-template",
            "./chat_template.jinja",
        ),
        *("--generation-config", ".", "--enable-lora", "--max-lora-rank", "8"),
        *("--lora-modules", '{"name": "tickets", "path": "."}'),
    ]
    assert told["shown"] in (tmp_path / "out" / "README.md").read_text()
    assert any("16 bits" in note for note in made.notes)


@pytest.mark.parametrize(
    ("settings", "rank", "told"),
    [
        ({"use_dora": True}, 4, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, 4, "trained whole: lm_head"),
        ({"trainable_token_indices": [1, 2]}, 4, "single trained tokens"),
        ({"init_lora_weights": "pissa"}, 4, "began as pissa"),
        ({"bias": "lora_only"}, 4, "trained biases"),
        ({}, 600, "Rank 600 is above the 512"),
    ],
)
def test_what_vllm_would_refuse_is_refused_with_the_way_out(
    settings: dict[str, Any], rank: int, told: str, tiny_model: Models, tmp_path: Path
) -> None:
    place = small_adapter(tiny_model("qwen2"), tmp_path / "run", settings, rank)
    with pytest.raises(ModelError, match=told) as caught:
        export(place, to="vllm", output=tmp_path / "out", base_name=BASE)
    assert "qlora merge" in caught.value.next_step
    assert export(place, to="adapter", output=tmp_path / "out", base_name=BASE).to == "adapter"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_exported_form_asks_as_the_model_was_trained(family: str, tiny_model: Models, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from qlora_tools.data.rendering import Renderer
    from qlora_tools.merging.companions import copy_tokenizer

    place = small_adapter(tiny_model(family), tmp_path / "run")
    export(place, to="vllm", output=tmp_path / "vllm", base_name=BASE)
    (tmp_path / "merged").mkdir()
    copy_tokenizer(tiny_model(family), place / "adapter", tmp_path / "merged")
    trained = Renderer(AutoTokenizer.from_pretrained(place / "adapter"), "chat_template")
    packed, merged = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("vllm", "merged"))
    template = (tmp_path / "vllm" / "chat_template.jinja").read_text(encoding="utf-8")
    first = [{"role": "user", "content": "one <two> \n"}]
    more = [*first, {"role": "assistant", "content": "three"}, {"role": "user", "content": "four & 'five'"}]
    for turns in (first, more):
        expected = trained.prompt(turns)  # type: ignore[arg-type]
        ids = trained.tokenizer(expected, add_special_tokens=False)["input_ids"]
        for tokenizer in (packed, merged):
            asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
            assert asked["input_ids"] == ids
        by_file = merged.apply_chat_template(turns, chat_template=template, add_generation_prompt=True, tokenize=False)
        assert by_file == expected


def test_a_model_directory_becomes_gguf_with_a_card(tiny_model: Models, tmp_path: Path) -> None:
    made = export(tiny_model("qwen2"), to="gguf", output=tmp_path / "out", name="tiny", dtype="q8_0")
    assert [file.name for file in made.files] == [
        "README.md",
        "checksums.sha256",
        "export.json",
        "tiny-q8_0.gguf",
        "training_record.json",
    ]
    assert made.gguf is not None and made.gguf.check.passed and made.gguf.file == "tiny-q8_0.gguf"
    assert made.template is not None and made.template.passed and made.template.form == "gguf"
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told["gguf"] == made.gguf.model_dump(mode="json") and told["template"]["passed"]
    assert str(tmp_path) not in json.dumps(told)
    assert "llama-server -m tiny-q8_0.gguf" in (tmp_path / "out" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("trained", "written"), [(96, 2048), (3000, 3000), (9000, 4096), (None, 4096)])
def test_the_context_in_a_modelfile_has_room_for_more_than_short_rows(
    trained: int | None, written: int, tiny_model: Models, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model("qwen2"), tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    (model / "training_record.json").write_text(json.dumps({"max_length_tokens": trained}))
    export(model, to="ollama", output=tmp_path / "out")
    assert f"PARAMETER num_ctx {written}\n" in (tmp_path / "out" / "Modelfile").read_text()


@pytest.mark.slow
def test_an_adapter_is_merged_on_the_way_to_ollama_and_the_proof_is_told(run: Path, tmp_path: Path) -> None:
    made = export(run, to="ollama", output=tmp_path / "out", base_name=BASE)
    assert made.parity is not None and made.parity.passed
    names = [file.name for file in made.files]
    assert names == [
        *("Modelfile", "README.md", "checksums.sha256", "export.json", "model.gguf", "training_record.json"),
    ]
    assert made.template is not None and made.template.form == "ollama" and made.gguf is not None
    card = (tmp_path / "out" / "README.md").read_text()
    assert "top-1 agreement" in card and "dequantised from nf4" in card and BASE in card
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command_exports_and_shows_what_it_would_upload(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    line = [
        "export",
        str(run),
        "--to",
        "adapter",
        "-o",
        str(tmp_path / "out"),
        "--base-name",
        BASE,
        "--push",
        "me/tickets",
    ]
    assert qlora([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["push"]["pushed"] is False and told["push"]["private"] is True
    assert told["push"]["missing"] == ["HF_TOKEN is not set"]
    assert [file["name"] for file in told["push"]["files"]] == [file["name"] for file in told["files"]]
    assert qlora([*line[:5], str(tmp_path / "more"), *line[6:], "--yes"]) == 2
    assert "HF_TOKEN is not set" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


def test_nothing_is_pushed_to_what_is_no_repository_or_with_what_does_not_belong_there(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    for name in ("tickets", "me/../tickets", "me/tick ets", "-me/x", "https://huggingface.co/me/x"):
        with pytest.raises(UsageError, match="no repository"):
            push(package, name)
    for name in (".env", "weights.bin", "a b.txt"):
        place = tmp_path / name.strip(".")
        shutil.copytree(package, place)
        (place / name).write_text("x")
        with pytest.raises(ModelError, match="not uploaded"):
            push(place, "me/tickets")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="no model card"):
        push(tmp_path / "empty", "me/tickets", dry_run=False)


class _Hub(BaseHTTPRequestHandler):
    """The endpoints of the Hub that an upload of small files meets."""

    asked: ClassVar[list[tuple[str, str | None, bytes]]] = []
    private = True

    def do_GET(self) -> None:
        self._answer(
            {"id": "me/tickets", "modelId": "me/tickets", "private": self.private, "siblings": [], "sha": "0" * 40}
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        if self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
            )
        elif "/commit/" in self.path:
            self._answer({"commitUrl": f"{self._home()}/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None})
        else:
            self._answer({"url": self._home(), "name": "me/tickets"})

    def _home(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/me/tickets"  # type: ignore[attr-defined]

    def _answer(self, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize("private", [True, False])
def test_a_push_sends_exactly_the_files_with_the_token_of_the_environment(private: bool, package: Path) -> None:
    _Hub.asked, _Hub.private = [], True
    hub = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    token = "hf_" + "s" * 30
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    script = (
        "import sys; from qlora_tools import push; "
        f"print(push(sys.argv[1], 'me/tickets', private={private}, dry_run=False).model_dump_json())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(package)],
        env={**os.environ, "HF_HUB_DISABLE_XET": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    hub.shutdown()
    hub.server_close()
    assert token not in done.stdout + done.stderr
    assert {authorization for _, authorization, _ in _Hub.asked} == {f"Bearer {token}"}
    commits = [body for path, _, body in _Hub.asked if "/commit/" in path]
    if not private:
        assert "exists and is private; nothing was uploaded" in done.stderr and commits == []
        return
    told = json.loads(done.stdout)
    assert told["pushed"] and told["url"].endswith("/me/tickets/commit/1")
    lines = [json.loads(line) for line in commits[0].splitlines()]
    sent = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
    assert sorted(sent) == sorted(file["name"] for file in told["files"])
    assert b64decode(sent["README.md"]) == (package / "README.md").read_bytes()


def cached_base(run: Path, target: Path, hub: Path, tiny: Path) -> Path:
    """The run with its base in the Hub's cache below `hub`, as a download of acme/tiny-qwen lays it there."""
    snapshot = hub / "models--acme--tiny-qwen" / "snapshots" / ("a" * 40)
    shutil.copytree(tiny, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("a" * 40)
    shutil.copytree(run, target)
    record = target / "adapter" / "qlora_tools.json"
    told = json.loads(record.read_text()) | {"base_name": BASE, "base_source": "hub", "base_revision": "a" * 40}
    record.write_text(
        json.dumps(told | {"base_config_sha256": sha256((tiny / "config.json").read_bytes()).hexdigest()})
    )
    return target


def test_a_base_in_the_cache_of_the_hub_is_compared_and_named_with_its_revision(
    run: Path, tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    place = cached_base(run, tmp_path / "run", tmp_path / "hub", tiny_model("qwen2"))
    made = export(place, to="adapter", output=tmp_path / "out")
    assert (made.base, made.notes) == (BASE, [])
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (BASE, "a" * 40)
    (tmp_path / "hub" / "models--acme--tiny-qwen" / "snapshots" / ("a" * 40) / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="not the model that the adapter was trained on"):
        export(place, to="adapter", output=tmp_path / "more")
