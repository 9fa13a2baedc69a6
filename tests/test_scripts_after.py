"""Scripts about a trained adapter: they answer, merge and measure as this package does, and run without it."""

import ast
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from qlora_tools import evaluate, generate, merge, parse_config
from qlora_tools.config import RunConfig, dump_config
from qlora_tools.scripts.asking import asked_form
from qlora_tools.scripts.evaluating import evaluate_inputs
from qlora_tools.scripts.inference import inference_inputs
from qlora_tools.scripts.inputs import ScriptInputs
from qlora_tools.scripts.merging import merge_inputs
from qlora_tools.scripts.rendering import Rendered, render
from qlora_tools.scripts.topics_after import TOPICS
from qlora_tools.scripts.topics_train import TOPICS as SHARED_TOPICS

from . import script_runs
from .conftest import write_rows
from .families import make_model
from .script_runs import RunScript
from .small_adapters import small_adapter
from .test_merging_arithmetic import save_adapter

run_script = script_runs.run_script  # pytest finds a fixture by its name here
Models = Callable[[str], Path]
ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ["say number one", "what is the capital of Japan?", "very very very very number", "two", "say five six"]


def config_of(model: Path, run: Path, **parts: dict[str, Any]) -> RunConfig:
    raw = {
        "model": {"name": str(model)},
        "data": {"path": str(run / "rows.jsonl"), "format": "messages", **parts.pop("data", {})},
        "quantization": {"compute_dtype": "float32", **parts.pop("quantization", {})},
        "output": {"directory": str(run)},
        "training": {"max_length_tokens": 64},
        **parts,
    }
    return parse_config(raw)


def written(folder: Path, kind: str, inputs: ScriptInputs) -> Path:
    path = folder / f"{kind}.py"
    path.write_text(render(kind, inputs.choices, inputs.values).text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """A config and an adapter of it on a tiny Llama in NF4."""
    run = small_adapter(tiny_model("llama"), tmp_path_factory.mktemp("scripts") / "run")
    return config_of(tiny_model("llama"), run), run / "adapter"


@pytest.mark.process
def test_answers_to_a_file_are_those_of_generate(
    trained: tuple[RunConfig, Path], tmp_path: Path, run_script: RunScript
) -> None:
    script = written(tmp_path, "inference", inference_inputs(*trained))
    rows = [{"prompt": question} for question in QUESTIONS]
    rows.append({"messages": [*turns("system", "be kind", "user", "seven"), *turns("assistant", "not to be seen")]})
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    wanted = generate(trained[1], [*QUESTIONS, turns("system", "be kind", "user", "seven")], max_new_tokens=12)
    for flags, name in ((), "adapter"), (("--base",), "base"):
        answers = tmp_path / f"{name}.jsonl"
        asked = ("--file", str(prompts), "--output", str(answers), "--max-new-tokens", "12", "--batch-size", "4")
        ended = run_script(script, *asked, *flags)
        assert ended.code == 0, ended.output
        found = [json.loads(line) for line in answers.read_text().splitlines()]
        assert [row["row"] for row in found] == [1, 2, 3, 4, 5, 6]
        assert [row["answer"] for row in found] == [getattr(answer, name) for answer in wanted.answers]
    assert all(answer.base != answer.adapter for answer in wanted.answers)


def turns(*said: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(said[::2], said[1::2], strict=True)]


@pytest.mark.process
def test_one_prompt_and_a_chat_print_what_a_file_of_answers_holds(
    trained: tuple[RunConfig, Path], tmp_path: Path, run_script: RunScript
) -> None:
    written(tmp_path, "inference", inference_inputs(*trained))
    talk = tmp_path / "talk.py"
    lines = ["import io, runpy, sys", "sys.stdin = io.StringIO(sys.argv.pop())", "runpy.run_path('inference.py')"]
    talk.write_text("\n".join(lines), encoding="utf-8")
    first = [*turns("user", QUESTIONS[0])]
    wanted = [generate(trained[1], [first], side="adapter", max_new_tokens=8).answers[0].adapter or ""]
    second = [*first, *turns("assistant", wanted[0], "user", "two")]
    wanted += [generate(trained[1], [second], side="adapter", max_new_tokens=8).answers[0].adapter or ""]
    chat = run_script(talk, "--max-new-tokens", "8", f"{QUESTIONS[0]}\ntwo\n\n")
    single = run_script(talk, "--max-new-tokens", "8", QUESTIONS[0], "")
    assert chat.code == single.code == 0, chat.output + single.output
    assert wanted[0] in single.output and wanted[0] in chat.output and wanted[1] in chat.output


@pytest.mark.process
def test_what_is_missing_is_said_before_anything_is_loaded(
    trained: tuple[RunConfig, Path], tmp_path: Path, run_script: RunScript
) -> None:
    script = written(tmp_path, "inference", inference_inputs(*trained))
    faulty = write_rows(tmp_path / "faulty.jsonl", [{"prompt": "fine"}, {"question": "unknown"}])
    for flags, said in (
        (("--adapter", "nowhere"), "nowhere has no adapter_config.json: train first"),
        (("--file", "nowhere.jsonl"), "There is no file nowhere.jsonl."),
        (("--file", str(faulty)), "Line 2 of"),
        (("--file", str(faulty), "--output", str(faulty)), "exists: give another --output"),
    ):
        ended = run_script(script, *flags)
        assert (ended.code, said in ended.output, "Traceback" in ended.output) == (1, True, False), ended.output


@pytest.fixture
def text_model(tmp_path: Path) -> tuple[RunConfig, Path]:
    """A config of pairs of texts, and an adapter of it on a base without a chat template."""
    make_model("mistral", tmp_path / "base", template=False)
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "say one ", "completion": "number one"}] * 4)
    run = small_adapter(tmp_path / "base", tmp_path / "run")
    record = json.loads((run / "adapter" / "qlora_tools.json").read_text())
    (run / "adapter" / "qlora_tools.json").write_text(json.dumps({**record, "style": "verbatim"}))
    config = config_of(tmp_path / "base", run, data={"path": str(rows), "format": "prompt_completion"})
    (run / "config.yaml").write_text(dump_config(config, complete=True), encoding="utf-8")
    return config, run / "adapter"


