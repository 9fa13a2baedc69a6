"""Base and adapter side by side, and merged models that answer as the adapter did."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.config import parse_config
from qlora_tools.errors import CheckFailed, ModelError, UsageError

from .conftest import write_rows

Raw = Callable[..., dict[str, Any]]
Models = Callable[[str], Path]


@pytest.fixture(scope="module")
def trained(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen that has learnt its ten answers by heart."""
    from qlora_tools import train

    output = tmp_path_factory.mktemp("trained") / "run"
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    rows = [{"question": f"say {word}", "answer": f"{word} it is"} for word in words]
    data = write_rows(output.parent / "rows.jsonl", rows)
    training = {
        "max_steps": 250,
        "micro_batch_size": 10,
        "gradient_accumulation_steps": 1,
        "learning_rate": 3e-3,
        "gradient_checkpointing": False,
        "max_length_tokens": 64,
    }
    raw = {
        "model": {"name": str(tiny_model("qwen2"))},
        "data": {"path": str(data)},
        "output": {"directory": str(output)},
        "training": training,
    }
    result = train(parse_config(raw))
    assert result.losses[-1] < 0.15
    return output


def test_the_adapter_answers_what_it_learnt_and_stops_and_the_base_does_not(trained: Path) -> None:
    from qlora_tools import generate

    result = generate(trained, ["say two", "say nine"], max_new_tokens=32)
    assert [answer.adapter for answer in result.answers] == ["two it is", "nine it is"]
    assert all(answer.base != answer.adapter for answer in result.answers)
    assert [answer.prompt for answer in result.answers] == ["say two", "say nine"]


def test_one_side_alone_leaves_the_other_empty(trained: Path) -> None:
    from qlora_tools import generate

    adapter = generate(trained / "adapter", ["say two"], side="adapter", max_new_tokens=4).answers[0]
    base = generate(trained, ["say two"], side="base", max_new_tokens=4).answers[0]
    assert (adapter.base, base.adapter) == (None, None)


def test_answers_do_not_depend_on_the_prompts_beside_them(trained: Path) -> None:
    from qlora_tools import generate

    prompts = ["say one", "say very very two", "say three", "say four or five, or six", "say seven"]
    together = generate(trained, prompts, side="adapter", max_new_tokens=12).answers
    alone = generate(trained, prompts[3:4], side="adapter", max_new_tokens=12).answers
    assert together[3] == alone[0]


def test_sampling_is_fixed_by_its_seed(trained: Path) -> None:
    from qlora_tools import generate

    def sampled(seed: int) -> str | None:
        result = generate(trained, ["tell me"], side="base", max_new_tokens=16, temperature=5.0, seed=seed)
        return result.answers[0].base

    assert sampled(1) == sampled(1) != sampled(2)


@pytest.mark.parametrize("base", ["trained", "original"])
def test_a_merged_model_answers_as_base_plus_adapter_and_loads_in_plain_transformers(
    base: Any, trained: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from qlora_tools import merge

    result = merge(trained, tmp_path / "merged", base=base, dtype="float32", prompts=["say two", "say nine"])
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
    assert tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True) == "two it is"


def test_a_merged_model_that_answers_otherwise_is_not_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlora_tools import merge
    from qlora_tools.merging import parity

    monkeypatch.setattr(parity, "_MOST_KL", -1.0)
    with pytest.raises(CheckFailed, match="nothing was written"):
        merge(trained, tmp_path / "merged", prompts=["say two"])
    assert list(tmp_path.iterdir()) == []


def test_merging_never_replaces_what_is_there(trained: Path, tmp_path: Path) -> None:
    from qlora_tools import merge

    (tmp_path / "merged").mkdir()
    with pytest.raises(UsageError, match="exists"):
        merge(trained, tmp_path / "merged")


def test_an_adapter_whose_base_changed_is_refused(trained: Path, tiny_model: Models, tmp_path: Path) -> None:
    import shutil

    from qlora_tools import generate

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

    from qlora_tools import generate

    base = AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    get_peft_model(base, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(
        tmp_path / "plain"
    )
    assert generate(tmp_path / "plain", ["say one"], max_new_tokens=4).answers[0].adapter is not None


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
        (lambda d: (d / "adapter_model.safetensors").write_bytes(b"\0" * 64), "does not fit its base|damaged"),
    ],
    ids=["no config", "pickle", "damaged record", "another template", "damaged weights"],
)
def test_a_damaged_adapter_is_told_in_words(
    damage: Callable[[Path], object], said: str, trained: Path, tmp_path: Path
) -> None:
    import shutil

    from qlora_tools import generate

    copy = tmp_path / "adapter"
    shutil.copytree(trained / "adapter", copy)
    damage(copy)
    with pytest.raises(ModelError, match=said):
        generate(copy, ["say two"])


def test_a_base_whose_generation_config_names_a_temperature_can_be_merged(
    tiny_model: Models, chat_rows: Path, tmp_path: Path
) -> None:
    import shutil

    from qlora_tools import merge, train

    shutil.copytree(tiny_model("llama"), tmp_path / "base")
    settings = tmp_path / "base" / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"temperature": 0.6, "top_p": 0.9}))
    parts = {"model": {"name": str(tmp_path / "base")}, "data": {"path": str(chat_rows)}}
    training = {"max_steps": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 1, "max_length_tokens": 64}
    train(parse_config({**parts, "training": training, "output": {"directory": str(tmp_path / "run")}}))
    merge(tmp_path / "run", tmp_path / "merged", prompts=["say one"])
    written = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert (written["temperature"], written["top_p"], written["do_sample"]) == (0.6, 0.9, True)


def test_the_form_that_a_base_without_a_template_learns_goes_with_its_adapter_and_its_merged_model(
    tmp_path: Path,
) -> None:
    from transformers import AutoTokenizer

    from qlora_tools import generate, merge, train

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
