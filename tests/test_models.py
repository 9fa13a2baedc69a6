"""A model's name means what its form says; a local directory is checked before anything is loaded from it."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.errors import ModelError, QloraError
from qlora_tools.models import ModelReference, ModelShape, resolve_model
from qlora_tools.models.causal import require_causal_language_model
from qlora_tools.models.local_files import check_model_directory, read_model_config

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "head_dim": None,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "head_dim": 256,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "vocab_size": 256000,
}
PHI3 = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("smollm2-135m-instruct", "catalogue"),
        ("meta-llama/Llama-3.1-8B", "hub"),
        ("owner/name", "hub"),
        ("./owner/name", "local"),
        ("../model", "local"),
        ("/srv/model", "local"),
        ("~/model", "local"),
        (".", "local"),
        ("..", "local"),
    ],
)
def test_the_form_of_a_name_decides_whatever_exists_on_disk(
    name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for existing in ("owner/name", "meta-llama/Llama-3.1-8B", "smollm2-135m-instruct"):
        (tmp_path / existing).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert ModelReference.parse(name) == ModelReference(name, source)  # type: ignore[arg-type]


def test_a_source_that_is_given_overrides_the_form() -> None:
    assert ModelReference.parse("owner/name", source="local", revision=None).source == "local"
    assert ModelReference.parse("owner/name", source="hub", revision="v1") == ModelReference("owner/name", "hub", "v1")
    with pytest.raises(ModelError, match="is not a Hub id"):
        ModelReference.parse("smollm2-135m-instruct", source="hub")
    with pytest.raises(ModelError, match="The catalogue has no model"):
        ModelReference.parse("owner/name", source="catalogue")


def test_an_unknown_catalogue_name_lists_the_nearest_and_how_to_write_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "smollm2-135m").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        ModelReference.parse("smollm2-135m")
    assert "nearest: smollm2-135m-instruct" in caught.value.message
    assert "./smollm2-135m" in caught.value.next_step


@pytest.mark.parametrize(
    "name",
    ["a/b/c", "owner/", "owner/na me", "owner/..", "o..o/n", "-o/n", "o/-n", "owner/" + "n" * 300, "https://hf.co"],
)
def test_names_that_are_no_hub_id_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="is not a Hub id"):
        ModelReference.parse(name)


def test_a_hub_id_does_not_end_in_a_newline() -> None:
    with pytest.raises(ModelError, match="is not a Hub id"):
        ModelReference.parse("owner/name\n")


def test_a_hub_id_that_is_not_in_the_cache_is_told_in_words_offline() -> None:
    with pytest.raises(ModelError, match="owner/name cannot be fetched from the Hub"):
        resolve_model(ModelReference.parse("owner/name"))


def test_a_hub_model_is_pinned_to_the_commit_in_the_cache_and_never_read_from_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, text in (("config.json", "{}"), ("model.safetensors", ""), ("tokenizer.json", "{}")):
        (snapshot / name).write_text(text)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    resolved = resolve_model(ModelReference.parse("owner/name"))
    assert (resolved.location, resolved.revision) == (str(snapshot), commit)


def test_a_complete_local_directory_is_resolved_to_its_absolute_path(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_directory.parent)
    assert resolve_model(ModelReference.parse("./model")).location == str(model_directory)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def _replace_weights(*others: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        for other in others:
            (directory / other).write_bytes(b"")

    return change


def _index(content: str, *shards: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        _replace_weights(*shards)(directory)
        (directory / "model.safetensors.index.json").write_text(content, encoding="utf-8")

    return change


def _config(content: str) -> Callable[[Path], None]:
    return lambda directory: _written(directory / "config.json", content)


def _written(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


TWO_SHARDS = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_remove("config.json"), "has no config.json"),
        (_config("{"), "config.json cannot be read"),
        (_config("[]"), "config.json is not a JSON object"),
        (_remove("model.safetensors"), r"has no model.safetensors\."),
        (_replace_weights("pytorch_model.bin"), r"only pickle files \(pytorch_model.bin\), which can run code"),
        (_replace_weights("model.Q4_0.gguf"), r"only GGUF files \(model.Q4_0.gguf\), which cannot be trained"),
        (_index(TWO_SHARDS, "model-1.safetensors"), "lacks 1 of 2 shards: model-2.safetensors"),
        (_index("{"), "is not a valid index of shards"),
        (_index("{}"), "is not a valid index of shards"),
        (_index('{"weight_map": []}'), "is not a valid index of shards"),
        (_index('{"weight_map": {"a": []}}'), "is not a valid index of shards"),
        (_remove("tokenizer.json"), "has no tokenizer"),
    ],
)
def test_an_incomplete_or_unsafe_directory_is_refused_in_words(
    model_directory: Path, change: Callable[[Path], None], words: str
) -> None:
    change(model_directory)
    with pytest.raises(ModelError, match=words) as caught:
        check_model_directory(model_directory)
    assert caught.value.next_step


def test_an_index_that_names_no_shard_is_refused(model_directory: Path) -> None:
    _index('{"weight_map": {}}')(model_directory)
    with pytest.raises(ModelError):
        check_model_directory(model_directory)


def test_a_directory_with_all_its_shards_is_accepted(model_directory: Path) -> None:
    _index(TWO_SHARDS, "model-1.safetensors", "model-2.safetensors")(model_directory)
    check_model_directory(model_directory)
    assert read_model_config(model_directory) == LLAMA


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ModelError, match="does not exist"):
        resolve_model(ModelReference.parse(str(tmp_path / "absent")))
    with pytest.raises(ModelError, match="is a file, not a directory"):
        resolve_model(ModelReference.parse(str(tmp_path / "file")))


@pytest.mark.parametrize("name", ["~no-such-user-here/model", "./" + "m" * 300], ids=["unknown user", "name too long"])
def test_a_local_name_that_the_system_cannot_look_up_is_the_users_mistake(name: str) -> None:
    with pytest.raises(QloraError):
        resolve_model(ModelReference.parse(name))


@pytest.mark.parametrize(
    ("values", "shape", "linear", "embedding"),
    [
        (LLAMA, ("llama", 32, 4096, 14336, 32, 8, 128, 128256, False), 6_979_321_856, 2 * 128256 * 4096),
        (QWEN2, ("qwen2", 24, 896, 4864, 14, 2, 64, 151936, True), 357_826_560, 151936 * 896),
        (MISTRAL, ("mistral", 32, 4096, 14336, 32, 8, 128, 32000, False), 6_979_321_856, 2 * 32000 * 4096),
        (GEMMA2, ("gemma2", 26, 2304, 9216, 8, 4, 256, 256000, True), 2_024_275_968, 256000 * 2304),
        (PHI3, ("phi3", 32, 3072, 8192, 32, 32, 96, 32064, False), 3_623_878_656, 2 * 32064 * 3072),
    ],
    ids=["llama", "qwen2", "mistral", "gemma2", "phi3"],
)
def test_the_shape_of_each_family_is_read_from_its_config(
    values: dict[str, Any], shape: tuple[Any, ...], linear: int, embedding: int
) -> None:
    read = ModelShape.from_config(values)
    expected = ModelShape(*shape)
    sizes = [field.name for field in fields(ModelShape)][: len(shape)]
    assert [getattr(read, name) for name in sizes] == [getattr(expected, name) for name in sizes]
    assert (read.linear_parameters, read.embedding_parameters) == (linear, embedding)
    require_causal_language_model(values, "m")


def test_the_names_of_gpt2_are_read_and_its_mlp_is_four_times_as_wide() -> None:
    values = {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "vocab_size": 50257, "n_inner": None}
    shape = ModelShape.from_config(values)
    assert (shape.hidden_size, shape.intermediate_size, shape.key_value_heads) == (768, 3072, 12)
    assert shape.tied_embeddings


@pytest.mark.parametrize("value", [None, 0, -1, "4096", 1.5, True])
def test_a_size_that_is_no_positive_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ModelError, match=r"config\.json has no usable vocab_size"):
        ModelShape.from_config({**LLAMA, "vocab_size": value})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "T5ForConditionalGeneration"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "bart"),
        ({"architectures": ["LlavaForCausalLM"], "vision_config": {}}, "LlavaForCausalLM"),
        ({"architectures": ["Qwen2AudioForConditionalGeneration"], "audio_config": {}}, "Qwen2Audio"),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
    ],
)
def test_models_that_are_not_plain_decoders_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        require_causal_language_model(values, "owner/name")
    assert "owner/name" in caught.value.message
    assert "causal language models only" in caught.value.message