@pytest.mark.process
def test_a_model_of_texts_is_asked_and_measured_as_written(
    text_model: tuple[RunConfig, Path], tmp_path: Path, run_script: RunScript
) -> None:
    inputs = inference_inputs(*text_model)
    assert inputs.choices["form"] == "pair"
    rows = [
        {"prompt": "say two ", "completion": "three"},
        {"prompt": "what is the capital", "completion": " of Japan?"},
    ]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    ended = run_script(written(tmp_path, "inference", inputs), "--file", str(data), "--max-new-tokens", "8")
    assert ended.code == 0, ended.output
    found = [json.loads(line)["answer"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    wanted = generate(text_model[1], [row["prompt"] for row in rows], side="adapter", max_new_tokens=8)
    assert found == [answer.adapter for answer in wanted.answers]
    measured = run_script(written(tmp_path, "evaluate", evaluate_inputs(*text_model)), "--data", str(data))
    assert measured.code == 0, measured.output
    loss = evaluate(text_model[1], data, instruments=(), output=tmp_path / "evaluation").loss.loss.comparison
    figures = json.loads((text_model[1].parent / "evaluation.json").read_text())
    assert figures["adapter"]["loss"] == pytest.approx(loss.adapter.value, abs=1e-6)


def test_the_form_follows_template_and_rows_before_there_is_an_adapter(
    text_model: tuple[RunConfig, Path], tiny_model: Models, tmp_path: Path
) -> None:
    none_yet = tmp_path / "none-yet"
    assert asked_form(text_model[0], none_yet).form == "pair"
    chats = asked_form(config_of(tmp_path / "base", tmp_path), none_yet)  # our template will be given to the base
    assert (chats.form, chats.adds_eos, chats.stop_tokens) == ("chat", False, ("</s>",))
    texts = asked_form(config_of(tiny_model("gemma2"), tmp_path, data={"format": "text"}), none_yet)
    assert (texts.form, texts.stop_tokens) == ("text", ("<eos>",))
    gemma = asked_form(config_of(tiny_model("gemma2"), tmp_path), none_yet)
    assert (gemma.form, gemma.folds_system, gemma.stop_tokens) == ("chat", True, ("<eos>", "<end_of_turn>"))
    unknown = asked_form(config_of(Path("nobody/has-this"), tmp_path), none_yet)
    assert (unknown.form, unknown.stop_tokens) == ("chat", ()) and "without the tokenizer" in unknown.notes[0]


@pytest.mark.process
def test_losses_and_matches_are_those_of_evaluate(
    trained: tuple[RunConfig, Path], tmp_path: Path, run_script: RunScript
) -> None:
    config = trained[0].model_copy(update={"data": trained[0].data.model_copy(update={"loss_on": "assistant"})})
    (trained[1].parent / "config.yaml").write_text(dump_config(config, complete=True), encoding="utf-8")
    answers = generate(trained[1], QUESTIONS[:3], side="adapter", max_new_tokens=32).answers
    rows = [{"messages": turns("user", one.prompt, "assistant", one.adapter or "")} for one in answers]
    rows += [{"messages": turns(*("user", f"say {i} ", "assistant", "ten it is") * 2)} for i in range(8)]
    rows.append({"messages": turns("user", "very " * 80, "assistant", "behind the end")})
    data = write_rows(tmp_path / "held_out.jsonl", rows)
    output = tmp_path / "figures" / "evaluation.json"
    script = written(tmp_path, "evaluate", evaluate_inputs(config, trained[1], data=data, output=output))
    ended = run_script(script)
    assert ended.code == 0, ended.output
    assert "11 rows; 1 were longer than 64 tokens and cut" in ended.output
    wanted = evaluate(trained[1], data, instruments=(), metrics=["exact_match"], output=tmp_path / "evaluation")
    found, loss = json.loads(output.read_text()), wanted.loss.loss.comparison
    assert (found["rows"], found["tokens"]) == (loss.rows, wanted.loss.tokens)
    assert found["base"]["loss"] == pytest.approx(loss.base.value, abs=1e-6)
    assert found["adapter"]["loss"] == pytest.approx(loss.adapter.value, abs=1e-6)
    # Other resamples of the same rows.
    width = loss.difference.high - loss.difference.low
    assert found["loss_difference"]["low"] == pytest.approx(loss.difference.low, abs=0.1 * width)
    assert found["loss_difference"]["high"] == pytest.approx(loss.difference.high, abs=0.1 * width)
    matches = wanted.metrics[0].comparison
    assert found["exact_match"]["rows"] == matches.rows
    assert found["exact_match"]["adapter"] == round(matches.adapter.value * matches.rows)


@pytest.mark.process
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["v_proj", "lm_head"], "use_rslora": True},
        {"target_modules": ["o_proj"], "modules_to_save": ["embed_tokens"], "use_dora": True},
    ],
    ids=["head", "embedding"],
)
def test_the_merged_model_is_that_of_merge_to_the_last_bit(
    settings: dict[str, Any], tiny_model: Models, tmp_path: Path, run_script: RunScript
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model("qwen2"), base)  # embedding and head are one tensor
    stops = {"eos_token_id": 0, "temperature": 0.6, "top_p": 0.9}  # as some models are published: without do_sample
    (base / "generation_config.json").write_text(json.dumps(stops), encoding="utf-8")
    adapter = adapter_with_tokenizer(base, tmp_path / "adapter", settings)
    lora = {name: settings[name] for name in ("target_modules", "modules_to_save") if name in settings}
    inputs = merge_inputs(config_of(base, tmp_path, lora=lora), adapter, output=tmp_path / "by-script")
    ended = run_script(written(tmp_path, "merge", inputs), "--dtype", "float32")
    assert ended.code == 0, ended.output
    merge(adapter, tmp_path / "by-tool", base="original", dtype="float32", check=False)
    found, wanted = tensors_of(tmp_path / "by-script"), tensors_of(tmp_path / "by-tool")
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not found[name].equal(wanted[name])] == []
    assert not (tmp_path / "by-script.partial").exists()
    saved = json.loads((tmp_path / "by-script" / "generation_config.json").read_text())
    assert (saved["do_sample"], saved["temperature"], saved["eos_token_id"]) == (True, 0.6, [0, 1])


