"""Every line of a script says why it stands there, and every name in it is one that the installed libraries have."""

import ast
import re
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from qlora_tools import RunConfig, parse_config
from qlora_tools.errors import MissingLibraryError, UsageError
from qlora_tools.planning.values import field_paths
from qlora_tools.results import ScriptResult
from qlora_tools.scripts.changed import explain_script
from qlora_tools.scripts.costs import memory_costs
from qlora_tools.scripts.explanation import TOPICS, lines_about
from qlora_tools.scripts.installed import check_names
from qlora_tools.scripts.kinds import KINDS
from qlora_tools.scripts.library_sources import LibrarySources
from qlora_tools.scripts.reasons import field_reasons
from qlora_tools.scripts.render import render_script

ROOT = Path(__file__).parent.parent
TEMPLATES = sorted(path for path in (ROOT / "templates").glob("*.j2") if "begin(" in path.read_text(encoding="utf-8"))
MARK = re.compile(r"\{\{ (?:of|begin)\(([^)]*)\) \}\}")


def config_of(model: str = "llama-3.1-8b-instruct", **parts: Any) -> RunConfig:
    return parse_config(
        {"model": {"name": model}, "data": {"path": "rows.jsonl"}, "output": {"directory": "out"}, **parts}
    )


@pytest.fixture(scope="module")
def made(tiny_model: Callable[[str], Path], chat_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> ScriptResult:
    return render_script(run_of(tiny_model, chat_rows, tmp_path_factory.mktemp("run")))


def run_of(tiny_model: Callable[[str], Path], chat_rows: Path, output: Path, **training: Any) -> RunConfig:
    raw = {
        "model": {"name": str(tiny_model("llama"))},
        "data": {"path": str(chat_rows), "evaluation_fraction": 0.2},
        "training": {"max_length_tokens": 64, "evaluation_every_steps": 2, **training},
        "output": {"directory": str(output)},
    }
    return parse_config(raw)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_mark_of_a_template_is_a_field_or_a_known_topic(path: Path) -> None:
    marks = re.findall(r'"([^"]+)"', " ".join(MARK.findall(path.read_text(encoding="utf-8"))))
    assert set(marks) - {*field_paths(), *TOPICS} == set()


def test_every_topic_is_used_and_says_all_that_it_should() -> None:
    marks = "".join(path.read_text(encoding="utf-8") for path in TEMPLATES)
    assert [name for name in TOPICS if f'"{name}"' not in marks] == []
    for name, topic in TOPICS.items():
        assert all((topic.title, topic.reason, topic.source, topic.effect)), name


def unexplained(text: str, explained: set[int]) -> list[str]:
    return [
        f"{number}: {line}"
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and number not in explained
    ]


def explained_lines(result: ScriptResult) -> set[int]:
    return {number for item in result.lines for number in range(item.first, item.last + 1)}


def test_every_line_of_a_training_script_is_explained(made: ScriptResult) -> None:
    assert unexplained(made.text, explained_lines(made)) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("train", "notebook", "fsdp")])
def test_every_line_of_the_other_kinds_is_explained(
    kind: str, tiny_model: Callable[[str], Path], chat_rows: Path, tmp_path: Path
) -> None:
    config = run_of(tiny_model, chat_rows, tmp_path)
    result = render_script(config, kind=kind, settings={"gpu": "l4"} if kind == "skypilot" else None)
    assert unexplained(result.text, {1, *explained_lines(result)}) == []
    assert result.next_step


def test_a_line_is_tied_to_field_value_reason_source_effect_and_memory(made: ScriptResult) -> None:
    lines = made.text.splitlines()
    (rank,) = [
        item for item in made.lines if item.field == "lora.rank" and lines[item.first - 1].startswith("LORA_RANK")
    ]
    assert rank.value == "16"
    assert "usual for style" in rank.reason
    assert "LoRA" in rank.source or "QLoRA" in rank.source
    assert "more capacity" in rank.effect
    assert rank.memory is not None and "optimiser" in rank.memory


