"""`qlora script`, `qlora config explain --script`, the tool `render_script` and the scripts of jobs."""

import ast
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qlora_tools import parse_config, render_script
from qlora_tools.cli.main import run
from qlora_tools.errors import UsageError
from qlora_tools.jobs.layout import Workspace
from qlora_tools.scripts.kinds import KINDS

from .finished_jobs import write_finished_jobs
from .server_talk import called, talk, text_of

Output = pytest.CaptureFixture[str]
STALE = """from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainingArguments
from peft import LoraConfig, get_peft_model
quantization = BitsAndBytesConfig(load_in_4bit=True)
model = AutoModelForCausalLM.from_pretrained("a/b", quantization_config=quantization)
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, task_type="CAUSAL_LM"))
arguments = TrainingArguments(output_dir="out", evaluation_strategy="steps", seed=1)
"""


@pytest.fixture
def raw(tmp_path: Path, tiny_model: Callable[[str], Path], chat_rows: Path) -> dict[str, Any]:
    (tmp_path / "rows.jsonl").write_bytes(chat_rows.read_bytes())
    return {
        "model": {"name": str(tiny_model("llama"))},
        "data": {"path": str(tmp_path / "rows.jsonl")},
        "output": {"directory": str(tmp_path / "out")},
        "training": {"max_length_tokens": 64},
    }


@pytest.fixture
def config(tmp_path: Path, raw: dict[str, Any]) -> str:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    return str(tmp_path / "run.yaml")


def test_a_script_goes_to_stdout_and_notes_to_stderr(config: str, capsys: Output) -> None:
    assert run(["script", config]) == 0
    shown = capsys.readouterr()
    assert ast.get_docstring(ast.parse(shown.out))
    assert "--dry-run" in shown.err
    assert "Every name in it exists in" in shown.err