def adapter_with_tokenizer(base: Path, target: Path, settings: dict[str, Any]) -> Path:
    from transformers import AutoTokenizer

    save_adapter(base, target, **settings)
    AutoTokenizer.from_pretrained(base).save_pretrained(target)
    return target


def tensors_of(directory: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.process
def test_a_merge_that_answers_otherwise_is_not_put_in_place(
    trained: tuple[RunConfig, Path], tmp_path: Path, run_script: RunScript
) -> None:
    script = written(tmp_path, "merge", merge_inputs(*trained, output=tmp_path / "merged"))
    right = script.read_text()
    wrong = right.replace("model.merge_and_unload(progressbar=True, safe_merge=True)", "model.unload()")
    assert wrong != right
    script.write_text(wrong)
    ended = run_script(script)
    assert ended.code == 3
    assert " became " in ended.output
    assert (tmp_path / "merged.partial").is_dir() and not (tmp_path / "merged").exists()


CHOICES: dict[str, tuple[Any, ...]] = {
    "quantization": ("nf4", "fp4", "int8", "none"),
    "compute_dtype": ("auto", "bfloat16", "float16", "float32"),
    "storage_dtype": ("uint8", "bfloat16", "float16", "float32"),
    "attention": ("auto", "eager", "sdpa", "flash_attention_2", "flex_attention"),
    "form": ("chat", "pair", "text"),
    "loss_on": ("completions", "assistant", "all"),
    "long_rows": ("cut", "drop"),
    **dict.fromkeys(("has_revision", "is_local", "folds_system", "has_stop_tokens"), (True, False)),
    **dict.fromkeys(("adds_eos", "has_data", "changes_embeddings"), (True, False)),
}
HOSTILE = '"""\'\n{{ 7 }}#\\ \u2028import os;\r\u202e{% raw %}'


def covering() -> Iterator[dict[str, Any]]:
    """Choices in which every two values of two of them come together at least once."""
    random = Random(0)
    names = list(itertools.combinations(CHOICES, 2))
    open_pairs = {(a, x, b, y) for a, b in names for x in CHOICES[a] for y in CHOICES[b]}
    while open_pairs:
        a, x, b, y = min(open_pairs, key=repr)
        tried = [{name: random.choice(values) for name, values in CHOICES.items()} | {a: x, b: y} for _ in range(30)]
        best = max(tried, key=lambda one: sum((a, one[a], b, one[b]) in open_pairs for a, b in names))
        open_pairs -= {(a, best[a], b, best[b]) for a, b in names}
        yield best


def variants(text: str, chosen: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Rendered]]:
    """Each kind of script with each of the choices; `text` stands for all values that are texts."""
    texts = dict.fromkeys(("model", "revision", "adapter", "output", "data"), text)
    values = {**texts, "double_quantization": True, "max_length_tokens": 2048}
    for one, kind in itertools.product(chosen, ("inference", "merge", "evaluate")):
        yield kind, render(kind, one, {**values, "stop_tokens": [text], "prompts": [text] * 8})


