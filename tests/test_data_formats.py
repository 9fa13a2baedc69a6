"""Every row format is recognised and brought to one normal form; a wrong row says where it is wrong."""

from typing import Any

import pytest

from qlora_tools.data.formats import FORMATS, Conversation, Message, PlainText, RowError, detect_format, to_example
from qlora_tools.errors import DataError


def chat(*turns: tuple[str, str], verbatim: bool = False) -> Conversation:
    return Conversation(tuple(Message(role=role, content=content) for role, content in turns), verbatim)


PAIR = chat(("user", "Hi"), ("assistant", "Hello"))
USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CASES: list[tuple[str, dict[str, Any], object]] = [
    ("messages", {"messages": [USER, ASSISTANT]}, PAIR),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello"},
            ]
        },
        chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")),
    ),
    (
        "prompt_completion",
        {"prompt": "Hi ", "completion": " Hello"},
        chat(("user", "Hi "), ("assistant", " Hello"), verbatim=True),
    ),
    ("prompt_completion", {"prompt": [USER], "completion": [ASSISTANT]}, PAIR),
    ("alpaca", {"instruction": "Hi", "output": "Hello"}, PAIR),
    ("alpaca", {"instruction": "Hi", "input": " ", "output": "Hello"}, PAIR),
    ("alpaca", {"instruction": "Hi", "input": None, "output": "Hello"}, PAIR),
    (
        "alpaca",
        {"instruction": "Add", "input": "1, 2", "output": "3"},
        chat(("user", "Add\n\n1, 2"), ("assistant", "3")),
    ),
    ("question_answer", {"question": "Hi", "answer": "Hello"}, PAIR),
    ("text", {"text": "Once upon a time"}, PlainText("Once upon a time")),
]


@pytest.mark.parametrize(("row_format", "row", "example"), CASES)
def test_each_format_is_recognised_and_brought_to_its_normal_form(
    row_format: str, row: dict[str, Any], example: object
) -> None:
    assert detect_format(list(row), row) == row_format
    assert to_example(row, row_format) == example


def test_every_format_is_covered_and_selectable_in_a_config() -> None:
    from qlora_tools.config import DataConfig

    assert {case[0] for case in CASES} == set(FORMATS)
    assert set(DataConfig.model_json_schema()["properties"]["format"]["enum"]) == {"auto", *FORMATS}


def test_further_columns_do_not_disturb() -> None:
    row = {"id": 7, "question": "Hi", "answer": "Hello", "text": "Hi Hello"}
    assert detect_format(list(row), row) == "question_answer"
    assert to_example(row, "question_answer") == PAIR


def test_a_column_of_the_right_name_with_other_content_is_not_taken_for_chat() -> None:
    row = {"messages": "Hi", "text": "Hi"}
    assert detect_format(list(row), row) == "text"
    with pytest.raises(DataError):
        detect_format(["messages"], {"messages": []})


@pytest.mark.parametrize(("columns", "shown"), [(["source", "target"], "source, target"), ([], "(none)")])
def test_unknown_columns_list_the_known_formats(columns: list[str], shown: str) -> None:
    with pytest.raises(DataError) as caught:
        detect_format(columns, dict.fromkeys(columns, "x"))
    assert shown in caught.value.message
    for name in ("messages", "conversations", "prompt", "completion", "instruction", "question", "answer", "text"):
        assert name in caught.value.next_step


@pytest.mark.parametrize(
    ("row_format", "row", "words"),
    [
        ("messages", {"messages": "Hi"}, "messages is not a list of turns"),
        ("messages", {"messages": []}, "messages is not a list of turns"),
        ("messages", {}, "messages is not a list of turns"),
        ("messages", {"messages": [USER, "Hello"]}, "turn 2 is text, not role and content"),
        ("messages", {"messages": [USER, None]}, "turn 2 is missing"),
        ("messages", {"messages": [USER, {"role": "bot", "content": "x"}]}, "turn 2 has role 'bot', not one of system"),
        ("messages", {"messages": [{"content": "x"}]}, "turn 1 has role None"),
        ("messages", {"messages": [USER, {"role": "assistant"}]}, "turn 2: content is missing"),
        ("messages", {"messages": [USER, {"role": "assistant", "content": " "}]}, "turn 2: content is empty"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "turn 1: content is a list"),
        ("sharegpt", {"conversations": None}, "conversations is not a list of turns"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, 3]}, "turn 2 is a number"),
        ("prompt_completion", {"prompt": "Hi", "completion": None}, "completion is missing"),
        ("prompt_completion", {"prompt": "Hi", "completion": 4}, "completion is a number, not text"),
        ("prompt_completion", {"prompt": [USER], "completion": [{"role": "assistant"}]}, "turn 2: content is missing"),
        ("alpaca", {"instruction": "", "output": "x"}, "instruction is empty"),
        ("alpaca", {"instruction": "x", "input": 3, "output": "x"}, "input is a number"),
        ("question_answer", {"question": "x", "answer": "\n"}, "answer is empty"),
        ("text", {"text": 3.5}, "text is a number, not text"),
    ],
)
def test_a_wrong_row_says_which_turn_or_field_is_wrong(row_format: str, row: dict[str, Any], words: str) -> None:
    with pytest.raises(RowError) as caught:
        to_example(row, row_format)
    assert words in str(caught.value)


def test_an_unknown_speaker_of_sharegpt_is_named() -> None:
    with pytest.raises(RowError, match=r"turn 1.*'bot'"):
        to_example({"conversations": [{"from": "bot", "value": "Hi"}]}, "sharegpt")


def test_an_absent_text_of_sharegpt_is_named_as_the_file_names_it() -> None:
    with pytest.raises(RowError, match="turn 1: value is missing"):
        to_example({"conversations": [{"from": "human", "content": "Hi"}]}, "sharegpt")
