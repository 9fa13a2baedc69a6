"""The workspace guard: what may be read, what may be written, and that every path of a config passes it."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from qlora_tools.access import Access
from qlora_tools.access import folders as folders_module
from qlora_tools.config import RunConfig, dump_config, parse_config
from qlora_tools.errors import ConfigError, UsageError
from qlora_tools.paths import check_path_text

from .hostile_text import OUTSIDE_PATHS, SPECIAL_FILES, TOKEN, hidden_characters

SECRET = "the canary sings"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a workspace full of traps, and what may not be touched beside it."""
    for name in ("workspace", "outside", "workspace-beside", "home", "allowed", "cache/hub", "own/models"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QLORA_CACHE", str(tmp_path / "own"))
    (tmp_path / "outside" / "canary.jsonl").write_text(json.dumps({"text": SECRET}) + "\n")
    (tmp_path / "cache" / "token").write_text("hf_token")
    space = tmp_path / "workspace"
    (space / "data").mkdir()
    (space / ".qlora").mkdir()
    (space / "rows.jsonl").write_text('{"text": "a row"}\n')
    (space / "link-to-file.jsonl").symlink_to(tmp_path / "outside" / "canary.jsonl")
    (space / "link-to-folder").symlink_to("../outside")
    (space / "chain-of-links").symlink_to("link-to-folder")
    (space / "folder-with-link").mkdir()
    (space / "folder-with-link" / "inner.jsonl").symlink_to("../../outside/canary.jsonl")
    (space / "loop").symlink_to("loop")
    os.mkfifo(space / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(space / "socket.jsonl"))
    return tmp_path


def path_in(text: str, place: Path) -> str:
    text = text.replace("CANARY", str(place / "outside" / "canary.jsonl")).replace("FOLDER", str(place / "outside"))
    return text.replace("WORKSPACE", str(place / "workspace"))


def access(place: Path) -> Access:
    return Access(place / "workspace", (place / "allowed",))


def raw(**paths: Any) -> dict[str, Any]:
    return {
        "model": {"name": paths.get("model", "smollm2-135m-instruct")},
        "data": {"path": paths.get("data", "rows.jsonl"), **paths.get("more", {})},
        "output": {"directory": paths.get("output", "out")},
    }


@pytest.mark.parametrize("text", (*OUTSIDE_PATHS, *SPECIAL_FILES), ids=lambda text: ascii(text)[:40])
def test_a_path_that_leads_outside_is_refused_in_words_for_reading_and_writing(text: str, place: Path) -> None:
    for check in (access(place).to_read, access(place).to_write):
        with pytest.raises(UsageError) as caught:
            check(path_in(text, place), "data.path")
        message = caught.value.message
        assert message.startswith("data.path: ")
        assert len(message) < 700
        assert not hidden_characters(message, kept="")
        assert message.endswith(".")
        assert caught.value.next_step
        assert SECRET not in message


def test_what_lies_inside_is_resolved_and_need_not_exist(place: Path) -> None:
    space = place / "workspace"
    (space / "link").symlink_to("data")
    guard = access(place)
    assert guard.to_read("rows.jsonl", "path") == space / "rows.jsonl"
    assert guard.to_read("link/../data/./new.jsonl", "path") == space / "data" / "new.jsonl"
    assert guard.to_read("link/new.jsonl", "path") == space / "data" / "new.jsonl"
    assert guard.to_write(f"{space}/deep/er/still", "path") == space / "deep" / "er" / "still"
    assert guard.to_write("./-odd", "path") == space / "-odd"
    assert guard.to_read("données/数据 1½.jsonl", "path") == space / "données" / "数据 1½.jsonl"
    assert not (space / "deep").exists()


def test_a_link_that_is_swapped_later_changes_nothing(place: Path) -> None:
    space = place / "workspace"
    (space / "link").symlink_to("data")
    found = access(place).to_write("link/run", "output.directory")
    (space / "link").unlink()
    (space / "link").symlink_to(place / "outside")
    assert found == space / "data" / "run"


def test_a_workspace_that_is_named_by_a_link_is_the_folder_behind_it(place: Path) -> None:
    (place / "also").symlink_to(place / "workspace")
    guard = Access(place / "also")
    assert guard.workspace == place / "workspace"
    assert guard.to_read(str(place / "also" / "rows.jsonl"), "path") == place / "workspace" / "rows.jsonl"


def test_home_is_reached_by_a_tilde_only_where_it_lies_inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="lies outside"):
        access(place).to_read("~/rows.jsonl", "path")
    monkeypatch.setenv("HOME", str(place / "workspace"))
    assert access(place).to_read("~/rows.jsonl", "path") == place / "workspace" / "rows.jsonl"