def test_a_script_is_written_once_and_replaced_only_when_told(config: str, tmp_path: Path, capsys: Output) -> None:
    script = tmp_path / "train.py"
    assert run(["script", config, "-o", str(script), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == str(script)
    assert document["text"] == script.read_text()
    assert script.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH) == 0
    script.write_text("mine")
    assert run(["script", config, "-o", str(script)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert script.read_text() == "mine"
    assert run(["script", config, "-o", str(script), "--overwrite"]) == 0
    assert script.read_text() == document["text"]
    assert [path.name for path in tmp_path.iterdir() if ".partial" in path.name] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kind", "training"], ["'training' is not a kind", *KINDS]),
        (["--kind", "slurm", "gpu=4"], ["'gpu' is no setting of a slurm script", "gpus"]),
        (["--kind", "slurm", "gpus=many"], ["gpus is 'many'; a whole number is allowed"]),
        (["gpus=4"], ["it has none"]),
        (["--kind", "slurm", "gpus=4", "gpus=2"], ["given twice"]),
        (["--adapter", "out"], ["A train script takes no adapter"]),
        (["-o", "no/such/folder/train.py"], ["a directory that is not there"]),
    ],
)
def test_a_wrong_call_says_what_is_allowed(config: str, arguments: list[str], words: list[str], capsys: Output) -> None:
    assert run(["script", config, *arguments]) == 2
    shown = capsys.readouterr().err
    assert [word for word in words if word not in shown] == []


def test_a_wrong_config_is_refused_with_all_its_problems(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "run.yaml").write_text("model: {name: smollm2-135m-instruct}\n")
    assert run(["script", str(tmp_path / "run.yaml")]) == 2
    assert "output" in capsys.readouterr().err


def test_rows_in_tokens_lie_beside_the_script(raw: dict[str, Any], tmp_path: Path) -> None:
    more = {"path": raw["data"]["path"], "weight": 0.5}
    mixed = parse_config({**raw, "data": {**raw["data"], "more_sources": [more]}})
    result = render_script(mixed, output=tmp_path / "mixed.py")
    (rows,) = result.files
    assert Path(rows).name == "mixed.rows.jsonl"
    assert json.loads(Path(rows).read_text().splitlines()[0]).keys() == {"input_ids", "labels"}
    (tmp_path / "mixed.py").unlink()
    with pytest.raises(UsageError, match="is there already"):
        render_script(mixed, output=tmp_path / "mixed.py")
    assert not (tmp_path / "mixed.py").exists()


def test_why_a_line_stands_there_is_told_on_the_command_line(config: str, capsys: Output) -> None:
    assert run(["script", config]) == 0
    text = capsys.readouterr().out
    number = next(place for place, line in enumerate(text.splitlines(), 1) if line.startswith("LORA_RANK"))
    assert run(["config", "explain", config, "--script", "--line", str(number)]) == 0
    told = capsys.readouterr().out
    assert "lora.rank = 16" in told
    assert "why: " in told
    assert run(["config", "explain", config, "--script", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["lines"]
    assert any(item["field"] == "lora.rank" and item["first"] == number for item in lines)


def test_lint_says_what_is_wrong_and_ends_with_three(tmp_path: Path, capsys: Output) -> None:
    script = tmp_path / "theirs.py"
    script.write_text(STALE)
    assert run(["script", "lint", str(script)]) == 3
    assert "evaluation_strategy" in capsys.readouterr().out
    assert run(["script", "lint", str(script), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["errors"] >= 1
    script.write_text("print('nothing to train')\n")
    assert run(["script", "lint", str(script)]) == 0
    script.write_text("def broken(:\n")
    assert run(["script", "lint", str(script)]) == 2
    assert run(["script", "lint", str(tmp_path / "none.py")]) == 2


SLURM = {"kind": "slurm", "settings": {"gpus": 2}}


def test_the_tool_writes_a_file_of_the_workspace_once_and_explains_it(raw: dict[str, Any], tmp_path: Path) -> None:
    asked = {"config": {**raw, "model": {"name": "smollm2-135m-instruct"}}, **SLURM}

    async def work(client: Any) -> list[Any]:
        told = [await client.call_tool("render_script", {**asked, "output_path": "train.sbatch"}) for _ in range(2)]
        about = {name: value for name, value in asked.items() if name != "settings"}
        script = {**about, "script_path": "train.sbatch"}
        return [*told, *[await client.call_tool("render_script", more) for more in ({**script, "line": 5}, script)]]

    written, again, line, whole = talk(tmp_path, work)
    assert not written.is_error, text_of(written)
    assert written.structured_content["path"] == str(tmp_path / "train.sbatch")
    assert "--gpus-per-node=2" in (tmp_path / "train.sbatch").read_text()
    assert "text" not in written.structured_content
    assert {"first", "last", "field"} <= written.structured_content["lines"][0].keys()
    assert again.is_error
    assert "is there already" in text_of(again)
    assert line.structured_content["lines"][0]["field"] == "slurm_resources"
    assert all(line.structured_content["lines"][0][name] for name in ("reason", "source", "effect"))
    assert "--gpus-per-node=1" in str(whole.structured_content["changed"])
    assert all(len(text_of(result)) <= 1_900 for result in (written, line, whole))


@pytest.mark.slow
def test_the_tool_writes_a_training_script(
    raw: dict[str, Any], tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    async def work(client: Any) -> list[Any]:
        written = await client.call_tool("render_script", {"config": raw, "output_path": "train.py"})
        return [
            written,
            await client.call_tool("render_script", {"config": raw, "script_path": "train.py", "line": 60}),
        ]

    written, line = talk(tmp_path, work, allow_read=(tiny_model("llama").resolve(),))
    assert written.structured_content["checked"].keys() >= {"transformers", "trl"}
    assert (tmp_path / "train.py").read_text().startswith("# /// script")
    assert "changed" not in line.structured_content
    assert line.structured_content["text"] in (tmp_path / "train.py").read_text()


def test_the_tool_lints_a_script_and_keeps_to_the_workspace(tmp_path: Path, raw: dict[str, Any]) -> None:
    (tmp_path / "theirs.py").write_text(STALE)
    found = called(tmp_path, "render_script", script_path="theirs.py")
    assert {item["severity"] for item in found.structured_content["findings"]} >= {"error"}
    assert "evaluation_strategy" in text_of(found)
    own = {**raw, "model": {"name": "smollm2-135m-instruct"}}
    for arguments, words in (
        ({"script_path": "/etc/passwd"}, "script_path"),
        ({"config": own, "output_path": "../train.py"}, "output_path"),
        ({"script_path": "theirs.py", "output_path": "b.py", "config": own}, "Give one"),
        ({}, "Neither config nor script_path"),
    ):
        refused = called(tmp_path, "render_script", **arguments)
        assert refused.is_error
        assert words in text_of(refused)


def test_the_script_of_a_job_is_a_resource(raw: dict[str, Any], tmp_path: Path) -> None:
    space = Workspace.at(tmp_path)
    (job_id,) = write_finished_jobs(space, 1)
    space.job(job_id).config_file.write_text(json.dumps({**raw, "model": {"name": "someone/model"}}))

    async def read(client: Any) -> str:
        return str((await client.read_resource(f"qlora://jobs/{job_id}/script")).contents[0].text)

    text = talk(tmp_path, read)
    assert ast.get_docstring(ast.parse(text))
    assert raw["output"]["directory"] in text
    assert 'MODEL = "someone/model"' in text


def test_configs_are_compared_and_recipes_imported_by_the_tool(tmp_path: Path) -> None:
    own = {"model": {"name": "smollm2-135m-instruct"}, "data": {"path": "rows.jsonl"}, "output": {"directory": "out"}}
    recipe = {"base_model": "smollm2-135m-instruct", "adapter": "qlora", "load_in_4bit": True, "lora_r": 8}
    rows = {"path": "rows.jsonl", "ds_type": "json", "type": "alpaca"}
    (tmp_path / "axolotl.yaml").write_text(
        yaml.safe_dump({**recipe, "datasets": [rows], "output_dir": "./out", "odd": 3})
    )

    async def work(client: Any) -> list[Any]:
        asked: list[dict[str, Any]] = [
            {"config": own, "compare_with": {**own, "lora": {"rank": 64}}},
            {"import_path": "axolotl.yaml", "model": "smollm2-135m-instruct"},
            {"compare_with": own},
            {"import_path": "../axolotl.yaml"},
            {"config": own, "import_path": "axolotl.yaml"},
        ]
        return [await client.call_tool("create_config", arguments) for arguments in asked]

    compared, imported, alone, outside, both = talk(tmp_path, work)
    (change,) = compared.structured_content["changes"]
    assert (change["field"], change["before"], change["after"]) == ("lora.rank", 16, 64)
    assert "lora.rank: 16 -> 64" in text_of(compared)
    assert not imported.is_error, text_of(imported)
    assert imported.structured_content["config"]["lora"]["rank"] == 8
    assert any("odd" in note for note in imported.structured_content["notes"])
    assert all(result.is_error for result in (alone, outside, both))
    assert "compare_with needs config" in text_of(alone)
    assert "import_path" in text_of(outside)
    assert "import_path already" in text_of(both)
