"""Base and adapters in lists, files and chats, and merged: right, drawn as asked, and gone on with after any end."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qlora_tools.config import parse_config
from qlora_tools.errors import CheckFailed, ModelError, UsageError
from qlora_tools.events import RunEvent
from qlora_tools.generation import AnsweringStopped, generate, generate_file
from qlora_tools.generation.prompt_files import FilePrompt, read_prompts

from .conftest import write_rows
from .small_adapters import small_adapter

Models = Callable[[str], Path]
WORDS = ("one", "two", "five")


@pytest.fixture(scope="module")
def trained(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen that has learnt its three answers by heart."""
    from qlora_tools import train

    output = tmp_path_factory.mktemp("trained") / "run"
    rows = [{"question": f"say {word}", "answer": f"{word} it is"} for word in WORDS]
    training = {
        "max_steps": 100,
        "micro_batch_size": 3,
        "gradient_accumulation_steps": 1,
        "learning_rate": 5e-3,
        "gradient_checkpointing": False,
        "max_length_tokens": 64,
        "smoke_generation": False,
    }
    raw = {
        "model": {"name": str(tiny_model("qwen2"))},
        "data": {"path": str(write_rows(output.parent / "rows.jsonl", rows))},
        "output": {"directory": str(output)},
        "training": training,
    }
    train(parse_config(raw))
    return output


