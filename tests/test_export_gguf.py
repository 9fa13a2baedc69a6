"""GGUF files: opened by a real llama.cpp, which must tokenise, prompt and answer as Transformers does."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.errors import (
    DiskSpaceError,
    MissingLibraryError,
    ModelError,
    UsageError,
    WorkStopped,
)
from qlora_tools.events import RunEvent
from qlora_tools.exporting.gguf import write_gguf
from qlora_tools.models.stored_tensors import file_tensors

from .families import FAMILIES
from .gguf_models import TEXTS, VARIANTS, byte_level_tokenizer, save_model, sentencepiece_tokenizer
from .llama_cpp import Answer, opened

Models = Callable[[str], Path]
_TURNS = [
    {"role": "user", "content": "say two  1234"},
    {"role": "assistant", "content": "it's 2 é🙂"},
    {"role": "user", "content": "what is the capital of Japan?"},
]


def reference(directory: Path, ids: list[int], count: int) -> tuple[list[int], list[list[float]]]:
    """Greedy tokens of Transformers in fp32, and the log-probabilities at each of their places."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        answer = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, use_cache=True)
        chances = model(answer).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    return answer[0, len(ids) :].tolist(), chances.tolist()


def largest_difference(answer: Answer, expected: list[list[float]], worth: float) -> float:
    """Between log-probabilities of tokens whose own is above `worth`."""
    differences = [
        abs(chance - expected[place][token])
        for place, chances in answer.chances.items()
        if place < len(expected)
        for token, chance in chances.items()
        if expected[place][token] > worth
    ]
    return max(differences)


def tokenizer_of(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def trained_prompt(directory: Path, turns: list[Any]) -> tuple[Any, str, list[int]]:
    tokenizer = tokenizer_of(directory)
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer, text, tokenizer(text, add_special_tokens=False)["input_ids"]


def assert_llama_cpp_agrees(directory: Path, file: Path, turns: list[Any], tolerance: float) -> None:
    """The prompt, its tokens, the probabilities and eight greedy tokens."""
    tokenizer, text, ids = trained_prompt(directory, turns)
    without_bos = text.removeprefix(tokenizer.bos_token or "")
    with opened(file) as runtime:
        assert runtime.prompt(turns).removeprefix(tokenizer.bos_token or "") == without_bos
        assert runtime.tokens(without_bos) == ids
        answer = runtime.answer(ids, 8)
    expected, chances = reference(directory, ids, 8)
    assert answer.tokens == expected[: len(answer.tokens)]
    assert largest_difference(answer, chances, -20) < tolerance


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_answers_as_transformers_does(family: str, tiny_model: Models, tmp_path: Path) -> None:
    facts = write_gguf(tiny_model(family), tmp_path / "model.gguf", kind="f32")
    assert facts.check.passed
    assert facts.check.compared_tensors == facts.tensors
    # llama.cpp knows no windows for Mistral, which is said; within the window both must agree.
    turns = _TURNS[2:] if family == "mistral" else _TURNS
    assert bool(facts.notes) == (family in ("mistral", "qwen2"))
    assert_llama_cpp_agrees(tiny_model(family), tmp_path / "model.gguf", turns, 2e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_sets_members_of_a_family_apart_is_written(name: str, tmp_path: Path) -> None:
    config, sizes = VARIANTS[name]
    save_model(tmp_path / "model", config, byte_level_tokenizer("gpt-2"), **sizes)
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", kind="f32")
    assert_llama_cpp_agrees(tmp_path / "model", tmp_path / "model.gguf", _TURNS, 5e-3)


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 0.02), ("bf16", 0.1), ("q8_0", 0.3)])
def test_each_type_of_file_answers_as_closely_as_it_rounds(
    kind: Any, tolerance: float, tiny_model: Models, tmp_path: Path
) -> None:
    facts = write_gguf(tiny_model("qwen2"), tmp_path / "model.gguf", kind=kind)
    assert 0 <= facts.check.largest_error <= 1
    assert facts.size_bytes == (tmp_path / "model.gguf").stat().st_size
    _, _, ids = trained_prompt(tiny_model("qwen2"), _TURNS)
    _, chances = reference(tiny_model("qwen2"), ids, 1)
    with opened(tmp_path / "model.gguf") as runtime:
        assert largest_difference(runtime.answer(ids, 1), chances, -5) < tolerance


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "tekken", "gpt-4o"])
def test_byte_level_tokenizers_cut_text_alike(kind: str, tmp_path: Path) -> None:
    save_model(tmp_path / "model", "LlamaConfig", byte_level_tokenizer(kind), num_hidden_layers=1)
    facts = write_gguf(tmp_path / "model", tmp_path / "model.gguf")
    assert (facts.tokenizer_model, facts.pre_tokenizer) == ("gpt2", kind)
    assert_same_tokens(tmp_path / "model", tmp_path / "model.gguf")


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma", "phi3"])
def test_sentencepiece_tokenizers_cut_text_alike(kind: str, tmp_path: Path) -> None:
    save_model(tmp_path / "model", "LlamaConfig", sentencepiece_tokenizer(kind), num_hidden_layers=1)
    facts = write_gguf(tmp_path / "model", tmp_path / "model.gguf")
    assert facts.tokenizer_model == "llama"
    assert bool(facts.notes) == (kind == "mistral")
    assert_same_tokens(tmp_path / "model", tmp_path / "model.gguf", chats_only=kind == "mistral")