def test_allowed_folders_and_the_model_cache_are_read_and_never_written(place: Path) -> None:
    for folder in ("allowed", "cache/hub", "own/models"):
        target = str(place / folder / "file")
        assert access(place).to_read(target, "path") == Path(target)
        with pytest.raises(UsageError, match="lies outside; allowed is what lies in the workspace"):
            access(place).to_write(target, "path")


def test_the_access_token_beside_the_model_cache_is_not_read(place: Path) -> None:
    with pytest.raises(UsageError, match=r"lies outside.*or the model cache"):
        access(place).to_read(str(place / "cache" / "token"), "path")


def test_a_refusal_to_read_tells_of_copying_and_of_allow_read(place: Path) -> None:
    with pytest.raises(UsageError) as caught:
        access(place).to_read("/etc/passwd", "data.path")
    assert caught.value.message == (
        f"data.path: '/etc/passwd' lies outside; allowed is what lies in the workspace {place}/workspace, "
        f"{place}/allowed or the model cache."
    )
    assert caught.value.next_step == "Copy it into the workspace, or start the server with --allow-read DIR."


def test_a_long_path_is_shown_without_its_middle_and_without_parts_of_words(place: Path) -> None:
    for before in range(130):
        text = f"/{'a' * before}/{TOKEN}/{'b' * 100}"
        with pytest.raises(UsageError, match="lies outside") as caught:
            access(place).to_read(text, "path")
        shown = caught.value.message.replace(TOKEN, "")
        assert TOKEN[:10] not in shown
        assert TOKEN[-10:] not in shown


@pytest.mark.parametrize("text", [".qlora", ".qlora/jobs/job-x/exit.json", ".QLORA/x", "link-to-store/x"])
def test_the_job_store_is_read_and_never_written(text: str, place: Path) -> None:
    (place / "workspace" / "link-to-store").symlink_to(".qlora")
    access(place).to_read(text, "path")
    with pytest.raises(UsageError, match=r"save its folder \.qlora"):
        access(place).to_write(text, "path")


def test_a_folder_is_not_handed_out_while_a_link_in_it_leads_outside(place: Path) -> None:
    space = place / "workspace"
    (space / "a" / "b").mkdir(parents=True)
    (space / "a" / "to-data").symlink_to("../data")
    (space / "a" / "to-itself").symlink_to(".")
    (space / "a" / "to-nothing").symlink_to("no-such-file")
    (space / "a" / "circle").symlink_to("circle")
    assert access(place).to_read("a", "path") == space / "a"
    # By way of a link that itself stays inside.
    (space / "data" / "leak.jsonl").symlink_to(place / "outside" / "canary.jsonl")
    with pytest.raises(UsageError, match=r"holds the link .*leak\.jsonl', which leads outside"):
        access(place).to_read("a", "path")


def test_an_output_folder_with_a_link_into_the_job_store_is_refused(place: Path) -> None:
    (place / "workspace" / "run").mkdir()
    (place / "workspace" / "run" / "metrics.jsonl").symlink_to("../.qlora/jobs")
    with pytest.raises(UsageError, match=r"holds the link 'metrics\.jsonl'"):
        access(place).to_write("run", "output.directory")


def test_a_pipe_deep_in_a_folder_is_found_before_anything_opens_it(place: Path) -> None:
    (place / "workspace" / "model" / "inner").mkdir(parents=True)
    os.mkfifo(place / "workspace" / "model" / "inner" / "config.json")
    with pytest.raises(UsageError, match=r"holds 'inner/config.json', which is a pipe"):
        access(place).to_read("model", "model.name")


def test_a_folder_too_large_to_look_through_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders_module, "MOST_ENTRIES", 20)
    for number in range(21):
        (place / "workspace" / "data" / f"{number}").write_text("")
    with pytest.raises(UsageError, match="holds more than 20 files"):
        access(place).to_read("data", "path")