def test_every_pair_of_choices_gives_a_script_without_a_fault_to_find(tmp_path: Path) -> None:
    about: set[str] = set()
    for number, (kind, script) in enumerate(variants("owner/name-of-usual-length", covering())):
        (tmp_path / f"{kind}_{number}.py").write_text(script.text, encoding="utf-8")
        covered = {line for one in script.ranges for line in range(one.first, one.last + 1)}
        lines = script.text.splitlines()
        assert [line for place, line in enumerate(lines, start=1) if line and place not in covered] == []
        about |= {name for one in script.ranges for name in one.about}
    assert number > 60
    assert {name for name in about if "." not in name} - SHARED_TOPICS.keys() == TOPICS.keys()
    # RUF071 warns of os.path.commonprefix, since it compares characters: here that is what is wanted.
    for command in (["format", "--check"], ["check", "--ignore", "RUF071"]):
        checked = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
        done = subprocess.run(checked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_no_text_becomes_code() -> None:
    for kind, script in variants(HOSTILE, itertools.islice(covering(), 6)):
        tree = ast.parse(script.text)
        constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        expected = {"inference": 2, "merge": 2 + 8, "evaluate": 3}[kind]
        assert constants.count(HOSTILE) >= expected
        assert script.text.count("import os;") == constants.count(HOSTILE)
        assert script.text.replace("\n", "").isprintable()