def assert_same_tokens(directory: Path, file: Path, *, chats_only: bool = False) -> None:
    tokenizer = tokenizer_of(directory)
    with opened(file) as runtime:
        for text in () if chats_only else TEXTS:
            assert runtime.tokens(text, special=False) == tokenizer(text, add_special_tokens=False)["input_ids"], text
        for text in TEXTS:
            turns = [{"role": "user", "content": text}, {"role": "assistant", "content": text}, _TURNS[0]]
            _, _, ids = trained_prompt(directory, turns)
            assert runtime.tokens(runtime.prompt(turns)) == ids, text


def test_an_answer_ends_at_the_token_that_ended_trained_answers(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tokenizer = byte_level_tokenizer("gpt-2")
    tokenizer.eos_token = "<|begin_of_text|>"
    save_model(tmp_path / "model", "LlamaConfig", tokenizer, num_hidden_layers=1)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    # Every embedding alike and a head that knows one answer.
    weights["model.embed_tokens.weight"] = torch.ones_like(weights["model.embed_tokens.weight"])
    head = torch.zeros_like(weights["lm_head.weight"])
    head[end] = weights["model.norm.weight"].sign() * 100
    weights["lm_head.weight"] = head
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    facts = write_gguf(tmp_path / "model", tmp_path / "model.gguf")
    assert facts.stop_tokens == ["<|begin_of_text|>", "<|im_end|>"]
    _, _, ids = trained_prompt(tmp_path / "model", _TURNS)
    with opened(tmp_path / "model.gguf") as runtime:
        assert runtime.answer(ids, 4).end == "eos"


def test_bos_is_added_once_where_the_trained_form_has_it_and_never_elsewhere(
    tiny_model: Models, tmp_path: Path
) -> None:
    with_bos = write_gguf(tiny_model("llama"), tmp_path / "llama.gguf")
    without = write_gguf(tiny_model("qwen3"), tmp_path / "qwen3.gguf")
    assert (with_bos.bos_added, without.bos_added) == (True, False)
    bos = tokenizer_of(tiny_model("llama")).bos_token_id
    with opened(tmp_path / "llama.gguf") as runtime:
        assert runtime.tokens(runtime.prompt(_TURNS)).count(bos) == 1


def test_progress_is_told_and_a_stop_leaves_nothing(tiny_model: Models, tmp_path: Path) -> None:
    events: list[RunEvent] = []
    facts = write_gguf(tiny_model("qwen2"), tmp_path / "model.gguf", on_event=events.append)
    told = [event.values for event in events if event.kind == "progress"]
    assert told[-1] == {"done": facts.tensors, "total": facts.tensors}
    with pytest.raises(WorkStopped, match="stopped after 3 of"):
        write_gguf(tiny_model("qwen2"), tmp_path / "other.gguf", stop=iter([False] * 3 + [True]).__next__)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_the_file_holds_the_template_that_was_trained(tiny_model: Models, tmp_path: Path) -> None:
    import gguf

    from qlora_tools.exporting.gguf_reading import read_gguf

    write_gguf(tiny_model("phi3"), tmp_path / "model.gguf", name="a\x1b[31m name")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert reader.get_field("tokenizer.chat_template").contents() == FAMILIES["phi3"].template
    assert reader.get_field("general.name").contents() == "a name"
    # The check reads files by itself; it must find what the library's reader finds.
    file = read_gguf(tmp_path / "model.gguf")
    own = {name: getattr(value, "tolist", lambda value=value: value)() for name, value in file.fields.items()}
    assert own == {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert {name: tensor.place for name, tensor in file.tensors.items()} == {
        tensor.name: tensor.data_offset for tensor in reader.tensors
    }


def test_a_changed_byte_of_a_written_file_is_found(tiny_model: Models, tmp_path: Path) -> None:
    from qlora_tools.exporting.gguf_check import check_file
    from qlora_tools.exporting.gguf_families import family_of
    from qlora_tools.exporting.gguf_source import read_source
    from qlora_tools.exporting.gguf_tensors import plan_tensors
    from qlora_tools.exporting.gguf_tokenizer import read_vocabulary

    path = tmp_path / "model.gguf"
    write_gguf(tiny_model("llama"), path, kind="f16")
    source = read_source(tiny_model("llama"))
    planned = plan_tensors(source, family_of(source.config), "f16")
    vocabulary = read_vocabulary(source.tokenizer, source.stop_ids, source.config.vocab_size)
    assert check_file(path, planned, vocabulary).passed
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x40
    path.write_bytes(content)
    assert not check_file(path, planned, vocabulary).passed


def edited(source: Path, target: Path, name: str, **values: Any) -> Path:
    """A copy of a model directory with other values in one of its JSON files."""
    shutil.copytree(source, target)
    content = json.loads((target / name).read_text(encoding="utf-8"))
    (target / name).write_text(json.dumps({**content, **values}), encoding="utf-8")
    return target


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
        ({"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]}, "type 'gpt_neox'"),
        ({"vocab_size": 600}, "not what config.json says"),
        ({"num_hidden_layers": 3}, "lacks"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "scaling 'dynamic'"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    values: dict[str, Any], words: str, tiny_model: Models, tmp_path: Path
) -> None:
    directory = edited(tiny_model("llama"), tmp_path / "model", "config.json", **values)
    with pytest.raises(ModelError, match=words):
        write_gguf(directory, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_missing_shard_and_an_adapter_are_refused(tiny_model: Models, tmp_path: Path) -> None:
    shutil.copytree(tiny_model("llama"), tmp_path / "model")
    index = {"weight_map": {"lm_head.weight": "a-1.safetensors", "model.norm.weight": "a-2.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelError, match="lacks 2 of 2 shards"):
        write_gguf(tmp_path / "model", tmp_path / "model.gguf")
    (tmp_path / "model" / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="adapter"):
        write_gguf(tmp_path / "model", tmp_path / "model.gguf")


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(tiny_model: Models, tmp_path: Path) -> None:
    shutil.copytree(tiny_model("llama"), tmp_path / "model")
    tokenizer = tokenizer_of(tmp_path / "model")
    tokenizer.add_tokens([f"<{number}>" for number in range(514 - len(tokenizer))])
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"514 tokens .* 512 rows"):
        write_gguf(tmp_path / "model", tmp_path / "model.gguf")


def test_tokenizers_that_llama_cpp_has_no_name_for_are_refused(tiny_model: Models, tmp_path: Path) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
    other = byte_level_tokenizer("gpt-2").backend_tokenizer
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\w+"), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
    )
    for number, (backend, reason) in enumerate(((words, "WordLevel"), (other, "Split, ByteLevel"))):
        directory = tmp_path / str(number)
        shutil.copytree(tiny_model("llama"), directory)
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>").save_pretrained(directory)
        with pytest.raises(ModelError, match=reason):
            write_gguf(directory, tmp_path / "model.gguf")


@pytest.mark.parametrize(("value", "error", "words"), [(1e6, ModelError, "bf16"), (float("nan"), ModelError, "NaN")])
def test_values_that_a_type_cannot_hold_are_said(
    value: float, error: type[Exception], words: str, tiny_model: Models, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model("llama"), tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["lm_head.weight"][5, 5] = value
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(error) as raised:
        write_gguf(tmp_path / "model", tmp_path / "model.gguf", kind="f16")
    assert words in f"{raised.value} {raised.value.next_step}"  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_target_that_exists_and_a_full_disk_are_said_before_any_work(
    tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(UsageError, match="exists already"):
        write_gguf(tiny_model("llama"), tmp_path / "model.gguf")
    with pytest.raises(UsageError, match="q4_k"):
        write_gguf(tiny_model("llama"), tmp_path / "other.gguf", kind="q4_k")  # type: ignore[arg-type]
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskSpaceError, match="nothing was written"):
        write_gguf(tiny_model("llama"), tmp_path / "other.gguf")


def test_without_the_library_the_install_line_is_said(
    tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(MissingLibraryError) as raised:
        write_gguf(tiny_model("llama"), tmp_path / "model.gguf")
    assert "qlora-tools[train,export]" in raised.value.next_step


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 0.01), ("f16", 0.02), ("q8_0", 0.5)])
def test_a_real_model_answers_in_llama_cpp_as_in_transformers(kind: Any, tolerance: float, tmp_path: Path) -> None:
    from qlora_tools.models.catalogue import CATALOGUE
    from qlora_tools.models.packaged import prepare_packaged_model

    directory = prepare_packaged_model(CATALOGUE["smollm2-135m-instruct"])
    facts = write_gguf(directory, tmp_path / "model.gguf", kind=kind)
    assert not facts.bos_added
    assert_same_tokens(directory, tmp_path / "model.gguf")
    turns = [{"role": "user", "content": "What is the capital of Japan?"}]
    _, text, ids = trained_prompt(directory, turns)
    with opened(tmp_path / "model.gguf") as runtime:
        assert runtime.prompt(turns) == text
        answer = runtime.answer(ids, 24)
    expected, chances = reference(directory, ids, 24)
    if kind != "q8_0":
        assert answer.tokens == expected[: len(answer.tokens)]
    first = Answer(answer.tokens, {0: answer.chances[0]}, answer.end)
    assert largest_difference(first, chances, -8) < tolerance


# What a child process takes on its way through a model with one embedding of 2 GB.
_MEASURED = """
import re, sys, threading, time
from pathlib import Path
import gguf, numpy, torch, transformers
from transformers import AutoConfig, AutoTokenizer
from qlora_tools.exporting import gguf_check, gguf_tensors
from qlora_tools.exporting.gguf import write_gguf
def now():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
peak, going = [0], [True]
def watch():
    while going[0]:
        peak[0] = max(peak[0], now())
        time.sleep(0.005)
AutoTokenizer.from_pretrained(sys.argv[1]), AutoConfig.from_pretrained(sys.argv[1])
before = now()
thread = threading.Thread(target=watch)
thread.start()
write_gguf(Path(sys.argv[1]), Path(sys.argv[2]), kind="q8_0")
going[0] = False
thread.join()
print(peak[0] - before)
"""


@pytest.mark.slow
def test_a_large_tensor_takes_no_more_memory_than_a_slice(tmp_path: Path) -> None:
    import numpy as np

    rows, width = 131_072, 4096
    save_model(
        tmp_path / "model",
        "LlamaConfig",
        byte_level_tokenizer("gpt-2"),
        num_hidden_layers=1,
        vocab_size=1024,
        hidden_size=width,
        tie_word_embeddings=True,
    )
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "vocab_size": rows}), encoding="utf-8")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "small.safetensors")
    stored, content = file_tensors(tmp_path / "small.safetensors"), (tmp_path / "small.safetensors").read_bytes()
    shapes = {name: tensor.shape for name, tensor in stored.items()} | {"model.embed_tokens.weight": (rows, width)}
    header, place = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    with (tmp_path / "model" / "model.safetensors").open("wb") as file:
        told = json.dumps(header).encode()
        file.write(len(told).to_bytes(8, "little") + told)
        for name in shapes:
            tensor = stored[name]
            repeats = rows // 1024 if "embed" in name else 1
            for _ in range(repeats):
                file.write(content[tensor.begin : tensor.end])
    command = [sys.executable, "-c", _MEASURED, str(tmp_path / "model"), str(tmp_path / "model.gguf")]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    print(told.stdout)
    assert int(told.stdout.split()[-1]) < 300
