"""A config is short, frozen, survives its files, and says all that is wrong with it at once in the user's terms."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from qlora_tools.config import RunConfig, dump_config, explain_config, load_config, parse_config
from qlora_tools.config.files import MAX_CONFIG_CHARACTERS, parse_config_text
from qlora_tools.errors import ConfigError, ConfigProblem, UsageError

SHORTEST: dict[str, Any] = {
    "model": {"name": "smollm2-135m-instruct"},
    "data": {"path": "rows.jsonl"},
    "output": {"directory": "out"},
}
SHORTEST_YAML = "model: {name: smollm2-135m-instruct}\ndata: {path: rows.jsonl}\noutput: {directory: out}\n"


def config_with(**parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {**SHORTEST.get(name, {}), **parts.get(name, {})} for name in {**SHORTEST, **parts}}


def problems_of(raw: Mapping[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    return {problem.field: problem.message for problem in caught.value.problems}


def leaf_fields() -> dict[str, Any]:
    parts = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    return {f"{part}.{name}": info for part, model in parts.items() for name, info in model.model_fields.items()}


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shortest_config_has_the_defaults_of_the_field(tmp_path: Path) -> None:
    config = load_config(written(tmp_path / "run.yaml", SHORTEST_YAML))
    lora, quantization, training = config.lora, config.quantization, config.training
    assert (quantization.kind, quantization.double_quantization) == ("nf4", True)
    assert (lora.rank, lora.alpha, lora.dropout, lora.target_modules) == (16, 32.0, 0.0, "all-linear")
    assert (training.learning_rate, training.schedule, training.warmup_fraction) == (2e-4, "cosine", 0.03)
    assert (training.optimizer, training.max_gradient_norm) == ("paged_adamw_8bit", 1.0)
    assert config.data.loss_on == "completions"


def test_a_config_and_its_parts_cannot_be_changed() -> None:
    config = parse_config(SHORTEST)
    for target, name in ((config, "lora"), (config.lora, "rank"), (config.training, "seed")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(target, name, getattr(target, name))


def test_there_are_at_most_sixty_fields_and_each_one_is_described() -> None:
    fields = leaf_fields()
    assert len(fields) <= 60
    short = [name for name, info in fields.items() if len(info.description or "") < 30]
    assert short == []


def test_explain_gives_every_field_its_value_and_whether_it_was_written() -> None:
    explained = {item.field: item for item in explain_config(parse_config(config_with(lora={"rank": 16})))}
    assert list(explained) == list(leaf_fields())
    assert (explained["lora.rank"].value, explained["lora.rank"].is_default) == (16, False)
    assert explained["lora.alpha"].is_default
    assert explained["lora.alpha"].passed_to == "LoraConfig(lora_alpha)"


@settings(deadline=None, max_examples=60)
@given(
    rank=st.integers(1, 1024),
    alpha=st.floats(1e-6, 4096),
    learning_rate=st.floats(1e-12, 1),
    modules=st.one_of(st.sampled_from(["all-linear", "attention"]), st.just(("q_proj", "mlp.up_proj"))),
    path=st.from_regex(r"\A[a-z0-9.][a-z0-9 #:'\"é~-]{0,20}\Z").filter(str.strip),
    as_json=st.booleans(),
    complete=st.booleans(),
)
def test_a_dumped_config_loads_back_equal(
    rank: int, alpha: float, learning_rate: float, modules: Any, path: str, as_json: bool, complete: bool
) -> None:
    lora = {"rank": rank, "alpha": alpha, "target_modules": modules}
    config = parse_config(config_with(data={"path": path}, lora=lora, training={"learning_rate": learning_rate}))
    text = dump_config(config, as_json=as_json, complete=complete)
    assert parse_config(parse_config_text(text, source="dumped")) == config
    if as_json:
        assert parse_config(json.loads(text)) == config


@pytest.mark.parametrize("revision", ["1e5", "4e8", "12345e6", "null", "0123456", "1_000", "off"])
def test_text_that_looks_like_another_type_survives_the_round_trip(revision: str) -> None:
    config = parse_config(config_with(model={"revision": revision}))
    assert parse_config(parse_config_text(dump_config(config), source="dumped")) == config


def test_a_short_dump_holds_only_what_was_written() -> None:
    assert parse_config_text(dump_config(parse_config(SHORTEST)), source="dumped") == SHORTEST


@pytest.mark.parametrize("number", ["2e-4", "2E-4", "+2e-4", "0.0002", "2.e-4"])
def test_scientific_notation_in_yaml_is_a_number(number: str) -> None:
    text = f"{SHORTEST_YAML}training: {{learning_rate: {number}}}\n"
    assert parse_config(parse_config_text(text, source="given")).training.learning_rate == 2e-4


def test_the_word_off_is_a_value_of_packing_when_written_plainly_in_yaml() -> None:
    text = f"{SHORTEST_YAML}training: {{packing: off}}\n"
    assert parse_config(parse_config_text(text, source="given")).training.packing == "off"


@pytest.mark.parametrize("indent", [None, 2, "\t"], ids=["one line", "spaces", "tabs"])
def test_json_is_read_as_json_whatever_its_indentation(indent: int | str | None) -> None:
    assert parse_config_text(json.dumps(SHORTEST, indent=indent), source="given") == SHORTEST


@pytest.mark.parametrize("path", ["données.jsonl", "😀.jsonl"])
def test_escapes_of_json_are_read_as_json(path: str) -> None:
    raw = config_with(data={"path": path})
    assert parse_config_text(json.dumps(raw), source="given") == raw


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("- a\n- b\n", "a list"),
        ("just words\n", "a str"),
        (SHORTEST_YAML + "lora: {rank: 8, rank: 16}\n", "line 4, column 7: key 'rank' stands twice"),
        (SHORTEST_YAML + "data: {path: other}\n", "key 'data' stands twice"),
        ("1: {name: a}\n", "key 1 is not text"),
        ("model: {name: [\n", "line 2"),
        ("model: !!python/object/apply:os.getcwd []\n", "line 1"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_a_text_that_is_no_config_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path / "run.yaml", text)
    with pytest.raises(UsageError) as caught:
        load_config(path)
    assert words in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.next_step


def test_a_path_that_looks_like_a_date_is_text() -> None:
    assert parse_config_text("data: {path: 2024-13-45}\n", source="given") == {"data": {"path": "2024-13-45"}}


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"model: {name: caf\xe9}\n")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        load_config(path)


def test_a_byte_order_mark_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SHORTEST_YAML.encode())
    assert load_config(path) == parse_config(SHORTEST)


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    written(tmp_path / "run.yaml", SHORTEST_YAML)
    with pytest.raises(UsageError) as caught:
        load_config(tmp_path / "rum.yaml")
    assert caught.value.message == f"There is no config file {tmp_path / 'rum.yaml'}."
    assert caught.value.next_step == f"Did you mean {tmp_path / 'run.yaml'}?"


def test_a_missing_file_in_a_missing_directory_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no config file"):
        load_config(tmp_path / "nowhere" / "run.yaml")


def test_a_directory_and_a_file_that_is_too_large_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: is a directory"):
        load_config(tmp_path)
    large = written(tmp_path / "run.yaml", "#" * (MAX_CONFIG_CHARACTERS + 1))
    with pytest.raises(UsageError, match="too large for a config"):
        load_config(large)


def test_all_problems_are_reported_at_once() -> None:
    raw = {
        "model": {"name": "./m", "soruce": "hub"},
        "data": {},
        "lora": {"rank": 0, "alpha": "big", "target_modules": "linear"},
        "quantization": {"kind": "nf5"},
        "training": {"learningrate": 1e-4, "early_stopping_patience": 3},
        "outputs": {"directory": "out"},
    }
    found = problems_of(raw)
    assert set(found) == {
        "model.soruce",
        "data.path",
        "lora.rank",
        "lora.alpha",
        "lora.target_modules",
        "quantization.kind",
        "training.learningrate",
        "outputs",
        "output",
    }
    assert found["model.soruce"] == "there is no such field; did you mean model.source?"
    assert found["training.learningrate"] == "there is no such field; did you mean training.learning_rate?"
    assert found["outputs"] == "there is no such field; did you mean output?"
    assert found["data.path"] == found["output"] == "is required"
    assert "greater than or equal to 1 (is 0)" in found["lora.rank"]
    assert "'nf4'" in found["quantization.kind"]
    assert "'nf5'" in found["quantization.kind"]


def test_a_wrong_module_name_is_one_problem_and_lists_stay_allowed() -> None:
    found = problems_of(config_with(lora={"target_modules": ["q_proj", "q proj"]}))
    assert list(found) == ["lora.target_modules.1"]
    assert "'q proj'" in found["lora.target_modules.1"]


def test_a_conflict_between_valid_parts_is_reported_beside_an_invalid_part() -> None:
    raw = config_with(
        model={"nmae": "x"},
        lora={"initialization": "pissa"},
        data={"evaluation_path": "held.jsonl", "evaluation_fraction": 0.1},
    )
    assert set(problems_of(raw)) == {"model.nmae", "lora.initialization", "data.evaluation_fraction"}


def test_the_message_and_the_dict_of_an_error_hold_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(config_with(lora={"rank": 0, "alpha": -1.0}), source="run.yaml")
    error = caught.value
    assert error.message.startswith("The config run.yaml has 2 problems:\n  - lora.rank: ")
    assert [problem["field"] for problem in error.as_dict()["problems"]] == ["lora.rank", "lora.alpha"]  # type: ignore[attr-defined]
    assert str(ConfigProblem("lora.rank", "is 0")) == "lora.rank: is 0"
    assert error.exit_code == 2


def test_messages_hold_no_words_of_the_validator() -> None:
    raw = {"model": 3, "data": {"path": ""}, "lora": {"target_modules": 5}, "training": {"seed": True}, "x": 1}
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    assert caught.value.__suppress_context__
    for word in ("pydantic", "http", "Traceback", "literal[", "tuple[", "Value error", "validation error"):
        assert word not in caught.value.message
    assert "lora.target_modules" in {problem.field for problem in caught.value.problems}


def test_a_long_wrong_value_is_shortened_in_the_message() -> None:
    message = problems_of(config_with(lora={"rank": "x" * 10_000}))["lora.rank"]
    assert len(message) < 200


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("lora", "rank", True),
        ("lora", "rank", 16.0),
        ("lora", "rank", "16"),
        ("lora", "alpha", True),
        ("training", "seed", False),
        ("training", "max_steps", True),
        ("quantization", "double_quantization", 1),
        ("quantization", "double_quantization", "yes"),
        ("training", "learning_rate", float("nan")),
        ("training", "max_gradient_norm", float("inf")),
        ("model", "name", 7),
        ("model", "revision", "-x"),
        ("model", "revision", "main\n"),
    ],
)
def test_a_value_of_another_type_is_never_converted(part: str, name: str, value: object) -> None:
    assert set(problems_of(config_with(**{part: {name: value}}))) == {f"{part}.{name}"}


@pytest.mark.parametrize(
    ("part", "name", "refused", "accepted"),
    [
        ("lora", "rank", (0, 1025), (1, 1024)),
        ("lora", "dropout", (-0.1, 1.0), (0.0, 0.99)),
        ("training", "warmup_fraction", (-0.01, 1.0), (0.0, 0.5)),
        ("training", "learning_rate", (0.0, 1.1), (1e-9, 1.0)),
        ("training", "max_length_tokens", (7, 4_194_305), (8, 4_194_304)),
        ("training", "seed", (-1, 2**32), (0, 2**32 - 1)),
        ("data", "evaluation_fraction", (-0.1, 0.51), (0.0, 0.5)),
    ],
)
def test_bounds_refuse_what_is_outside_and_accept_what_is_on_them(
    part: str, name: str, refused: tuple[Any, ...], accepted: tuple[Any, ...]
) -> None:
    for value in refused:
        assert list(problems_of(config_with(**{part: {name: value}}))) == [f"{part}.{name}"]
    for value in accepted:
        assert getattr(getattr(parse_config(config_with(**{part: {name: value}})), part), name) == value


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_pissa_on_a_quantised_base_is_refused_with_the_reason(kind: str) -> None:
    found = problems_of(config_with(lora={"initialization": "pissa"}, quantization={"kind": kind}))
    assert list(found) == ["lora.initialization"]
    assert f"which a {kind} base cannot give up" in found["lora.initialization"]
    assert "quantization.kind: none" in found["lora.initialization"]


RULES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "lora.initialization",
        {"lora": {"initialization": "pissa"}},
        {"lora": {"initialization": "pissa"}, "quantization": {"kind": "none"}},
    ),
    (
        "lora.initialization",
        {"lora": {"initialization": "loftq"}, "quantization": {"kind": "int8"}},
        {"lora": {"initialization": "loftq"}, "quantization": {"kind": "nf4"}},
    ),
    (
        "lora.initialization",
        {"lora": {"initialization": "pissa", "use_dora": True}, "quantization": {"kind": "none"}},
        {"lora": {"initialization": "pissa", "use_rslora": True}, "quantization": {"kind": "none"}},
    ),
    (
        "lora.initialization",
        {"lora": {"initialization": "loftq", "use_dora": True}},
        {"lora": {"initialization": "loftq", "use_rslora": True}},
    ),
    (
        "quantization.storage_dtype",
        {"quantization": {"kind": "int8", "storage_dtype": "bfloat16"}},
        {"quantization": {"kind": "fp4", "storage_dtype": "bfloat16"}},
    ),
    (
        "data.evaluation_fraction",
        {"data": {"evaluation_path": "held.jsonl", "evaluation_fraction": 0.1}},
        {"data": {"evaluation_path": "held.jsonl"}},
    ),
    (
        "data.evaluation_split",
        {"data": {"evaluation_split": "train"}},
        {"data": {"evaluation_split": "validation"}},
    ),
    (
        "training.evaluation_every_steps",
        {"training": {"evaluation_every_steps": 5}},
        {"training": {"evaluation_every_steps": 5}, "data": {"evaluation_fraction": 0.1}},
    ),
    (
        "training.early_stopping_patience",
        {"training": {"early_stopping_patience": 2}, "data": {"evaluation_fraction": 0.1}},
        {
            "training": {"early_stopping_patience": 2, "evaluation_every_steps": 5},
            "data": {"evaluation_fraction": 0.1},
        },
    ),
    ("lora.target_modules", {"lora": {"target_modules": []}}, {"lora": {"target_modules": ["q_proj"]}}),
]


@pytest.mark.parametrize(("field", "refused", "accepted"), RULES)
def test_each_rule_refuses_one_config_and_accepts_its_neighbour(
    field: str, refused: dict[str, Any], accepted: dict[str, Any]
) -> None:
    assert list(problems_of(config_with(**refused))) == [field]
    assert isinstance(parse_config(config_with(**accepted)), BaseModel)


def test_every_rule_has_its_cases() -> None:
    from qlora_tools.config.rules import _RULES

    assert len(RULES) == len(_RULES)


HOSTILE = [
    "",
    "   ",
    "a\0b",
    "a\nb",
    "a\rb",
    "invoice\u202etxt.exe",
    "a\u200bb",
    "a\x1b[31m",
    "-rf",
    "--help",
    "a" * 5000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=[ascii(text[:20]) for text in HOSTILE])
@pytest.mark.parametrize(
    "field", ["model.name", "data.path", "data.evaluation_path", "output.directory"], ids=lambda name: name
)
def test_hostile_path_texts_are_refused(field: str, text: str) -> None:
    part, name = field.split(".")
    found = problems_of(config_with(**{part: {name: text}}))
    assert list(found) == [field]
    assert not set(found[field]) & set("\0\n\r\x1b\u202e\u200b")
    assert len(found[field]) < 300


@pytest.mark.parametrize("text", ["./-rf", "rows with spaces.jsonl", "Zeilen-ä.jsonl", "日本.jsonl", "a" * 255])
def test_unusual_but_harmless_paths_are_accepted(text: str) -> None:
    assert parse_config(config_with(data={"path": text})).data.path == text