def test_the_most_particular_comes_first_for_a_line(made: ScriptResult) -> None:
    number = next(place for place, line in enumerate(made.text.splitlines(), 1) if "bnb_4bit_use_double_quant" in line)
    found = lines_about(made.lines, number)
    assert [item.field for item in found] == ["quantization.double_quantization", "quantization.kind"]


def test_a_reason_is_the_planners_where_the_value_is_what_it_would_choose() -> None:
    reasons = field_reasons(config_of(lora={"rank": 16, "alpha": 32.0}))
    assert reasons["lora.alpha"].reason.startswith("2 x rank")
    assert reasons["training.learning_rate"].reason.startswith("8.0 billion")
    others = field_reasons(config_of(lora={"rank": 64, "alpha": 32.0}, training={"learning_rate": 1e-3}))
    assert not others["lora.alpha"].reason.startswith("2 x rank")
    assert "billion" not in others["training.learning_rate"].reason
    assert all(item.reason and item.source and item.effect for item in reasons.values())
    assert set(reasons) == set(field_paths())


def test_memory_is_the_estimators_and_is_not_said_of_a_model_that_is_not_known_here() -> None:
    words = memory_costs(config_of()).words
    assert words["load"] == "5.31 GiB for the base"
    assert words["training.gradient_checkpointing"].startswith("saves")
    assert "with rank 32" in words["lora.rank"]
    off = memory_costs(config_of(training={"gradient_checkpointing": False})).words
    assert off["training.gradient_checkpointing"].startswith("on, it would save")
    unknown = memory_costs(config_of("someone/model"))
    assert unknown.words == {}
    assert len(unknown.notes) == 1


def test_a_changed_script_is_explained_but_for_its_changed_lines(
    made: ScriptResult, tiny_model: Callable[[str], Path], chat_rows: Path, tmp_path: Path
) -> None:
    lines = made.text.splitlines()
    rank = next(place for place, line in enumerate(lines) if line.startswith("LORA_RANK"))
    seed = next(place for place, line in enumerate(lines) if line.startswith("SEED"))
    changed = [*lines[:rank], "LORA_RANK = 64", "MINE = 1", *lines[rank + 1 : seed], *lines[seed + 1 :]]
    script = tmp_path / "train.py"
    script.write_text("\n".join(changed) + "\n")
    found = explain_script(run_of(tiny_model, chat_rows, Path(made_output(made))), script=script)
    first, second = found.changed
    assert (first.first, first.last, first.about[0]) == (rank + 1, rank + 2, "lora.rank")
    assert first.rendered == [lines[rank]]
    assert second.last == second.first - 1
    assert second.rendered == [lines[seed]]
    alpha = next(item for item in found.lines if item.field == "lora.alpha")
    assert changed[alpha.first - 1].startswith("LORA_ALPHA")
    one = explain_script(run_of(tiny_model, chat_rows, Path(made_output(made))), script=script, line=rank + 1)
    assert (one.text, one.lines, len(one.changed)) == ("LORA_RANK = 64", [], 1)


def made_output(made: ScriptResult) -> str:
    (line,) = [line for line in made.text.splitlines() if line.startswith("OUTPUT_DIR")]
    return str(ast.literal_eval(line.partition("Path(")[2].rpartition(")")[0]))


def test_a_line_that_is_not_there_and_a_file_that_is_no_text_are_refused(
    tiny_model: Callable[[str], Path], chat_rows: Path, tmp_path: Path
) -> None:
    config = run_of(tiny_model, chat_rows, tmp_path / "out")
    with pytest.raises(UsageError, match="There is no line 9999"):
        explain_script(config, line=9999)
    (tmp_path / "train.py").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="no UTF-8"):
        explain_script(config, script=tmp_path / "train.py")


def test_every_library_of_a_script_is_checked_in_its_installed_version(made: ScriptResult) -> None:
    assert made.checked["transformers"] == version("transformers")
    assert {"bitsandbytes", "datasets", "peft", "torch", "transformers", "trl"} <= set(made.checked)
    assert made.unchecked == []