@pytest.fixture(scope="module")
def reversed_adapter(trained: Path) -> Path:
    """Another adapter on the same base: what the first adds, it takes away."""
    from safetensors.torch import load_file, save_file

    directory = trained.parent / "reversed"
    shutil.copytree(trained / "adapter", directory)
    weights = load_file(directory / "adapter_model.safetensors")
    turned = {name: -value if "lora_B" in name else value for name, value in weights.items()}
    save_file(turned, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    return directory


def test_the_adapter_answers_what_it_learnt_and_stops_and_the_base_does_not(trained: Path) -> None:
    result = generate(trained, [f"say {word}" for word in WORDS], max_new_tokens=16)
    assert [answer.adapter for answer in result.answers] == [f"{word} it is" for word in WORDS]
    assert all(answer.base != answer.adapter for answer in result.answers)
    assert [answer.prompt for answer in result.answers] == [f"say {word}" for word in WORDS]


def test_several_adapters_on_one_base_answer_as_each_does_alone(trained: Path, reversed_adapter: Path) -> None:
    asked = {"max_new_tokens": 8}
    result = generate({"first": trained, "second": reversed_adapter}, ["say two", "say one"], **asked)  # type: ignore[arg-type]
    alone = generate(reversed_adapter, ["say two", "say one"], side="adapter", max_new_tokens=8)
    assert [answer.adapter for answer in result.answers] == ["two it is", "one it is"]
    assert [answer.adapters["first"] for answer in result.answers] == ["two it is", "one it is"]
    assert [answer.adapters["second"] for answer in result.answers] == [answer.adapter for answer in alone.answers]
    assert result.answers[0].adapters["second"] != result.answers[0].adapter
    assert set(result.adapters) == {"first", "second"}


def test_loaded_adapters_change_places_in_less_than_100_milliseconds(trained: Path, reversed_adapter: Path) -> None:
    from qlora_tools.generation.session import GenerationSession

    first = GenerationSession.open(trained / "adapter")
    both = [first, first.beside(reversed_adapter)]
    seconds = []
    for number in range(10):
        began = time.perf_counter()
        with both[number % 2]._switched(True):
            seconds.append(time.perf_counter() - began)
    assert sorted(seconds)[5] < 0.1
    both[1].close_adapter()
    turns = [({"role": "user", "content": "say two"},)]
    assert first.answer(turns, with_adapter=True, max_new_tokens=8) == ["two it is"]


def test_adapters_of_different_bases_are_refused_before_anything_is_loaded(
    trained: Path, tiny_model: Models, tmp_path: Path
) -> None:
    heard: list[RunEvent] = []
    other = tmp_path / "other"
    shutil.copytree(trained / "adapter", other)
    record = json.loads((other / "qlora_tools.json").read_text())
    record |= {"base_name": str(tiny_model("qwen3")), "base_config_sha256": None}
    (other / "qlora_tools.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"was trained on .*qwen3"):
        generate([trained, other], ["say one"], on_event=heard.append)
    record |= {"base_name": str(tiny_model("qwen2")), "quantization": {"kind": "fp4"}}
    (other / "qlora_tools.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="was trained on the base as fp4, and it is loaded as nf4"):
        generate([trained, other], ["say one"], on_event=heard.append)
    assert heard == []
    both = generate([trained, other], ["say two"], base_precision="16bit", side="adapter", max_new_tokens=8)
    assert set(both.answers[0].adapters) == {"run", "other"}


def test_one_answer_is_told_as_it_grows_and_ends_before_a_stop_string(trained: Path) -> None:
    heard: list[RunEvent] = []
    result = generate(
        trained, ["say two"], side="adapter", max_new_tokens=16, stop_strings=[" i"], on_event=heard.append
    )
    assert result.answers[0].adapter == "two"
    told = [event for event in heard if event.kind == "progress"]
    assert told[-1].message == "two"
    assert told[-1].values["partial"] == 1
    assert all("two".startswith(event.message) for event in told)


def test_sampling_is_fixed_by_its_seed(trained: Path) -> None:
    def sampled(seed: int, prompts: list[str]) -> list[str | None]:
        result = generate(trained, prompts, side="base", max_new_tokens=8, temperature=5.0, seed=seed)
        return [answer.base for answer in result.answers]

    alone, together = sampled(1, ["tell me"]), sampled(1, ["tell me", "tell me", "a much longer prompt than that"])
    assert alone[0] == together[0] != together[1]
    assert alone != sampled(2, ["tell me"])


def test_what_cannot_be_asked_is_refused_before_anything_is_loaded(trained: Path) -> None:
    with pytest.raises(UsageError, match="There is no prompt"):
        generate(trained, [])
    with pytest.raises(UsageError, match="top_p is 2; allowed is above 0"):
        generate(trained, ["say one"], top_p=2)
    with pytest.raises(UsageError, match="Two adapters are called run"):
        generate([trained, trained], ["say one"])
    with pytest.raises(ModelError, match="There is no adapter directory"):
        generate(trained / "nothing", ["say one"])
    with pytest.raises(UsageError, match="tokens; the model reads 1 to"):
        generate(trained, ["say one " * 3000], side="adapter", max_new_tokens=1)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / "adapter_config.json").unlink(), "holds no adapter"),
        (lambda d: (d / "adapter_model.safetensors").rename(d / "adapter_model.bin"), "a pickle that can run code"),
        (lambda d: (d / "qlora_tools.json").write_text("{"), "is damaged"),
        (
            lambda d: (d / "chat_template.jinja").write_text("{{ messages }}"),
            "is not the one that the adapter was trained",
        ),
        (lambda d: (d / "adapter_model.safetensors").write_bytes(b"\0" * 64), "safetensors"),
    ],
    ids=["no config", "pickle", "damaged record", "another template", "damaged weights"],
)
def test_a_damaged_adapter_is_told_in_words(
    damage: Callable[[Path], object], said: str, trained: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "adapter"
    shutil.copytree(trained / "adapter", copy)
    damage(copy)
    with pytest.raises(ModelError, match=said):
        generate(copy, ["say two"])


ROWS = [
    '{"prompt": "say two"}',
    '{"messages": [{"role": "user", "content": "say one"}, {"role": "assistant", "content": "gold"}]}',
    "{broken",
    '{"prompt": 5}',
    '{"prompt": [{"role": "user", "content": "say five"}], "system": "Be brief."}',
    '{"prompt": "say very very very very very three"}',
]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def answered(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of prompts and the whole file of their answers."""
    folder = tmp_path_factory.mktemp("file")
    (folder / "prompts.jsonl").write_text("\n".join(ROWS) + "\n")
    heard: list[RunEvent] = []
    result = generate_file(
        trained, folder / "prompts.jsonl", folder / "answers.jsonl", max_new_tokens=8, on_event=heard.append
    )
    assert (result.answered, result.kept, result.broken_rows) == (4, 0, 2)
    assert [(row.row, row.place) for row in result.broken] == [(3, "line 3"), (4, "line 4")]
    assert sum("is left out" in event.message for event in heard if event.kind == "warning") == 2
    assert heard[-1].values == {"done": 8, "total": 8}
    return folder


def test_a_file_is_answered_in_its_order_and_broken_rows_stop_nothing(answered: Path) -> None:
    rows = lines(answered / "answers.jsonl")
    assert [row["row"] for row in rows] == [1, 2, 5, 6]
    assert [row["adapter"] for row in rows][:2] == ["two it is", "one it is"]
    assert [row["prompt"] for row in rows][1:3] == ["say one", "say five"]
    assert all(row["base"] is not None for row in rows)


def test_a_file_that_was_cut_off_is_gone_on_with_to_the_same_bytes(
    answered: Path, trained: Path, tmp_path: Path
) -> None:
    whole = (answered / "answers.jsonl").read_bytes()
    _, second, third, fourth = whole.splitlines(keepends=True)
    # Killed while rows were written in the order in which they ended, the last one half.
    (tmp_path / "answers.jsonl").write_bytes(fourth + second + third[:20])
    result = generate_file(trained, answered / "prompts.jsonl", tmp_path / "answers.jsonl", max_new_tokens=8)
    assert (result.answered, result.kept) == (2, 2)
    assert (tmp_path / "answers.jsonl").read_bytes() == whole
    again = generate_file(trained, answered / "prompts.jsonl", tmp_path / "answers.jsonl", max_new_tokens=8)
    assert (again.answered, again.kept, again.device) == (0, 4, None)


def test_answers_to_something_else_are_never_mixed_in(
    answered: Path, trained: Path, reversed_adapter: Path, tmp_path: Path
) -> None:
    prompts, output = answered / "prompts.jsonl", tmp_path / "answers.jsonl"
    before = (answered / "answers.jsonl").read_bytes()
    output.write_bytes(before)
    for adapter, settings in ((trained, {"max_new_tokens": 9}), (reversed_adapter, {"max_new_tokens": 8})):
        with pytest.raises(UsageError, match="was asked with other settings"):
            generate_file(adapter, prompts, output, **settings)  # type: ignore[arg-type]
    changed = tmp_path / "prompts.jsonl"
    changed.write_text(prompts.read_text().replace("say two", "say ten"))
    with pytest.raises(UsageError, match=r"Row 1 of .* another prompt"):
        generate_file(trained, changed, output, max_new_tokens=8)
    assert output.read_bytes() == before
    output.write_text("my thesis\n")
    with pytest.raises(UsageError, match=r"Line 1 of .* is no answer"):
        generate_file(trained, prompts, output, max_new_tokens=8)
    assert output.read_text() == "my thesis\n"


def test_a_stop_leaves_the_answers_so_far_in_the_file(answered: Path, trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    with pytest.raises(AnsweringStopped):
        generate_file(
            trained,
            answered / "prompts.jsonl",
            output,
            max_new_tokens=8,
            stop=lambda: output.exists() and bool(output.read_bytes()),
        )
    kept = len(lines(output))
    assert kept > 0
    result = generate_file(trained, answered / "prompts.jsonl", output, max_new_tokens=8)
    assert result.kept == kept
    assert output.read_bytes() == (answered / "answers.jsonl").read_bytes()


def prompts_in(path: Path, text: str, system: str | None = None) -> list[Any]:
    path.write_text(text)
    return [row.turns if isinstance(row, FilePrompt) else row.problem for row in read_prompts(path, system)]


def test_prompts_are_read_from_lines_and_from_rows_of_datasets(tmp_path: Path) -> None:
    user = {"role": "user", "content": "say one"}
    assert prompts_in(tmp_path / "a.txt", "say one\n\n") == [(user,)]
    assert prompts_in(tmp_path / "b.prompts", "say one", "Be brief.")[0][0] == {
        "role": "system",
        "content": "Be brief.",
    }
    alpaca = json.dumps({"instruction": "say one", "output": "gold"})
    assert prompts_in(tmp_path / "c.jsonl", alpaca + "\n") == [(user,)]
    assert prompts_in(tmp_path / "d.csv", "question,answer\nsay one,gold\n") == [(user,)]
    empty = '{"prompt": "  "}\n{"prompt": "say one"}\n'
    assert prompts_in(tmp_path / "e.jsonl", empty) == ["holds nothing to answer", (user,)]


def test_the_speed_of_answering_can_be_measured_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import generation_speed

    monkeypatch.setattr(generation_speed, "ROUNDS", 1)
    monkeypatch.setattr(generation_speed, "ALONE_TOKENS", 4)
    monkeypatch.setattr(generation_speed, "MOST_NEW_TOKENS", 6)
    monkeypatch.setattr(sys, "argv", ["generation_speed", str(tmp_path / "speed.json"), "3"])
    generation_speed.main()
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["prompts"] == 3
    assert set(report["seconds"]) == {"plain", "batches", "ours"}
    assert report["adapter_change_ms"] < 100


@pytest.fixture
def commands() -> Iterator[Callable[..., Any]]:
    """`run(words, input)` of one command line in this process."""
    from qlora_tools.cli.main import qlora

    def run(*words: str, given: str = "") -> Any:
        return CliRunner().invoke(qlora, ["generate", *words], input=given)

    yield run


def test_a_chat_keeps_its_turns_changes_who_answers_and_ends(
    trained: Path, reversed_adapter: Path, commands: Callable[..., Any]
) -> None:
    talk = "say two\n/use base\nsay two\n/use nobody\n/use first\n/new\nsay two\n/exit\nnever said\n"
    done = commands(f"first={trained}", f"second={reversed_adapter}", "--chat", "--max-new-tokens", "8", given=talk)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("two it is") == 2
    assert "Choose among base, first, second" in done.stderr
    assert "never" not in done.output


def test_a_chat_that_ends_with_its_input_ends_well(trained: Path, commands: Callable[..., Any]) -> None:
    done = commands(str(trained), "--chat", "--side", "base", "--max-new-tokens", "2", given="say two")
    assert done.exit_code == 0, done.output


def test_options_that_do_not_go_together_are_refused(
    trained: Path, commands: Callable[..., Any], tmp_path: Path
) -> None:
    for words in (["--chat", "-p", "x"], ["--chat", "--side", "both"], ["-o", "out.jsonl", "-p", "x"], []):
        done = commands(str(trained), *words)
        assert isinstance(done.exception, UsageError), words


def test_the_chat_sends_earlier_turns_along_and_an_interrupted_answer_stays_as_far_as_it_came(trained: Path) -> None:
    from qlora_tools.generation.chat import Chat
    from qlora_tools.generation.sampling import Sampling
    from qlora_tools.generation.session import GenerationSession

    session = GenerationSession.open(trained / "adapter")
    chat = Chat({"a": session}, Sampling(max_new_tokens=8), "Be brief.", "a")
    heard: list[RunEvent] = []
    chat.say("say two", heard.append)
    chat.say("say one", heard.append, stop=lambda: True)
    assert [turn["role"] for turn in chat.turns] == ["user", "assistant"] * 2
    assert chat.turns[3]["content"] == ""
    expected = session.answer(
        [[{"role": "system", "content": "Be brief."}, *chat.turns, {"role": "user", "content": "say two"}]],
        with_adapter=True,
        max_new_tokens=8,
    )
    assert [chat.say("say two", heard.append)] == expected


def test_one_side_alone_leaves_the_other_empty(trained: Path) -> None:
    adapter = generate(trained / "adapter", ["say two"], side="adapter", max_new_tokens=4).answers[0]
    base = generate(trained, ["say two"], side="base", max_new_tokens=4).answers[0]
    assert (adapter.base, base.adapter) == (None, None)


@pytest.mark.parametrize(("base", "precision"), [("trained", "trained"), ("original", "16bit")])
def test_a_merged_model_answers_as_base_plus_adapter_and_loads_in_plain_transformers(
    base: Any, precision: Any, trained: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from qlora_tools import merge

    result = merge(trained, tmp_path / "merged", base=base, dtype="float32", prompts=["say two", "say one"])
    assert result.parity is not None
    assert result.parity.passed
    assert result.parity.same_answers == result.parity.prompts == 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    assert not list((tmp_path / "merged").glob("*.bin"))
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "say two"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    told = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    asked = generate(trained, ["say two"], side="adapter", base_precision=precision, max_new_tokens=16)
    assert told == asked.answers[0].adapter


def test_a_merged_model_that_answers_otherwise_is_not_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlora_tools import merge
    from qlora_tools.merging import agreement

    monkeypatch.setattr(agreement, "_MOST_KL", -1.0)
    with pytest.raises(CheckFailed, match="nothing was written"):
        merge(trained, tmp_path / "merged", prompts=["say two"])
    assert list(tmp_path.iterdir()) == []


def test_merging_never_replaces_what_is_there(trained: Path, tmp_path: Path) -> None:
    from qlora_tools import merge

    (tmp_path / "merged").mkdir()
    with pytest.raises(UsageError, match="exists"):
        merge(trained, tmp_path / "merged")


def test_an_adapter_whose_base_changed_is_refused(trained: Path, tiny_model: Models, tmp_path: Path) -> None:
    copy = tmp_path / "adapter"
    shutil.copytree(trained / "adapter", copy)
    record = json.loads((copy / "qlora_tools.json").read_text())
    record["base_name"] = str(tiny_model("qwen3"))
    (copy / "qlora_tools.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="is not the model that this adapter was trained on"):
        generate(copy, ["say two"])


def test_an_adapter_made_by_plain_peft_is_understood(tiny_model: Models, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    get_peft_model(base, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(
        tmp_path / "plain"
    )
    assert generate(tmp_path / "plain", ["say one"], max_new_tokens=4).answers[0].adapter is not None


def test_a_base_whose_generation_config_names_a_temperature_can_be_merged(tiny_model: Models, tmp_path: Path) -> None:
    from qlora_tools import merge

    shutil.copytree(tiny_model("llama"), tmp_path / "base")
    settings = tmp_path / "base" / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"temperature": 0.6, "top_p": 0.9}))
    small_adapter(tmp_path / "base", tmp_path / "run")
    merge(tmp_path / "run", tmp_path / "merged", dtype="float32", prompts=["say one"])
    written = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert (written["temperature"], written["top_p"], written["do_sample"]) == (0.6, 0.9, True)


def test_the_form_that_a_base_without_a_template_learns_goes_with_its_adapter_and_its_merged_model(
    tmp_path: Path,
) -> None:
    from transformers import AutoTokenizer

    from qlora_tools import merge, train

    from .families import make_model

    make_model("llama", tmp_path / "base", template=False)
    rows = [{"instruction": f"say {word}", "output": f"{word} it is"} for word in ("one", "two", "three")]
    raw = {
        "model": {"name": str(tmp_path / "base")},
        "data": {"path": str(write_rows(tmp_path / "rows.jsonl", rows))},
        "output": {"directory": str(tmp_path / "run")},
        "training": {"max_steps": 1, "max_length_tokens": 64, "smoke_generation": False},
    }
    result = train(parse_config(raw))
    merge(tmp_path / "run", tmp_path / "merged", check=False)
    asked = "<|begin|>" if AutoTokenizer.from_pretrained(tmp_path / "base")("a")["input_ids"][0] == 0 else ""
    for directory in (result.adapter_directory, tmp_path / "merged"):
        tokenizer = AutoTokenizer.from_pretrained(directory)
        turns = [{"role": "user", "content": "say one"}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert prompt == f"{asked}### Instruction:\nsay one\n\n### Response:\n"
    assert generate(tmp_path / "run", ["say one"], max_new_tokens=2).answers[0].adapter is not None
    # Another template beside the adapter is another way of asking: refused.
    template = Path(result.adapter_directory) / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(ModelError, match="not the one that the adapter was trained with"):
        generate(tmp_path / "run", ["say one"], max_new_tokens=2)