def test_links_of_a_snapshot_into_the_model_cache_are_what_they_should_be(place: Path) -> None:
    snapshot = place / "cache" / "hub" / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (place / "cache" / "hub" / "models--a--b" / "blobs").mkdir()
    (place / "cache" / "hub" / "models--a--b" / "blobs" / "ff").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/ff")
    (place / "workspace" / "model").symlink_to(snapshot)
    checked = access(place).checked_config(parse_config(raw(model="./model")))
    assert checked.model.name == str(snapshot)
    (snapshot / "tokenizer.json").symlink_to(place / "outside" / "canary.jsonl")
    with pytest.raises(ConfigError, match=r"model\.name: './model' holds the link 'tokenizer.json'"):
        access(place).checked_config(parse_config(raw(model="./model")))


def paths_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The fields of a config that are paths, found by their check."""
    for name, field in model.model_fields.items():
        inner = [part for part in _models_in(field.annotation) if issubclass(part, BaseModel)]
        for part in inner:
            yield from paths_of(part, f"{prefix}{name}.")
        if check_path_text.__name__ in repr((field.annotation, field.metadata)):
            yield prefix + name


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)


def test_every_path_of_a_config_is_known_to_the_guard() -> None:
    assert sorted(paths_of(RunConfig)) == [
        "data.evaluation_path",
        "data.more_sources.path",
        "data.path",
        "model.name",
        "output.directory",
    ]


def test_all_paths_of_a_config_are_refused_at_once(place: Path) -> None:
    more = {"evaluation_path": "/etc/hosts", "more_sources": [{"path": "rows.jsonl"}, {"path": "../outside"}]}
    config = parse_config(raw(model="../outside", data="link-to-file.jsonl", output=".qlora/jobs", more=more))
    with pytest.raises(ConfigError) as caught:
        access(place).checked_config(config)
    assert [problem.field for problem in caught.value.problems] == [
        "model.name",
        "data.path",
        "data.more_sources.1.path",
        "data.evaluation_path",
        "output.directory",
    ]
    assert "--allow-read" in caught.value.message


def test_the_paths_of_a_config_become_absolute_and_names_stay(place: Path) -> None:
    space = place / "workspace"
    more = {"evaluation_path": "data", "more_sources": [{"path": "owner/rows"}, {"path": "data"}]}
    checked = access(place).checked_config(parse_config(raw(model="owner/model", more=more)))
    assert checked.model.name == "owner/model"
    assert checked.data.path == str(space / "rows.jsonl")
    assert checked.data.evaluation_path == str(space / "data")
    assert [part.path for part in checked.data.more_sources] == ["owner/rows", str(space / "data")]
    assert checked.output.directory == str(space / "out")
    assert access(place).checked_config(checked) == checked
    short = access(place).checked_config(parse_config(raw()))
    assert "more_sources" not in dump_config(short)
    assert parse_config(short.model_dump(mode="json")) == short


@pytest.mark.parametrize(
    ("path", "source"),
    [("rows.jsonl", "hub"), ("../x", "hub"), ("/etc", "hub"), ("a/../b", "hub")],
)
def test_a_source_cannot_make_a_path_pass_for_a_hub_id(path: str, source: str, place: Path) -> None:
    config = parse_config(raw(data=path, more={"source": source}))
    with pytest.raises(ConfigError, match=r"data\.path: .* is not a Hub id"):
        access(place).checked_config(config)


def test_a_model_directory_whose_adapter_config_names_another_model_is_refused(place: Path) -> None:
    (place / "workspace" / "model").mkdir()
    (place / "workspace" / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"model\.name: './model' holds an adapter"):
        access(place).checked_config(parse_config(raw(model="./model")))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", {"_data_files": [{"filename": "../../outside/data.arrow"}]}),
        ("state.json", {"_data_files": [{"filename": "/etc/data.arrow"}]}),
        ("state.json", {"_data_files": [{"filename": ".."}]}),
        ("state.json", {"_data_files": {"filename": "a"}}),
        ("dataset_dict.json", {"splits": ["../../outside"]}),
        ("dataset_dict.json", {"splits": ["file:"]}),
    ],
)
def test_a_saved_dataset_that_names_files_elsewhere_is_refused(file: str, content: object, place: Path) -> None:
    (place / "workspace" / "data" / file).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"data\.path: './data' is a saved dataset whose"):
        access(place).checked_config(parse_config(raw(data="./data")))


def test_a_saved_dataset_is_let_pass(place: Path) -> None:
    data = place / "workspace" / "data"
    (data / "train").mkdir()
    (data / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (data / "train" / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    assert access(place).checked_config(parse_config(raw(data="./data"))).data.path == str(data)
    (data / "train" / "state.json").write_text('{"_data_files": [{"filename": "../../../outside/x"}]}')
    with pytest.raises(ConfigError, match=r"state\.json names '../../../outside/x'"):
        access(place).checked_config(parse_config(raw(data="./data")))


def adapter(place: Path, record: dict[str, Any] | None, **config: Any) -> Path:
    directory = place / "workspace" / "run" / "adapter"
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    (directory / "adapter_model.safetensors").write_bytes(b"")
    if record is not None:
        whole = {"base_source": "local", "base_revision": None, **record}
        (directory / "qlora_tools.json").write_text(json.dumps(whole))
    return directory


@pytest.mark.parametrize(
    ("record", "config", "reason"),
    [
        ({"base_name": "OUTSIDE"}, {}, "names the base model .* lies outside"),
        ({"base_name": "~/model"}, {}, "names the base model .* lies outside"),
        ({"base_name": "model"}, {}, "by the relative path 'model'"),
        ({"base_name": "../outside"}, {}, "by the relative path"),
        ({"base_name": "../outside", "base_source": "hub"}, {}, "is not a Hub id"),
        ({"base_name": "no-such-name", "base_source": "catalogue"}, {}, "names no usable base"),
        ({"base_name": "a/b", "base_source": "hub", "base_revision": "../../x"}, {}, "names no base model"),
        ({"base_name": 5}, {}, "names no base model"),
        (None, {"base_model_name_or_path": "/etc"}, "names the base model '/etc', which lies outside"),
        (None, {"base_model_name_or_path": "./outside"}, "by the relative path"),
        (None, {"base_model_name_or_path": "gpt2"}, "by the relative path 'gpt2'"),
        (None, {}, "by the relative path 'None'"),
        (None, {"base_model_name_or_path": "a\x00b"}, "names no base model"),
        ({"base_name": "a/b", "base_source": "hub"}, {"peft_type": "XLORA"}, "the kind 'XLORA'; allowed is LORA"),
    ],
)
def test_an_adapter_that_leads_elsewhere_is_refused(
    record: dict[str, Any] | None, config: dict[str, Any], reason: str, place: Path
) -> None:
    if record and record["base_name"] == "OUTSIDE":
        record = {**record, "base_name": str(place / "outside")}
    adapter(place, record, **config)
    for path in ("run", "run/adapter"):
        with pytest.raises(UsageError, match=reason) as caught:
            access(place).checked_adapter(path, "adapter")
        assert caught.value.message.startswith(f"adapter: '{path}' ")


def test_an_adapter_whose_base_may_be_read_is_let_pass(place: Path) -> None:
    directory = adapter(place, {"base_name": str(place / "allowed")})
    assert access(place).checked_adapter("run", "adapter") == directory.parent
    assert access(place).checked_adapter("run/adapter", "adapter") == directory
    for record in ({"base_name": "a/b", "base_source": "hub", "base_revision": "main"},):
        (directory / "qlora_tools.json").write_text(json.dumps(record))
        assert access(place).checked_adapter("run", "adapter") == directory.parent
    (directory / "qlora_tools.json").unlink()
    (directory / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "a/b"}')
    assert access(place).checked_adapter("run", "adapter") == directory.parent


def test_a_folder_without_an_adapter_and_damaged_ones_are_told(place: Path) -> None:
    for text, reason in (("data", "holds no adapter"), ("no-such", "holds no adapter"), ("../x", "lies outside")):
        with pytest.raises(UsageError, match=reason):
            access(place).checked_adapter(text, "adapter")
    directory = adapter(place, None)
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(UsageError, match=r"has no adapter_model.safetensors, only 'adapter_model.bin': pickles"):
        access(place).checked_adapter("run", "adapter")
    (directory / "adapter_model.bin").rename(directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="no JSON object"):
        access(place).checked_adapter("run", "adapter")