def test_checking_names_imports_no_library(made: ScriptResult, tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "train.py").write_text(made.text)
    code = (
        "import sys, pathlib; from qlora_tools.scripts.installed import check_names\n"
        "check_names(pathlib.Path(sys.argv[1]).read_text())\n"
        "print(sorted({'torch', 'transformers', 'peft', 'trl', 'datasets', 'bitsandbytes'} & sys.modules.keys()))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "train.py")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """A folder with copies of trl and peft, and links to what is not changed."""
    site = Path(str(LibrarySources().folder("trl"))).parent
    for name in ("transformers", "bitsandbytes", "datasets", "torch"):
        (tmp_path / name).symlink_to(site / name)
    for name in ("trl", "peft"):
        shutil.copytree(site / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc", "*.so"))
    for folder in site.glob("*.dist-info"):
        if folder.name.startswith(("trl-", "peft-")):
            (tmp_path / folder.name).symlink_to(folder)
    return tmp_path


def test_a_field_or_a_name_that_is_gone_is_named_with_library_and_version(made: ScriptResult, libraries: Path) -> None:
    sources = [str(libraries)]
    assert check_names(made.text, LibrarySources(sources)).checked["trl"] == version("trl")
    config = libraries / "trl" / "trainer" / "sft_config.py"
    config.write_text(re.sub(r"^    max_length: ", "    longest: ", config.read_text(), flags=re.MULTILINE))
    peft = libraries / "peft" / "mapping_func.py"
    peft.write_text(peft.read_text().replace("def get_peft_model(", "def peft_model_of("))
    with pytest.raises(MissingLibraryError) as caught:
        check_names(made.text, LibrarySources(sources))
    assert f"trl {version('trl')} has no SFTConfig(max_length=...)" in caught.value.message
    assert f"peft {version('peft')} has no peft.get_peft_model" in caught.value.message
    assert re.search(r"trl>=1\.\d+,<2", caught.value.message)
    assert "pip install" in caught.value.next_step


def test_libraries_that_are_not_installed_are_named_as_unchecked(made: ScriptResult, tmp_path: Path) -> None:
    found = check_names(made.text, LibrarySources([str(tmp_path)]))
    assert found.checked == {}
    assert any("trl is not installed here" in words for words in found.unchecked)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("from transformers import NoSuchModel", "transformers.NoSuchModel"),
        ("import trl.no_such", "trl.no_such"),
        ("from trl import SFTConfig\nSFTConfig(max_seq_length=3)", "SFTConfig(max_seq_length=...)"),
        ("from trl import SFTTrainer\nSFTTrainer(model=1, tokenizer=2)", "SFTTrainer(tokenizer=...)"),
        ("import peft\npeft.LoraConfig(r=1, rank=2)", "LoraConfig(rank=...)"),
        ("from transformers import BitsAndBytesConfig as B\nB(load_in_3bit=True)", "BitsAndBytesConfig(load_in_3bit=...)"),
        ("from transformers import AutoTokenizer\nAutoTokenizer.from_pretrained('a').apply_chat_template([], fast=1)",
         "apply_chat_template(fast=...)"),
        ("from transformers import TrainingArguments\nTrainingArguments(output_dir='o', warmup_ratio=0.1)", "warmup_ratio"),
        ("from transformers import AutoModelForCausalLM as A\nA.from_pretrained('a', load_in_4bits=True)", "load_in_4bits"),
    ],
)  # fmt: skip
def test_a_stale_name_is_found(line: str, words: str) -> None:
    with pytest.raises(MissingLibraryError) as caught:
        check_names(line)
    assert words in caught.value.message


def test_names_that_a_library_hands_on_or_takes_out_of_its_arguments_are_found() -> None:
    script = (
        "from transformers import AutoModelForCausalLM, GenerationConfig, set_seed\n"
        "from huggingface_hub import snapshot_download\n"
        "from bitsandbytes.functional import dequantize_4bit\n"
        "model = AutoModelForCausalLM.from_pretrained('a', dtype='x', device_map={}, attn_implementation='eager')\n"
        "model.generate(input_ids=1, max_new_tokens=3, do_sample=False)\n"
        "GenerationConfig(max_new_tokens=3, repetition_penalty=1.1)\n"
        "snapshot_download('a', allow_patterns=['*.safetensors'])\n"
    )
    assert set(check_names(script).checked) == {"bitsandbytes", "huggingface_hub", "transformers"}
