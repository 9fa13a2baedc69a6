"""Every row format is recognised and brought to one normal form; a wrong row says where it is wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_tools.data.examples import Conversation, Example, Message, PlainText, RowError
from qlora_tools.data.formats.detect import FORMATS, UnknownFormatError, detect_mapping, to_example
from qlora_tools.data.formats.names import SLOTS
from qlora_tools.errors import DataError
from qlora_tools.results import RowMapping


def chat(*turns: tuple[str, str], verbatim: bool = False) -> Conversation:
    return Conversation(tuple(Message(role=role, content=content) for role, content in turns), verbatim)


def read(row: dict[str, Any], row_format: str = "auto", columns: dict[str, str] | None = None) -> Example:
    return to_example(row, detect_mapping([row], row_format=row_format, columns=columns or {}))


def mapping(row_format: str, *optional: str) -> RowMapping:
    """Columns named like ours: the required ones and those asked for."""
    names = [slot.name for slot in SLOTS[row_format] if slot.required or slot.name in optional]
    return RowMapping(format=row_format, columns={name: name for name in names}, found_by="names")


PAIR = chat(("user", "Hi"), ("assistant", "Hello"))
USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
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
    ("preference", {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"}, PAIR),
    ("preference", {"chosen": [USER, ASSISTANT], "rejected": [USER, USER]}, PAIR),
    ("preference", {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [USER]}, PAIR),
    ("preference", {"prompt": "Hi", "chosen": [ASSISTANT], "rejected": [USER]}, PAIR),
    ("preference", {"messages": [USER], "chosen": ASSISTANT, "rejected": USER}, PAIR),
    (
        "prompt_completion",
        {"prompt": "Hi ", "completion": " Hello"},
        chat(("user", "Hi "), ("assistant", " Hello"), verbatim=True),
    ),
    ("prompt_completion", {"prompt": [USER], "completion": [ASSISTANT]}, PAIR),
    ("prompt_completion", {"prompt": json.dumps([USER]), "completion": json.dumps([ASSISTANT])}, PAIR),
    ("prompt_completion", {"prompt": [USER], "completion": "Hello"}, PAIR),
    ("prompt_completion", {"prompt": "Hi", "completion": [ASSISTANT]}, PAIR),
    ("prompt_completion", {"messages": [USER], "response": "Hello"}, PAIR),
    ("alpaca", {"instruction": "Hi", "output": "Hello"}, PAIR),
    ("alpaca", {"instruction": "Hi", "input": " ", "output": "Hello"}, PAIR),
    ("alpaca", {"instruction": "Hi", "input": None, "output": "Hello"}, PAIR),
    (
        "alpaca",
        {"instruction": "Add", "input": "1, 2", "output": "3"},
        chat(("user", "Add\n\n1, 2"), ("assistant", "3")),
    ),
    ("question_answer", {"question": "Hi", "answer": "Hello"}, PAIR),
    ("transcript", {"text": "User: Hi\nAssistant: Hello"}, PAIR),
    ("text", {"text": "Once upon a time"}, PlainText("Once upon a time")),
]


@pytest.mark.parametrize(("row_format", "row", "example"), CASES)
def test_each_format_is_recognised_and_brought_to_its_normal_form(
    row_format: str, row: dict[str, Any], example: object
) -> None:
    found = detect_mapping([row])
    assert found.format == row_format
    assert to_example(row, found) == example


def test_every_format_is_covered_and_selectable_in_a_config() -> None:
    from qlora_tools.config import DataConfig

    assert {case[0] for case in CASES} == set(FORMATS)
    assert DataConfig.model_json_schema()["properties"]["format"]["enum"] == ["auto", *FORMATS]


def test_further_columns_do_not_disturb_and_are_listed() -> None:
    row = {"id": 7, "question": "Hi", "answer": "Hello", "text": "Hi Hello"}
    assert detect_mapping([row]) == RowMapping(
        format="question_answer",
        columns={"question": "question", "answer": "answer"},
        found_by="names",
        unused_columns=["id", "text"],
    )


def test_a_column_of_the_right_name_with_other_content_is_not_taken_for_chat() -> None:
    assert detect_mapping([{"messages": "Hi", "text": "Hi"}]).format == "text"
    with pytest.raises(UnknownFormatError):
        detect_mapping([{"messages": []}])


def test_a_chat_in_a_column_of_any_name_is_found_by_its_content() -> None:
    rows = [{"wortwechsel": None}, {"wortwechsel": [USER, ASSISTANT]}, {"wortwechsel": [USER, ASSISTANT]}]
    found = detect_mapping(rows)
    assert (found.format, found.columns, found.found_by) == ("messages", {"messages": "wortwechsel"}, "content")
    assert detect_mapping([{"row": {"turns": [USER, ASSISTANT]}}]).columns == {"messages": "row.turns"}


def test_a_first_row_of_nulls_does_not_mislead() -> None:
    empty = {"instruction": None, "input": None, "output": None, "text": None}
    full = {"instruction": "Hi", "input": "", "output": "Hello", "text": "Hi Hello"}
    assert detect_mapping([empty, full, full]).format == "alpaca"
    first_without_system = [{"question": "a", "answer": "b"}, {"question": "a", "answer": "b", "system": "Be brief."}]
    assert detect_mapping(first_without_system).columns["system"] == "system"


def test_one_broken_value_among_many_does_not_change_the_format() -> None:
    rows = [{"messages": "broken"}, *[{"messages": [USER, ASSISTANT]}] * 3]
    assert detect_mapping(rows).format == "messages"
    numbers = [{"question": "How many?", "answer": 4}, *[{"question": "What?", "answer": "That."}] * 3]
    found = detect_mapping(numbers)
    with pytest.raises(RowError, match="answer is a number, not text"):
        to_example(numbers[0], found)


def test_an_unnamed_index_column_and_a_broken_first_chat_do_not_disturb() -> None:
    assert read({"": "0", "question": "Hi", "answer": "Hello"}) == PAIR
    rows = [{"": 0, "conversations": ["x"]}, *[{"": 1, "conversations": [{"from": "human", "value": "Hi"}]}] * 3]
    assert detect_mapping(rows).format == "sharegpt"


def test_answers_that_are_all_numbers_are_never_turned_into_text_in_silence(tmp_path: Path) -> None:
    rows = [{"question": "2 + 2?", "answer": 4}, {"question": "1.5 + 1?", "answer": 2.5}]
    with pytest.raises(UnknownFormatError) as caught:
        detect_mapping(rows)
    proposal = caught.value.proposal
    assert proposal is not None
    assert (proposal.format, proposal.columns) == ("question_answer", {})
    assert converted(proposal.code, rows, tmp_path) == [
        {"question": "2 + 2?", "answer": "4"},
        {"question": "1.5 + 1?", "answer": "2.5"},
    ]


def test_names_are_found_in_any_case_and_spelling() -> None:
    row = {"System Prompt": "Be brief.", "QUESTION": "Hi", "Answer": "Hello"}
    assert read(row) == chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ([{"source": "x", "target": 3}], ("source (text, e.g. x)", "target (a number, e.g. 3)")),
        ([{}], ("(none)",)),
        ([], ("(none)",)),
        ([{"a\x1b[31m": "b\nc", "empty": None}], (r"a\x1b[31m (text, e.g. b\nc)", "empty (empty)")),
    ],
)
def test_unknown_columns_are_listed_with_what_they_hold(rows: list[dict[str, Any]], shown: tuple[str, ...]) -> None:
    with pytest.raises(UnknownFormatError) as caught:
        detect_mapping(rows)
    for words in shown:
        assert words in caught.value.message


def test_where_nothing_can_be_proposed_the_formats_are_listed_with_what_they_need() -> None:
    with pytest.raises(UnknownFormatError) as caught:
        detect_mapping([{"x": 1}])
    assert caught.value.proposal is None
    for row_format in FORMATS:
        assert row_format in caught.value.next_step


def test_columns_of_the_config_are_used_also_where_they_are_nested() -> None:
    row = {"ask": {"text": "Hi"}, "replies": ["Hello", "Hey"], "text": "x"}
    found = detect_mapping([row], columns={"question": "ask.text", "answer": "replies.0"})
    assert (found.format, found.found_by, found.unused_columns) == ("question_answer", "config", ["text"])
    assert to_example(row, found) == PAIR


def test_a_column_whose_name_has_dots_comes_before_a_path() -> None:
    row = {"ask.text": "Hi", "ask": {"text": "wrong"}, "reply": "Hello"}
    found = detect_mapping([row], columns={"question": "ask.text", "answer": "reply"})
    assert to_example(row, found) == PAIR
    assert found.unused_columns == ["ask"]


@pytest.mark.parametrize(
    ("columns", "row", "row_format"),
    [
        ({"messages": "talk"}, {"talk": [USER, ASSISTANT]}, "messages"),
        ({"conversations": "talk"}, {"talk": [{"from": "human", "value": "Hi"}, ASSISTANT]}, "sharegpt"),
        ({"prompt": "ask"}, {"ask": "Hi", "completion": "Hello"}, "prompt_completion"),
        ({"prompt": "ask"}, {"ask": "Hi", "chosen": "Hello", "rejected": "What?"}, "preference"),
        ({"output": "reply"}, {"instruction": "Hi", "reply": "Hello"}, "alpaca"),
        ({"system": "extra"}, {"question": "Hi", "answer": "Hello", "extra": ""}, "question_answer"),
        ({"system": "extra"}, {"conversations": [{"from": "human", "value": "Hi"}], "extra": ""}, "sharegpt"),
        ({"text": "log"}, {"log": "User: Hi\nAssistant: Hello"}, "transcript"),
        ({"text": "log"}, {"log": "x", "label": 3}, "text"),
    ],
)
def test_some_columns_of_the_config_settle_the_format(
    columns: dict[str, str], row: dict[str, Any], row_format: str
) -> None:
    found = detect_mapping([row], columns=columns)
    assert found.format == row_format
    assert columns.items() <= found.columns.items()


@pytest.mark.parametrize(
    ("row_format", "columns", "words"),
    [
        ("alpaca", {"instruction": "question", "reply": "answer"}, "allowed are instruction, input, output, system"),
        ("auto", {"reply": "answer"}, "allowed are messages, system, tools"),
        (
            "question_answer",
            {"answer": "antwort"},
            "reads answer from antwort, which no row has; columns: id, question",
        ),
        ("question_answer", {"answer": "answer.text"}, "which no row has"),
        ("alpaca", {}, "The format alpaca needs instruction, output; columns: id, question, answer"),
        ("messages", {}, "The format messages needs messages"),
        ("auto", {"chosen": "answer", "messages": "question"}, "no format is complete"),
    ],
)
def test_a_format_or_columns_that_cannot_be_are_refused_by_name(
    row_format: str, columns: dict[str, str], words: str
) -> None:
    with pytest.raises(DataError) as caught:
        detect_mapping([{"id": 1, "question": "Hi", "answer": "Hello"}], row_format=row_format, columns=columns)
    assert words in caught.value.message


def test_a_format_that_is_asked_for_is_taken_where_another_would_be_recognised() -> None:
    both = {"question": "Hi", "answer": "Hello", "text": "Once", "label": 1}
    assert read(both, "text") == PlainText("Once")
    assert detect_mapping([both], row_format="text").found_by == "config"
    assert read({"conversations": [USER, ASSISTANT]}, "sharegpt") == PAIR


@pytest.mark.parametrize(
    ("row_format", "row", "words"),
    [
        ("messages", {"messages": "Hi"}, "messages is not a list of turns"),
        ("messages", {"messages": []}, "messages is empty, not a list of turns"),
        ("messages", {}, "messages is not a list of turns"),
        ("messages", {"messages": [USER, "Hello"]}, "turn 2 is text, not role and content"),
        ("messages", {"messages": [USER, None]}, "turn 2 is missing"),
        ("messages", {"messages": [USER, {"role": "Eve", "content": "x"}]}, "turn 2 has role 'Eve', not one of system"),
        ("messages", {"messages": [{"content": "x"}]}, "turn 1 has role None"),
        ("messages", {"messages": [USER, {"role": "assistant"}]}, "turn 2: content is missing"),
        ("messages", {"messages": [USER, {"role": "assistant", "content": " "}]}, "turn 2: content is empty"),
        ("messages", {"messages": [USER, {**ASSISTANT, "content": ""}]}, "turn 2: content is empty"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "turn 1: content is a list, and"),
        ("messages", {"messages": [{"role": "user", "content": 3}]}, "turn 1: content is a number, not text"),
        ("messages", {"messages": [{"role": "system", "content": " "}]}, "no turns but an empty system turn"),
        ("messages", {"messages": ["Hi", ""]}, "turn 2: its text is empty"),
        ("messages", {"messages": [{"input": "Hi", "output": None}]}, "turn 1: output is missing"),
        ("messages", {"messages": [["Hi", "Hello"], ["Hi"]]}, "turn 2 is a list, not a question and its answer"),
        ("sharegpt", {"conversations": None}, "conversations is not a list of turns"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, 3]}, "turn 2 is a number"),
        ("sharegpt", {"conversations": [{"from": "human"}]}, "turn 1: value is missing"),
        ("sharegpt", {"conversations": [{"from": "Eve", "value": "Hi"}]}, "turn 1 has from 'Eve'"),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "look up"}]}, "turn 1: tool call 1 is text"),
        ("preference", {"chosen": "Hello", "rejected": "x"}, "chosen has no mark of a dialogue"),
        ("prompt_completion", {"prompt": "Hi", "completion": None}, "completion is missing"),
        ("prompt_completion", {"prompt": "Hi", "completion": 4}, "completion is a number, not text"),
        ("prompt_completion", {"prompt": [USER], "completion": [{"role": "assistant"}]}, "turn 2: content is missing"),
        ("alpaca", {"instruction": "", "output": "x"}, "instruction is empty"),
        ("alpaca", {"instruction": "x", "input": 3, "output": "x"}, "input is a number"),
        ("alpaca", {"instruction": "x", "output": "x", "history": 3}, "history is a number, not a list"),
        ("question_answer", {"question": "x", "answer": "\n"}, "answer is empty"),
        ("question_answer", {"question": "x", "answer": "y", "tools": "look"}, "tools: tool 1 is text, not an object"),
        ("transcript", {"text": "Hello there"}, "text has no mark of a dialogue"),
        ("transcript", {"text": "User: Hi\nAssistant:"}, "text: turn 2 (assistant) is empty"),
        ("text", {"text": 3.5}, "text is a number, not text"),
        ("text", {"text": True}, "text is true or false, not text"),
    ],
)
def test_a_wrong_row_says_which_turn_or_field_is_wrong(row_format: str, row: dict[str, Any], words: str) -> None:
    with pytest.raises(RowError) as caught:
        to_example(row, mapping(row_format, "input", "history", "tools"))
    assert words in str(caught.value)


def test_errors_name_the_column_of_the_file() -> None:
    found = detect_mapping([{"frage": "Hi", "antwort": "x"}], columns={"question": "frage", "answer": "antwort"})
    with pytest.raises(RowError, match=r"^antwort is empty$"):
        to_example({"frage": "Hi", "antwort": ""}, found)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *((name, "user") for name in ("user", "Human", " USER ", "prompter", "instruction")),
        *((name, "assistant") for name in ("assistant", "GPT", "model", "bot", "ChatGPT", "bing", "bard", "AI")),
        *((name, "system") for name in ("system", "developer")),
        *((name, "tool") for name in ("tool", "function", "observation", "function-response", "ipython")),
    ],
)
def test_a_role_is_known_by_its_usual_names(name: str, role: str) -> None:
    example = read({"messages": [{"role": name, "content": "x"}, ASSISTANT]})
    assert isinstance(example, Conversation)
    assert example.messages[0]["role"] == role


@pytest.mark.parametrize(
    "turns",
    [
        [{"speaker": "user", "text": "Hi"}, {"speaker": "bot", "text": "Hello"}],
        [{"author": "user", "message": "Hi"}, {"author": "assistant", "message": "Hello"}],
        [{"from": "human", "value": "Hi", "text": None}, {"from": "gpt", "text": "Hello", "value": None}],
        [{"user": "Hi", "assistant": "Hello"}],
        [{"question": "Hi", "answer": "Hello"}],
        [["Hi", "Hello"]],
        ["Hi", "Hello"],
        json.dumps([USER, ASSISTANT]),
        str([USER, ASSISTANT]),
        {"role": ["user", "assistant"], "content": ["Hi", "Hello"]},
        [{"role": "system", "content": ""}, USER, ASSISTANT],
        [{"role": "system", "content": None}, USER, ASSISTANT],
        [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, ASSISTANT],
        [{"role": "user", "content": ["Hi"]}, {**ASSISTANT, "weight": 1, "train": True, "tool_calls": None}],
        [{**USER, "weight": 0, "train": False}, {**ASSISTANT, "function_call": {"name": None, "arguments": None}}],
    ],
)
def test_a_chat_is_read_in_any_dialect(turns: Any) -> None:
    assert read({"conversation": turns}) == PAIR


@pytest.mark.parametrize(
    "part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "input_audio"}, {"type": "tool_use"}]
)
def test_a_part_that_is_no_text_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(RowError, match=rf"turn 1: content has a part of type '{part['type']}'"):
        read({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, part]}, ASSISTANT]})


@pytest.mark.parametrize(("key", "value"), [("weight", 0), ("weight", 0.5), ("train", False), ("loss", 0)])
def test_a_turn_that_is_not_to_be_learnt_is_refused_with_its_reason(key: str, value: object) -> None:
    with pytest.raises(RowError, match=f"^turn 2 has {key} {json.dumps(value)}, which this program cannot honour"):
        read({"messages": [USER, {**ASSISTANT, key: value}]})
    assert read({"messages": [USER, {**ASSISTANT, "loss": 0.37}]}) == PAIR


CALLS_IN_ALL_FORMS: list[Any] = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
    {"role": "assistant", "content": None, "tool_calls": [{"name": "look", "arguments": '{"at": "sky"}'}]},
    {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"at": "sky"}'}},
    {"from": "function_call", "value": '{"name": "look", "arguments": {"at": "sky"}}'},
    {"from": "function_call", "value": '[{"name": "look", "arguments": {"at": "sky"}}]'},
    {"role": "tool_call", "content": '{"name": "look", "parameters": {"at": "sky"}}'},
]


@pytest.mark.parametrize("turn", CALLS_IN_ALL_FORMS)
def test_a_call_of_a_tool_has_one_normal_form(turn: dict[str, Any]) -> None:
    example = read({"messages": [USER, turn]})
    assert isinstance(example, Conversation)
    assert example.messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_ids_names_and_thoughts_are_kept() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}}
    turns = [
        USER,
        {"role": "assistant", "content": "Let me see.", "thinking": "Look up.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "look", "content": ""},
        {"role": "function", "name": "look", "content": {"sky": "blue"}},
    ]
    example = read({"messages": turns})
    assert isinstance(example, Conversation)
    assert list(example.messages[1:]) == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "Look up.",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": {}}}],
        },
        {"role": "tool", "content": "", "tool_call_id": "c1", "name": "look"},
        {"role": "tool", "content": '{"sky": "blue"}', "name": "look"},
    ]


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([{"function": {"arguments": {}}}], "turn 1: tool call 1 has no name"),
        ([CALL, "look"], "turn 1: tool call 2 is text"),
        ([{"name": "look", "arguments": "sky"}], "turn 1: tool call 1: its arguments are no JSON object"),
    ],
)
def test_a_call_that_is_none_is_refused(calls: list[Any], words: str) -> None:
    with pytest.raises(RowError, match=words):
        read({"messages": [{"role": "assistant", "content": None, "tool_calls": calls}]}, "messages")


def test_tools_are_read_from_lists_objects_and_json_and_wrapped_alike() -> None:
    tool = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
    wrapped = {"type": "function", "function": tool}
    forms: list[Any] = [[tool], [wrapped], tool, json.dumps([tool]), [json.dumps(wrapped)], json.dumps(wrapped)]
    for form in forms:
        example = to_example({"messages": [USER, ASSISTANT], "tools": form}, mapping("messages", "tools"))
        assert example == Conversation(PAIR.messages, tools=(wrapped,))
    for nothing in ([], None, "", "[]"):
        assert to_example({"messages": [USER, ASSISTANT], "tools": nothing}, mapping("messages", "tools")) == PAIR


def test_a_system_column_gives_way_to_a_system_turn() -> None:
    own = {"role": "system", "content": "Be kind."}
    assert read({"messages": [own, USER, ASSISTANT], "system": "Be brief."}) == chat(
        ("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")
    )
    assert read({"messages": [USER, ASSISTANT], "system_message": "Be brief."}) == chat(
        ("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")
    )


TRANSCRIPTS = [
    "### Human: Hi### Assistant: Hello",
    "### Human: Hi\n### Assistant: Hello\n",
    "### User:\nHi\n\n### Assistant:\nHello",
    "### Instruction:\nHi\n\n### Response:\nHello",
    "### Instruction:\nHi\n\n### Input:\n\n\n### Response:\nHello</s>",
    "\n\nHuman: Hi\n\nAssistant: Hello",
    "Human: Hi\nAI: Hello",
    "User: Hi\nAssistant: Hello",
    "USER: Hi ASSISTANT: Hello</s>",
    "<human>: Hi\n<bot>: Hello",
    "[|Human|] Hi\n[|AI|] Hello\n[|Human|] ",
    "<s>[INST] Hi [/INST] Hello </s>",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>",
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n",
    "<|user|>\nHi</s>\n<|assistant|>\nHello</s>",
]


@pytest.mark.parametrize("text", TRANSCRIPTS)
def test_a_marked_dialogue_is_split_into_its_turns(text: str) -> None:
    found = detect_mapping([{"id": 1, "log": text}])
    assert (found.format, found.columns, found.found_by) == ("transcript", {"text": "log"}, "content")
    assert to_example({"log": text}, found) == PAIR


@pytest.mark.parametrize(
    "text",
    [
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s>",
        "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello",
        "Be brief. USER: Hi ASSISTANT: Hello</s>",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello",
    ],
)
def test_what_stands_before_the_first_question_is_the_system_turn(text: str) -> None:
    assert read({"text": text}) == chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))


def test_marks_of_another_style_inside_an_answer_stay_text() -> None:
    text = "### Human: Hi\n### Assistant: Write:\nUser: x\nAssistant: y\n[INST] z [/INST]"
    assert read({"text": text}) == chat(
        ("user", "Hi"), ("assistant", "Write:\nUser: x\nAssistant: y\n[INST] z [/INST]")
    )


@pytest.mark.parametrize(
    "text",
    [
        "The play begins.\nHuman: Who is there?\nAssistant: A friend, and so it goes on for some pages of prose.",
        "### Instruction:\nHow to read a manual without an answer in it, told at some length for the patient.",
        "A long tale in which nobody is called a user, with an ASSISTANT: who speaks to none.",
    ],
)
def test_prose_that_mentions_such_marks_stays_text(text: str) -> None:
    assert read({"text": text}) == PlainText(text)


def test_text_is_taken_by_content_only_where_one_column_holds_prose() -> None:
    tale = "A fox walked through the snow and found a warm place under an old oak."
    found = detect_mapping([{"id": "a1", "url": "https://a.example", "erzählung": tale}])
    assert (found.format, found.columns, found.found_by) == ("text", {"text": "erzählung"}, "content")
    with pytest.raises(UnknownFormatError):
        detect_mapping([{"text": tale, "corrected": tale}])


@pytest.mark.parametrize("row_end", ["", "\r\n"])
def test_text_does_not_win_where_code_or_a_second_text_stands_beside_it(row_end: str) -> None:
    asked = "Write a function that finds the longest word of a sentence, and gives it back in lower case."
    rows = [{"text": f"{asked} {n}", "code": f"def f{n}(x):{row_end}\n    return x + {n}"} for n in range(8)]
    with pytest.raises(UnknownFormatError) as caught:
        detect_mapping(rows)
    assert caught.value.proposal is not None
    assert caught.value.proposal.columns == {"question": "text", "answer": "code"}


@pytest.mark.parametrize(
    "beside",
    [
        {"url": "https://a.example/b", "timestamp": "Thu, 25 Apr 2019 12:57:54 GMT"},
        {"page_title": "The long way of a fox through the snow", "description": "A tale of a fox in the snow"},
        {"meta": '{"pile_set_name": "Books of old"}', "attributes": '{"a": "some words in a row"}'},
        {"file_path": "C:/My Documents/of a fox/in the snow.txt", "language": "English as it is spoken"},
    ],
)
def test_what_says_where_a_text_comes_from_leaves_it_text(beside: dict[str, str]) -> None:
    tale = "A fox walked through the snow and found a warm place under an old oak. " * 3
    assert detect_mapping([{"text": tale, "id": "a 1", **beside}]).format == "text"


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"a": "Where do foxes sleep?", "b": "Under oaks."}, {"question": "a", "answer": "b"}),
        ({"a": "A fox slept under an old oak, and so on. " * 3, "b": "A fox."}, {"question": "a", "answer": "b"}),
        ({"a": "Under an oak.", "q": "Where do foxes sleep?"}, {"question": "q", "answer": "a"}),
        (
            {
                "subject": "Order 7",
                "customer_message": "My order has not come, and it is late.",
                "agent_reply": "We look.",
            },
            {"question": "customer_message", "answer": "agent_reply"},
        ),
        (
            {
                "subject": "Order 7",
                "mail": "My order has not come, and by now it is two weeks late.",
                "agent_reply": "Oh no",
            },
            {"question": "mail", "answer": "agent_reply"},
        ),
        (
            {"question": "Add two numbers.", "solutions": '["print(1)"]', "input_output": '{"inputs": ["1 2"]}'},
            {"question": "question", "answer": "solutions.0"},
        ),
    ],
)
def test_a_proposal_does_not_turn_question_and_answer_round(row: dict[str, Any], columns: dict[str, str]) -> None:
    with pytest.raises(UnknownFormatError) as caught:
        detect_mapping([row])
    assert caught.value.proposal is not None
    assert caught.value.proposal.columns == columns


def test_the_definition_of_a_task_is_read_before_its_input_and_not_beside_a_question() -> None:
    task = {"definition": "Answer in German.", "inputs": "Good day", "targets": "Guten Tag"}
    assert read(task) == chat(("user", "Answer in German.\n\nGood day"), ("assistant", "Guten Tag"))
    asked = {"question": "What is a fox?", "definition": "An animal.", "answer": "An animal."}
    assert "context" not in detect_mapping([asked]).columns


@pytest.mark.parametrize(
    "row",
    [
        {"What is the capital of Peru?": "Where does the Nile end?", "Lima": "In the sea"},
        {"A fox walked through the snow and found an oak": "Another fox walked through the snow and found no oak."},
    ],
)
def test_a_file_without_a_header_is_told_to_have_none(row: dict[str, Any]) -> None:
    with pytest.raises(UnknownFormatError) as caught:
        detect_mapping([row])
    assert caught.value.message.startswith("The first line looks like data, not like column names: ")
    assert "Add a line with the names of the columns above it" in caught.value.next_step
    assert caught.value.proposal is None


def test_the_example_of_a_preference_is_the_chosen_answer_and_rejected_stays_in_the_mapping() -> None:
    row = {"prompt": "Hi", "chosen": "Hello", "rejected": "What?", "system": "Be brief."}
    found = detect_mapping([row])
    assert found.columns == {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "system": "system"}
    assert to_example(row, found) == chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))


# Short, as a long name is taken for a cell of a file without a header.
HOSTILE = "\"]; import os #\n''' \\ \u2028 \ud800"


def test_no_name_of_a_column_becomes_code(tmp_path: Path) -> None:
    question, answer = f"frage {HOSTILE}", f"antwort {HOSTILE}"
    rows = [{question: "What is it?", answer: "It is this."}]
    with pytest.raises(UnknownFormatError) as caught:
        detect_mapping(rows)
    proposal = caught.value.proposal
    assert proposal is not None
    assert proposal.columns == {"question": question, "answer": answer}
    assert proposal.code.isascii()
    assert caught.value.next_step.isprintable()
    assert converted(proposal.code, rows, tmp_path) == [{"question": "What is it?", "answer": "It is this."}]


def converted(code: str, rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run_code(code, source)[0]


def run_code(code: str, source: Path) -> tuple[list[dict[str, Any]], str]:
    program, target = source.parent / "convert.py", source.parent / "target.jsonl"
    program.write_text(code, encoding="utf-8")
    command = [sys.executable, str(program), str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    return rows, done.stdout + done.stderr


def guess_code() -> str:
    with pytest.raises(UnknownFormatError) as caught:
        detect_mapping([{"frage": "What is it?", "antwort": "It is this."}])
    assert caught.value.proposal is not None
    return caught.value.proposal.code


def test_the_code_reads_csv_json_compressed_and_parquet_files(tmp_path: Path) -> None:
    import gzip

    from datasets import Dataset

    code, row = guess_code(), {"frage": "What is it?", "antwort": "It is, this."}
    (tmp_path / "rows.csv").write_text('\ufefffrage,antwort\nWhat is it?,"It is, this."\n', encoding="utf-8")
    (tmp_path / "rows.tsv").write_text("frage\tantwort\nWhat is it?\tIt is, this.\n", encoding="utf-8")
    (tmp_path / "rows.json").write_text(json.dumps([row]), encoding="utf-8")
    (tmp_path / "lines.json").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    Dataset.from_list([row]).to_parquet(tmp_path / "rows.parquet")
    Dataset.from_list([row]).save_to_disk(tmp_path / "saved")
    expected = {"question": "What is it?", "answer": "It is, this."}
    for name in ("rows.csv", "rows.tsv", "rows.json", "rows.jsonl.gz", "rows.parquet", "saved"):
        assert run_code(code, tmp_path / name)[0] == [expected], name
    assert run_code(code, tmp_path / "lines.json")[0] == [expected, expected]


def test_the_code_says_which_rows_it_leaves_out(tmp_path: Path) -> None:
    rows = [{"frage": "What is it?", "antwort": "This."}, {"frage": "And that?", "antwort": None}]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made, said = run_code(guess_code(), source)
    assert made == [{"question": "What is it?", "answer": "This."}]
    assert "row 2 is left out: it has no answer" in said
    assert "1 rows written, 1 left out" in said


NAMES = sorted({name for slots in SLOTS.values() for slot in slots for name in (slot.name, *slot.aliases[:4])})
KEYS = st.sampled_from(["role", "from", "content", "value", "text", "tool_calls", "name", "weight", "0", "a.b", "type"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=12)
TEXTS = st.sampled_from(
    ["user", "assistant", "gpt", "function_call", '[{"role": "user"}]', "{'a': 1}", "[INST]", "User:"]
)
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
ROWS = st.dictionaries(
    st.sampled_from([*NAMES, "label", "choices", "parent_id"]) | st.text(max_size=6), VALUES, max_size=6
)
QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(rows=st.lists(ROWS, max_size=4))
@QUICK
def test_whatever_the_rows_are_only_a_data_error_or_a_row_error_comes_of_them(rows: list[dict[str, Any]]) -> None:
    try:
        found = detect_mapping(rows)
    except DataError as error:
        proposal = getattr(error, "proposal", None)
        if proposal is not None:
            compile(proposal.code, "proposed", "exec")
        return
    for row in rows:
        with_errors_in_words(row, found)


@given(row=ROWS, row_format=st.sampled_from(FORMATS))
@QUICK
def test_a_row_of_any_content_is_an_example_or_a_row_error(row: dict[str, Any], row_format: str) -> None:
    with_errors_in_words(row, mapping(row_format, "system", "tools", "input", "history", "context", "prompt"))


@given(
    rows=st.lists(ROWS, min_size=1, max_size=3), columns=st.dictionaries(st.sampled_from(NAMES), st.text(), max_size=2)
)
@settings(QUICK, max_examples=60)
def test_any_columns_of_a_config_give_a_mapping_or_a_data_error(
    rows: list[dict[str, Any]], columns: dict[str, str]
) -> None:
    for row_format in ("auto", *FORMATS):
        try:
            assert detect_mapping(rows, row_format=row_format, columns=columns).found_by != "names" or not columns
        except DataError as error:
            assert error.next_step


def with_errors_in_words(row: dict[str, Any], found: RowMapping) -> None:
    try:
        example = to_example(row, found)
    except RowError as error:
        assert str(error)
        return
    assert isinstance(example, Conversation | PlainText)
    if isinstance(example, Conversation):
        assert example.messages
        assert all(isinstance(turn["content"], str) for turn in example.messages)
