"""The command: one JSON document on stdout, documented exit codes, and words instead of tracebacks for every mistake."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qlora_tools.cli.main import run
from qlora_tools.guide import topics

from .conftest import write_rows

Raw = Callable[..., dict[str, Any]]
Models = Callable[[str], Path]
Output = pytest.CaptureFixture[str]


def document(capsys: Output) -> Any:
    """The one JSON document that the command printed."""
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def run_file(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    def write(raw: dict[str, Any]) -> str:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(raw), encoding="utf-8")
        return str(path)

    return write


def test_schema_validate_and_explain_print_json(
    capsys: Output, run_file: Callable[..., str], config_for: Raw, tmp_path: Path
) -> None:
    file = run_file(config_for(tmp_path / "model", tmp_path / "rows.jsonl"))
    assert run(["config", "schema", "--json"]) == 0
    assert document(capsys)["required"] == ["model", "data", "output"]
    assert run(["config", "validate", file, "--json"]) == 0
    assert document(capsys)["valid"] is True
    assert run(["config", "explain", file, "--json"]) == 0
    fields = {field["field"]: field for field in document(capsys)["fields"]}
    assert fields["lora.rank"] | {"meaning": ""} == {
        "field": "lora.rank",
        "value": 16,
        "is_default": True,
        "meaning": "",
        "passed_to": "LoraConfig(r)",
    }
    assert fields["training.max_steps"]["is_default"] is False


def test_an_invalid_config_is_a_json_error_with_every_problem_and_code_2(
    capsys: Output, run_file: Callable[..., str]
) -> None:
    file = run_file({"model": {"nam": "x"}, "data": {"path": 3}, "lora": {"rank": 0}})
    assert run(["config", "validate", file, "--json"]) == 2
    error = document(capsys)
    assert error["error"] == "ConfigError"
    assert [problem["field"] for problem in error["problems"]] == [
        "model.name",
        "model.nam",
        "data.path",
        "lora.rank",
        "output",
    ]


def test_guide_lists_topics_and_prints_one(capsys: Output) -> None:
    assert run(["guide", "--json"]) == 0
    assert set(document(capsys)["topics"]) == set(topics())
    assert run(["guide", "memory"]) == 0
    assert capsys.readouterr().out.startswith("# Memory")
    assert run(["guide", "memroy"]) == 2
    assert "qlora guide memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["tran"],
        ["train"],
        ["train", "a.yaml", "--detatch"],
        ["merge", "x"],
        ["generate", "x", "--side", "left", "-p", "a"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_code_2_with_the_help_to_read(arguments: list[str], capsys: Output) -> None:
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert "Error: " in error
    assert "--help" in error


def test_training_generating_and_merging_by_command(
    capsys: Output, run_file: Callable[..., str], config_for: Raw, tiny_model: Models, chat_rows: Path, tmp_path: Path
) -> None:
    raw = config_for(tiny_model("mistral"), chat_rows)
    assert run(["train", run_file(raw), "--json"]) == 0
    trained = document(capsys)
    assert trained["steps"] == 3
    assert json.loads((Path(trained["output_directory"]) / "result.json").read_text()) == trained
    assert run(["generate", trained["output_directory"], "-p", "say number 1", "--max-new-tokens", "4", "--json"]) == 0
    assert document(capsys)["answers"][0].keys() == {"prompt", "base", "adapter", "adapters"}
    merged = str(tmp_path / "merged")
    assert run(["merge", trained["output_directory"], "-o", merged, "--dtype", "float32", "--json"]) == 0
    assert document(capsys)["parity"]["passed"] is True
    assert run(["generate", trained["output_directory"], "-p", "say number 1", "--max-new-tokens", "4"]) == 0
    assert "adapter" in capsys.readouterr().out


def test_a_config_written_back_by_a_run_trains_to_the_same_losses(
    config_for: Raw, tiny_model: Models, chat_rows: Path
) -> None:
    from qlora_tools import load_config, parse_config, train

    first = train(parse_config(config_for(tiny_model("llama"), chat_rows, output={"overwrite": True})))
    again = train(load_config(Path(first.output_directory) / "config.yaml"))
    assert again.losses == first.losses


def _pickles_only(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def _cut_weights(model: Path) -> None:
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _deeper_config(model: Path) -> None:
    _change_config(model, num_hidden_layers=3)


def _encoder_decoder(model: Path) -> None:
    _change_config(model, architectures=["T5ForConditionalGeneration"], model_type="t5", is_encoder_decoder=True)


def _quantised_already(model: Path) -> None:
    _change_config(model, quantization_config={"quant_method": "gptq", "bits": 4})


def _own_code(model: Path) -> None:
    _change_config(model, model_type="mine", auto_map={"AutoConfig": "mine.MyConfig"})
    (model / "mine.py").write_text("raise SystemExit('this must never run')")


def _unknown_architecture(model: Path) -> None:
    _change_config(model, model_type="nobody_knows")


def _no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def _change_config(model: Path, **values: Any) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | values))


BAD_MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickles only": (_pickles_only, "only pickle files"),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), "no model.safetensors"),
    "no config": (lambda model: (model / "config.json").unlink(), "no config.json"),
    "broken config": (lambda model: (model / "config.json").write_text("{"), "cannot be read"),
    "no tokenizer": (_no_tokenizer, "no tokenizer"),
    "weights cut off": (_cut_weights, "cannot be loaded"),
    "layers missing": (_deeper_config, "tensors are missing"),
    "encoder-decoder": (_encoder_decoder, "causal language models only"),
    "quantised already": (_quantised_already, "is quantised already"),
    "code of its own": (_own_code, "never run"),
    "unknown architecture": (_unknown_architecture, "cannot be loaded"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_is_code_2_in_words_and_nothing_is_written(
    case: str, config_for: Raw, tiny_model: Models, chat_rows: Path, tmp_path: Path
) -> None:
    spoil, said = BAD_MODELS[case]
    shutil.copytree(tiny_model("llama"), tmp_path / "model")
    spoil(tmp_path / "model")
    raw = config_for(tmp_path / "model", chat_rows)
    assert_refused(raw, said, 2)


# Code 2: nothing can be read; 3: it can, and the check of the data refuses it.
BAD_DATA: dict[str, tuple[str, bytes | None, str, int]] = {
    "missing": ("rows.jsonl", None, "There is no dataset", 2),
    "empty": ("rows.jsonl", b"", "is empty", 2),
    "only blank lines": ("rows.jsonl", b"\n\n", "no rows|cannot be read", 2),
    "no usable columns": ("rows.jsonl", b'{"a": 1}\n', "No known format fits the columns: a", 2),
    "not UTF-8": ("rows.jsonl", '{"text": "ok"}\n{"text": "caf\xe9"}\n'.encode("latin-1"), "line 2 is not UTF-8", 3),
    "not JSON": ("rows.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON", 3),
    "a list instead of rows": ("rows.jsonl", b"[1, 2]\n", "line 1 is not a JSON object", 2),
    "changing types": (
        "rows.jsonl",
        b'{"text": "a"}\n' * 9 + b'{"text": {"b": 1}}\n',
        r"text is an object, not text \(rows 10\)",
        3,
    ),
    "numbers as text": ("rows.jsonl", b'{"text": 3}\n', "text \\(a number", 2),
    "empty answers": ("rows.jsonl", b'{"prompt": "a", "completion": ""}\n', "completion \\(empty", 2),
    "unknown role": (
        "rows.jsonl",
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "narrator", "content": "a"}]}\n',
        "turn 2 has role 'narrator'",
        2,
    ),
    "unknown ending": ("rows.xyz", b"a", "ends in .xyz", 2),
    "a pickle": ("rows.pkl", b"\x80\x04.", "can run code when it is read, and is not opened", 2),
    "broken parquet": ("rows.parquet", b"PAR1 this is not parquet", "cannot be read", 2),
    "a script": ("rows.py", b"raise SystemExit", "a program, and is not run", 2),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_in_words_and_nothing_is_written(
    case: str, config_for: Raw, tiny_model: Models, tmp_path: Path
) -> None:
    name, content, said, code = BAD_DATA[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_refused(config_for(tiny_model("llama"), tmp_path / name), said, code)


def test_turns_that_the_template_refuses_are_named_by_their_row(
    config_for: Raw, tiny_model: Models, tmp_path: Path
) -> None:
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant", "system", "user", "assistant")]
    data = write_rows(tmp_path / "rows.jsonl", [{"messages": turns}])
    said = r"chat template refuses it: Only user and assistant roles are supported \(rows 1\)"
    assert_refused(config_for(tiny_model("mistral"), data), said, 3)


def test_what_a_run_refuses_is_the_error_and_the_code_of_the_command(
    capsys: Output, run_file: Callable[..., str], config_for: Raw, tiny_model: Models, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_bytes(BAD_DATA["not JSON"][1] or b"")
    raw = config_for(tiny_model("llama"), data)
    assert run(["train", run_file(raw), "--json"]) == 3
    error = document(capsys)
    assert error["error"] == "CheckFailed"
    assert "line 2 is not JSON" in error["message"]
    assert error["next_step"] and "Traceback" not in error["message"]
    assert not Path(raw["output"]["directory"]).exists()


def test_a_file_as_output_is_refused(
    capsys: Output, run_file: Callable[..., str], config_for: Raw, tiny_model: Models, chat_rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("mine")
    raw = config_for(tiny_model("llama"), chat_rows, output={"directory": str(tmp_path / "taken")})
    assert run(["train", run_file(raw)]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "mine"


def assert_refused(raw: dict[str, Any], said: str, code: int) -> None:
    """The engine refuses it in words, as the job's verdict and the command's error then are."""
    from qlora_tools import train
    from qlora_tools.config import parse_config
    from qlora_tools.errors import QloraError

    with pytest.raises(QloraError, match=said) as refused:
        train(parse_config(raw))
    assert refused.value.exit_code == code
    assert refused.value.next_step
    assert not Path(raw["output"]["directory"]).exists()


def test_every_kind_of_event_is_shown(capsys: Output) -> None:
    from typing import get_args

    from qlora_tools.cli.console import watching
    from qlora_tools.events import EventKind, RunEvent

    metrics = {"step": 1, "planned_steps": 2, "loss": 0.5, "peak_allocated_bytes": 2**30}
    with watching() as listener:
        for kind in get_args(EventKind):
            values = {"metrics": metrics, "progress": {"done": 1, "total": 2}}.get(kind, {"step": 1})
            listener(RunEvent(kind, f"a {kind}", values))
    shown = capsys.readouterr().err
    assert all(f"a {kind}" in shown for kind in ("phase", "note", "warning", "checkpoint", "sample"))
