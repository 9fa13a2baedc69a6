"""What is learnt of a conversation, for chat templates in the manner of many families and those that TRL ships."""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_tools.data.examples import Conversation, Message, PlainText
from qlora_tools.data.rendering import LossOn, Renderer
from qlora_tools.data.rows import IGNORED, EncodedRows, TokenRow, encode_examples

from .chat_templates import CHATML, DEEPSEEK_R1, FORMS, MISTRAL, QWEN_3, ChatForm
from .families import Family, make_tokenizer

EVERY_FORM = pytest.mark.parametrize("form", FORMS)
BRIEF = [
    ("system", "Be brief."),
    ("user", "hi"),
    ("assistant", "hello there"),
    ("user", "bye"),
    ("assistant", "see you"),
]
_CHATML_BRIEF = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    "<|im_start|>assistant\n⟦hello there<|im_end|>⟧\n"
    "<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n⟦see you<|im_end|>⟧\n"
)
# The whole of BRIEF as each form writes it; between ⟦ and ⟧ stands what is learnt.
EXPECTED = {
    "llama_2": (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nhi [/INST]⟦ hello there </s>⟧<s>[INST] bye [/INST]⟦ see you </s>⟧"
    ),
    "llama_3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: TODAY\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦hello there<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nbye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦see you<|eot_id|>⟧"
    ),
    # Its system turn moves to the last question, so that the prompt of the first answer stands nowhere in the text.
    "mistral": "<s>[INST] hi[/INST]⟦ hello there</s>⟧[INST] Be brief.\n\nbye[/INST]⟦ see you</s>⟧",
    "chatml": _CHATML_BRIEF,
    "chatml_default": _CHATML_BRIEF,
    "qwen_3": _CHATML_BRIEF.replace("⟦see", "⟦<think>\n\n</think>\n\nsee"),
    "deepseek_r1": "<|bos|>Be brief.<|User|>hi<|Assistant|>⟦hello there<|end|>⟧<|User|>bye<|Assistant|>⟦see you<|end|>"
    "⟧",
    "gemma": (
        "<bos><start_of_turn>user\nBe brief.\n\nhi<end_of_turn>\n<start_of_turn>model\n⟦hello there<end_of_turn>⟧\n"
        "<start_of_turn>user\nbye<end_of_turn>\n<start_of_turn>model\n⟦see you<end_of_turn>⟧\n"
    ),
    "phi_3": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nhi<|end|>\n<|assistant|>\n⟦hello there<|end|>⟧\n"
        "<|user|>\nbye<|end|>\n<|assistant|>\n⟦see you<|end|>⟧\n<|endoftext|>"
    ),
    "phi_4": (
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>hi<|im_end|>"
        "<|im_start|>assistant<|im_sep|>⟦hello there<|im_end|>⟧<|im_start|>user<|im_sep|>bye<|im_end|>"
        "<|im_start|>assistant<|im_sep|>⟦see you<|im_end|>⟧"
    ),
    "vicuna": "Be brief. USER: hi ASSISTANT:⟦ hello there</s>⟧USER: bye ASSISTANT:⟦ see you</s>⟧",
    "zephyr": (
        "<|system|>\nBe brief.</s>\n<|user|>\nhi</s>\n<|assistant|>\n⟦hello there</s>⟧\n"
        "<|user|>\nbye</s>\n<|assistant|>\n⟦see you</s>⟧\n"
    ),
    # No token of its own ends an answer, so that EOS is added where the text ends.
    "headings": (
        "Be brief.\n\n### Instruction:\nhi\n\n### Response:\n⟦hello there\n\n⟧"
        "### Instruction:\nbye\n\n### Response:\n⟦see you\n\n<|endoftext|>⟧"
    ),
    "granite": (
        "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>hi<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>⟦hello there<|end_of_text|>⟧\n"
        "<|start_of_role|>user<|end_of_role|>bye<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>⟦see you<|end_of_text|>⟧\n"
    ),
    "command_r": (
        "<BOS><|START|><|SYSTEM|>Be brief.<|END|><|START|><|USER|>hi<|END|><|START|><|CHATBOT|>⟦hello there<|END|>⟧"
        "<|START|><|USER|>bye<|END|><|START|><|CHATBOT|>⟦see you<|END|>⟧"
    ),
    "falcon": "Be brief.\nUser: hi\nFalcon:⟦ hello there⟧\nUser: bye\nFalcon:⟦ see you<|endoftext|>⟧",
    "glm": (
        "[gMASK]<sop><|system|>\nBe brief.<|user|>\nhi<|assistant|>\n⟦hello there⟧"
        "<|user|>\nbye<|assistant|>\n⟦see you<|endoftext|>⟧"
    ),
    "harmony": (
        "<|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>hi<|end|>"
        "<|start|>assistant⟦<|channel|>final<|message|>hello there<|end|>⟧<|start|>user<|message|>bye<|end|>"
        "<|start|>assistant⟦<|channel|>final<|message|>see you<|return|>⟧"
    ),
    "marked": _CHATML_BRIEF.replace("<|im_end|>\n", "<|im_end|>").replace("⟧\n", "⟧"),
    "without_prompt": _CHATML_BRIEF.replace("<|im_start|>assistant\n⟦", "⟦<|im_start|>assistant\n"),
    "escaping": re.sub(r"(\n⟦?)([\w .]+)<", r'\1"\2"<', _CHATML_BRIEF),
    "spaced": "system: Be brief.\nuser: hi\nassistant: ⟦hello there⟧\nuser: bye\nassistant: ⟦see you</s>⟧",
}


def chat(*turns: tuple[str, str] | Message, tools: Sequence[dict[str, Any]] = ()) -> Conversation:
    messages = (turn if isinstance(turn, dict) else Message(role=turn[0], content=turn[1]) for turn in turns)
    return Conversation(tuple(messages), tools=tuple(tools))


def encode(tokenizer: Any, row: Conversation, loss_on: LossOn = "assistant") -> EncodedRows:
    return encode_examples([row], Renderer.for_examples(tokenizer, [row]), loss_on=loss_on)


def pieces(tokenizer: Any, row: TokenRow) -> list[tuple[bool, str]]:
    """Text of the row in runs that are learnt and runs that are not."""
    runs = groupby(zip(row.input_ids, row.labels, strict=True), key=lambda pair: pair[1] != IGNORED)
    return [(learnt, tokenizer.decode([token for token, _ in run])) for learnt, run in runs]


def marked(tokenizer: Any, row: Conversation, loss_on: LossOn = "assistant") -> str:
    encoded = encode(tokenizer, row, loss_on)
    assert encoded.unusable == ()
    return "".join(f"⟦{text}⟧" if learnt else text for learnt, text in pieces(tokenizer, encoded.rows[0]))


def learnt(tokenizer: Any, row: Conversation, loss_on: LossOn = "assistant") -> list[str]:
    encoded = encode(tokenizer, row, loss_on)
    assert encoded.unusable == ()
    return [text for learnt, text in pieces(tokenizer, encoded.rows[0]) if learnt]


def refusal(tokenizer: Any, row: Conversation, loss_on: LossOn = "completions") -> str:
    encoded = encode(tokenizer, row, loss_on)
    assert encoded.rows == ()
    ((number, reason),) = encoded.unusable
    assert number == 1
    return reason


def chatml(template: str = CHATML) -> Any:
    return ChatForm(template, FORMS["chatml"].specials).tokenizer()


# --- what each form writes, and what of it is learnt ---


def test_every_form_has_its_expected_mask() -> None:
    assert EXPECTED.keys() == FORMS.keys()


@EVERY_FORM
def test_assistant_loss_learns_every_answer_and_its_end_of_turn_and_nothing_else(form: str) -> None:
    expected = EXPECTED[form].replace("TODAY", datetime.now().strftime("%d %b %Y"))
    assert marked(FORMS[form].tokenizer(), chat(*BRIEF)) == expected


@EVERY_FORM
def test_completion_loss_learns_the_last_answer_alone(form: str) -> None:
    *earlier, last = EXPECTED[form].replace("TODAY", datetime.now().strftime("%d %b %Y")).split("⟦")
    expected = "".join(earlier).replace("⟧", "") + "⟦" + last
    assert marked(FORMS[form].tokenizer(), chat(*BRIEF), "completions") == expected


@EVERY_FORM
def test_loss_on_all_learns_every_token_and_the_end(form: str) -> None:
    tokenizer = FORMS[form].tokenizer()
    row = encode(tokenizer, chat(*BRIEF), "all").rows[0]
    assert row.labels == row.input_ids
    text = EXPECTED[form].replace("⟦", "").replace("⟧", "").replace("TODAY", datetime.now().strftime("%d %b %Y"))
    assert tokenizer.decode(row.input_ids) == text


@EVERY_FORM
@pytest.mark.parametrize("loss_on", ["completions", "assistant", "all"])
def test_generation_stops_at_what_ends_an_answer(form: str, loss_on: LossOn) -> None:
    tokenizer = FORMS[form].tokenizer()
    ends = {"gemma": "<end_of_turn>", "phi_3": "<|end|>"}
    expected = {FORMS[form].specials[0], ends.get(form, FORMS[form].specials[0])}
    assert set(tokenizer.convert_ids_to_tokens(encode(tokenizer, chat(*BRIEF), loss_on).stop_token_ids)) == expected


@EVERY_FORM
def test_the_tokens_before_the_last_answer_are_those_that_generation_sends(form: str) -> None:
    tokenizer, row = FORMS[form].tokenizer(), chat(*BRIEF)
    encoded = encode(tokenizer, row, "completions").rows[0]
    prompt = Renderer.for_examples(tokenizer, [row]).prompt(row.messages[:-1])
    asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    before = [label != IGNORED for label in encoded.labels].index(True)
    # The prompt of DeepSeek-R1 opens a thinking block that this answer does not have.
    assert encoded.input_ids[:before] == (asked[:before] if form == "deepseek_r1" else asked)


# --- texts that are hard to find ---

NASTY = {
    "one letter of the end of turn": "t",
    "another letter": "|",
    "first letter of a disguise": "z",
    "last letter of a disguise": "k",
    "a disguise": "zqxvjk",
    "disguises": "wqxvjk zqxvjp",
    "a header's letters": "assistant",
    "a role and a line": "assistant\n",
    "another role": "user\nhi",
    "text markers": "USER: x ASSISTANT: y\n\n### Response:\nFalcon: z",
    "the question": "hi",
    "spaces around": "  padded  ",
    "lines around": "\n\nlines\n\n",
    "carriage returns": "one\r\ntwo\r\n",
    "emoji": "👩‍👩‍👧 fine 🇫🇷",
    "combining": "e\u0301 n\u0303 \u1100\u1161",
    "right to left": "\u202eabc \u05d0\u05d1",
    "quotes and braces": '{"a": "{{ b }}", \'c\': {% d %}} \\n',
    "brackets": "[INST] [/INST] <<SYS>>",
    "thinking": "a </ think> b",
    "byte order mark": "\ufeffstart",
    "nothing wide": "a\u200bb",
    "an angle": "<",
    "an open thought": "<think>",
    "long": "number " * 5000,
}


@EVERY_FORM
@pytest.mark.parametrize("content", NASTY.values(), ids=NASTY.keys())
def test_an_answer_is_learnt_whole_whatever_it_says(form: str, content: str) -> None:
    row = chat(("user", "hi"), ("assistant", content), ("user", "again"), ("assistant", content))
    first, second = learnt(FORMS[form].tokenizer(), row)
    for text in (first, second):
        assert written(FORMS[form], content) in text
    usual = learnt(
        FORMS[form].tokenizer(), chat(("user", "hi"), ("assistant", "A"), ("user", "again"), ("assistant", "B"))
    )
    assert first.endswith(usual[0].rpartition("A")[2])
    assert second.endswith(usual[1].rpartition("B")[2])


def written(form: ChatForm, content: str) -> str:
    """The text of a turn as the form writes it."""
    content = content.strip() if form.strips else content
    return json.dumps(content, ensure_ascii=False) if form.escapes else content


@EVERY_FORM
def test_the_same_answer_three_times_is_learnt_where_it_stands(form: str) -> None:
    tokenizer = FORMS[form].tokenizer()
    row = chat(*[turn for _ in range(3) for turn in (("user", "ok"), ("assistant", "ok"))])
    runs = pieces(tokenizer, encode(tokenizer, row).rows[0])
    assert [("ok" in text) for learnt, text in runs if learnt] == [True] * 3
    assert [("ok" in text) for learnt, text in runs if not learnt][:3] == [True] * 3
    assert sum(text.count("ok") for learnt, text in runs if learnt) == 3
    last = pieces(tokenizer, encode(tokenizer, row, "completions").rows[0])
    assert sum(text.count("ok") for learnt, text in last if learnt) == 1


def test_special_tokens_within_an_answer_are_learnt_with_it_and_those_within_a_question_are_not() -> None:
    said = "a<|im_end|>\n<|im_start|>user\nb"
    row = chat(("user", said), ("assistant", said), ("user", "c"), ("assistant", "d"))
    assert learnt(chatml(), row) == [f"{said}<|im_end|>", "d<|im_end|>"]


def test_a_special_token_that_swallows_the_space_before_it_still_ends_the_answer() -> None:
    from tokenizers import AddedToken

    tokenizer = FORMS["llama_2"].tokenizer()
    tokenizer.add_special_tokens({"eos_token": AddedToken("</s>", lstrip=True, rstrip=True, special=True)})
    row = encode(tokenizer, chat(("user", "hi"), ("assistant", "one"), ("user", "hi"), ("assistant", "two"))).rows[0]
    ends = [label for label in row.labels if label == tokenizer.eos_token_id]
    assert len(ends) == 2


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
@EVERY_FORM
def test_of_any_conversation_the_answers_are_learnt_and_the_questions_are_not(form: str, data: st.DataObject) -> None:
    plain = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
    said = st.one_of(plain, st.sampled_from(list(NASTY.values())[:-1])).filter(lambda text: bool(text.strip()))
    texts = data.draw(st.lists(st.tuples(said, said), min_size=1, max_size=4))
    row = chat(*[turn for asked, answer in texts for turn in (("user", asked), ("assistant", answer))])
    tokenizer = tokenizer_of(form)
    runs = pieces(tokenizer, encode(tokenizer, row).rows[0])
    answers = [text for learnt, text in runs if learnt]
    questions = [text for learnt, text in runs if not learnt]
    assert len(answers) == len(texts)
    for (asked, answer), before, text in zip(texts, questions, answers, strict=False):
        assert written(FORMS[form], answer) in text
        assert written(FORMS[form], asked) in before


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.parametrize("form", [form for form in FORMS if form != "deepseek_r1"])
def test_any_answer_stands_behind_the_very_tokens_that_generation_sends(form: str, data: st.DataObject) -> None:
    spaced = st.text(st.sampled_from(" \n\tab:.é👧"), min_size=1, max_size=8)
    said = st.one_of(spaced, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
    asked, answer = data.draw(st.tuples(said, said))
    row, tokenizer = chat(("user", asked), ("assistant", answer)), tokenizer_of(form)
    encoded = encode(tokenizer, row, "completions").rows[0]
    prompt = Renderer.for_examples(tokenizer, [row]).prompt(row.messages[:1])
    before = [label != IGNORED for label in encoded.labels].index(True)
    assert encoded.input_ids[:before] == tokenizer(prompt, add_special_tokens=False)["input_ids"]


TOKENIZERS: dict[str, Any] = {}


def tokenizer_of(form: str) -> Any:
    if form not in TOKENIZERS:
        TOKENIZERS[form] = FORMS[form].tokenizer()
    return TOKENIZERS[form]


# --- calls of tools and thoughts ---

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "City"}}},
    },
}


def call(identifier: str | None = None, /, **arguments: Any) -> dict[str, Any]:
    made = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"id": identifier, **made} if identifier else made


def calling(*calls: dict[str, Any], content: str = "") -> Message:
    return Message(role="assistant", content=content, tool_calls=list(calls))


def result(content: str, **extras: Any) -> Message:
    return Message(role="tool", content=content, **extras)


ASKED_TWICE = chat(
    ("user", "Paris?"),
    calling(call(city="Paris")),
    result("sunny"),
    ("assistant", "It is sunny."),
    ("user", "Rome?"),
    calling(call(city="Rome")),
    tools=[WEATHER],
)


@pytest.mark.parametrize(
    ("form", "expected"),
    {
        "llama_3": [
            '{"name": "weather", "parameters": {"city": "Paris"}}<|eot_id|>',
            "It is sunny.<|eot_id|>",
            '{"name": "weather", "parameters": {"city": "Rome"}}<|eot_id|>',
        ],
        "mistral": [
            '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}, "id": "call00001"}]</s>',
            " It is sunny.</s>",
            '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}, "id": "call00002"}]</s>',
        ],
        "qwen_3": [
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>',
            "It is sunny.<|im_end|>",
            '<think>\n\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|'
            ">",
        ],
        "deepseek_r1": [
            '<|call|>weather\n```json\n{"city": "Paris"}\n```<|call_end|><|end|>',
            "It is sunny.<|end|>",
            '<|call|>weather\n```json\n{"city": "Rome"}\n```<|call_end|><|end|>',
        ],
    }.items(),
)
def test_calls_and_the_answers_between_them_are_learnt_and_results_are_not(form: str, expected: list[str]) -> None:
    assert learnt(FORMS[form].tokenizer(), ASKED_TWICE) == expected
    assert learnt(FORMS[form].tokenizer(), ASKED_TWICE, "completions") == expected[-1:]


def test_several_calls_of_one_turn_and_those_without_arguments_are_learnt() -> None:
    row = chat(
        ("user", "now?"), calling(call(), call(city="a k"), call(city="zqxvjk")), result("x"), ("assistant", "Done.")
    )
    shapes = ["{}", '{"city": "a k"}', '{"city": "zqxvjk"}']
    calls = "\n".join(f'<tool_call>\n{{"name": "weather", "arguments": {each}}}\n</tool_call>' for each in shapes)
    first, second = learnt(FORMS["qwen_3"].tokenizer(), row)
    assert (first, second) == (f"{calls}<|im_end|>", "<think>\n\n</think>\n\nDone.<|im_end|>")
    assert learnt(FORMS["qwen_3"].tokenizer(), chat(row.messages[0], calling(call()))) == [
        '<think>\n\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call><|im_end|>'
    ]


def test_the_text_of_a_turn_that_calls_too_is_learnt_and_a_template_that_leaves_it_out_makes_the_row_unusable() -> None:
    row = chat(("user", "now?"), calling(call(city="Rome"), content="Let me see."))
    called = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    assert learnt(FORMS["qwen_3"].tokenizer(), row) == [f"<think>\n\n</think>\n\nLet me see.\n{called}<|im_end|>"]
    left_out = "the model's chat template leaves out the text of turn 2"
    assert refusal(FORMS["llama_3"].tokenizer(), row) == left_out


def test_calls_that_a_template_leaves_out_or_refuses_make_the_row_unusable_with_the_reason() -> None:
    twice = chat(("user", "now?"), calling(call(city="Rome"), call(city="Oslo")))
    assert refusal(FORMS["gemma"].tokenizer(), twice) == (
        "the model's chat template leaves out tool calls, so they could not be learnt"
    )
    assert refusal(FORMS["llama_3"].tokenizer(), twice) == "the model's chat template refuses it: one call at a time"
    first_only = QWEN_3.replace("in turn.tool_calls %}", "in (turn.tool_calls or [])[:1] %}")
    assert refusal(chatml(first_only), twice) == "the model's chat template leaves out a tool call of turn 2"


def test_results_belong_to_their_calls_by_their_ids_in_any_order() -> None:
    row = chat(
        ("user", "both?"),
        calling(call("call_b", city="Rome"), call("call_a", city="Oslo")),
        result("cold", tool_call_id="call_a"),
        result("warm", tool_call_id="call_b"),
        ("assistant", "Rome."),
    )
    text = marked(FORMS["mistral"].tokenizer(), row)
    assert '{"city": "Rome"}, "id": "call00001"' in text
    assert '"content": cold, "call_id": "call00002"' in text
    assert '"content": warm, "call_id": "call00001"' in text
    # Where a template takes any id, ids stay: in some of them the name of the call is written.
    any_id = MISTRAL.replace("length != 9", "length == 0")
    assert '"id": "call_b"' in marked(ChatForm(any_id, FORMS["mistral"].specials).tokenizer(), row)


def test_a_template_that_prints_arguments_gets_them_as_json_text() -> None:
    printing = QWEN_3.replace("call.function.arguments | tojson", "call.function.arguments")
    assert learnt(chatml(printing), ASKED_TWICE) == learnt(chatml(QWEN_3), ASKED_TWICE)


THOUGHT = Message(role="assistant", content="four", reasoning_content="two and two")


def test_thoughts_are_learnt_where_the_template_writes_them() -> None:
    row = chat(("user", "2+2?"), THOUGHT, ("user", "again?"), THOUGHT)
    end = "<think>\ntwo and two\n</think>\n\nfour<|im_end|>"
    assert learnt(chatml(QWEN_3), row) == ["four<|im_end|>", end]
    assert learnt(FORMS["harmony"].tokenizer(), row) == [
        "<|channel|>final<|message|>four<|end|>",
        "<|channel|>analysis<|message|>two and two<|end|><|start|>assistant<|channel|>final<|message|>four<|return|>",
    ]
    within = chat(("user", "2+2?"), ("assistant", "<think>\ntwo and two\n</think>\n\nfour"))
    assert learnt(chatml(QWEN_3), within) == [end]
    assert learnt(chatml(), within) == ["<think>\ntwo and two\n</think>\n\nfour<|im_end|>"]


def test_a_thought_that_says_the_same_as_its_answer_is_not_taken_for_it() -> None:
    always = CHATML.replace("{{ turn.content }}", "{{ turn.reasoning_content }}{{ turn.content }}")
    row = chat(("user", "q"), Message(role="assistant", content="ok", reasoning_content="ok"))
    assert learnt(chatml(always), row) == ["okok<|im_end|>"]
    assert learnt(chatml(QWEN_3), row) == ["<think>\nok\n</think>\n\nok<|im_end|>"]
    empty = chat(("user", "q"), Message(role="assistant", content="ok", reasoning_content=""))
    assert learnt(chatml(QWEN_3), empty) == ["<think>\n\n</think>\n\nok<|im_end|>"]


def test_where_the_prompt_opens_a_thinking_block_what_comes_behind_it_is_learnt() -> None:
    keeping = DEEPSEEK_R1.replace("turn.content.split('</think>')[-1]", "turn.content")
    row = chat(("user", "2+2?"), ("assistant", "<think>\ntwo and two\n</think>\n\nfour"))
    tokenizer = ChatForm(keeping, FORMS["deepseek_r1"].specials).tokenizer()
    assert learnt(tokenizer, row) == ["two and two\n</think>\n\nfour<|end|>"]
    assert learnt(FORMS["deepseek_r1"].tokenizer(), row) == ["\n\nfour<|end|>"]


# --- templates with manners of their own ---


def test_a_prompt_that_is_not_word_for_word_in_the_text_still_shows_where_answers_begin() -> None:
    row = chat(("user", "hi"), ("assistant", "one"), ("user", "hi"), ("assistant", "two"))
    shapes = {"{{ turn.role }}:\n ": "assistant:", "{{ turn.role }}: ": "\\n\\nassistant:"}
    for header, prompt in shapes.items():
        written_as = "{% for turn in messages %}" + header + "{{ turn.content }}\n\n{% endfor %}"
        template = written_as + "{{ '" + prompt + "' if add_generation_prompt }}"
        assert [text.strip() for text in learnt(chatml(template), row)] == ["one", "two\n\n<|im_end|>"]


def test_a_template_that_writes_the_time_to_the_microsecond_has_the_same_masks() -> None:
    timed = "{{ strftime_now('%H:%M:%S.%f') }}\n" + CHATML
    row = chat(*BRIEF[1:])
    assert learnt(chatml(timed), row) == learnt(chatml(), row)


def test_a_system_turn_that_would_be_left_out_is_folded_or_makes_the_row_unusable() -> None:
    deaf = "{% for turn in messages if turn.role != 'system' %}" + CHATML.partition("%}")[2]
    asked = ("user", "hi"), ("assistant", "hello")
    folded = marked(chatml(deaf), chat(("system", "Be brief."), *asked))
    assert folded.startswith("<|im_start|>user\nBe brief.\n\nhi<|im_end|>")
    late = chat(*asked, ("system", "Be long."), ("user", "bye"), ("assistant", "see you"))
    for loss_on in ("completions", "assistant", "all"):
        assert refusal(chatml(deaf), late, loss_on) == "the model's chat template leaves out the text of turn 3"
    greeting = chat(("system", "Be brief."), ("assistant", "welcome"), *asked)
    assert refusal(chatml(deaf), greeting) == "the model's chat template leaves out the text of turn 1"
    assert learnt(chatml(), greeting) == ["welcome<|im_end|>", "hello<|im_end|>"]


def test_an_answer_without_a_question_before_it_is_learnt_without_its_header() -> None:
    row = chat(("assistant", "welcome"), ("user", "hi"), ("assistant", "hello"))
    assert learnt(chatml(), row) == ["welcome<|im_end|>", "hello<|im_end|>"]


def test_answers_in_a_row_are_both_learnt_and_alternating_templates_say_why_not() -> None:
    row = chat(("user", "hi"), ("assistant", "one"), ("assistant", "two"))
    assert learnt(chatml(), row) == ["one<|im_end|>", "two<|im_end|>"]
    reason = "the model's chat template refuses it: user and assistant must take turns"
    assert refusal(FORMS["llama_2"].tokenizer(), row) == reason


@pytest.mark.parametrize(
    "template",
    [
        "{% set first = messages.pop(0) %}" + CHATML,
        "{% for turn in messages %}{% do turn.update(content='x') %}{% endfor %}",
        "{% for turn in messages %}",
        "{{ 1 / 0 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% for i in range(999999999) %}x{% endfor %}",
        "{{ messages[7].content.nothing.at.all }}",
        "{{ messages[0].content + 3 }}",
        "{{ ''.__class__.__mro__ }}" + CHATML,
        "{{ 'abc' | unknown }}",
    ],
)
def test_a_template_that_fails_makes_rows_unusable_with_a_reason(template: str) -> None:
    assert refusal(chatml(template), chat(*BRIEF)).startswith("the model's chat template refuses it: ")


def test_a_template_that_leaves_out_answers_says_so() -> None:
    deaf = "{% for turn in messages if turn.role != 'assistant' %}" + CHATML.partition("%}")[2]
    assert refusal(chatml(deaf), chat(("user", "a"), ("assistant", "b"))) == (
        "the model's chat template leaves out the text of turn 2"
    )


def test_unusable_rows_are_named_by_their_numbers_beside_the_good_ones() -> None:
    good, bad = chat(("user", "a"), ("assistant", "b")), chat(("user", "a"), ("assistant", "b"), ("assistant", "c"))
    tokenizer = FORMS["llama_2"].tokenizer()
    rows = [good, bad, PlainText("some text"), bad]
    encoded = encode_examples(
        rows, Renderer.for_examples(tokenizer, rows), loss_on="completions", row_numbers=[3, 5, 8, 9]
    )
    assert [row.number for row in encoded.rows] == [3, 8]
    assert [number for number, _ in encoded.unusable] == [5, 9]


def test_a_base_without_a_template_learns_every_answer_of_the_instruction_form_with_eos() -> None:
    shape = Family("", "</s>", "</s>", "", ("<s>", "</s>"), "<s>")
    tokenizer = make_tokenizer(shape, template=False)
    assert marked(tokenizer, chat(*BRIEF)) == (
        "Be brief.\n\n### Instruction:\nhi\n\n### Response:\n⟦hello there</s>⟧"
        "\n\n### Instruction:\nbye\n\n### Response:\n⟦see you</s>⟧"
    )
    assert Renderer.for_examples(tokenizer, [chat(*BRIEF)]).prompt(chat(*BRIEF).messages[:2]) == (
        "Be brief.\n\n### Instruction:\nhi\n\n### Response:\n"
    )
    endless = make_tokenizer(shape, template=False)
    endless.eos_token = None
    assert learnt(endless, chat(*BRIEF)) == ["hello there", "see you"]


def test_a_pair_as_written_is_parted_where_its_answer_begins() -> None:
    tokenizer = make_tokenizer(Family("", "</s>", "</s>", "", ("<s>", "</s>"), "<s>"), template=False)
    pair = Conversation(chat(("user", "say nu"), ("assistant", "mber it is")).messages, verbatim=True)
    assert len(tokenizer(" number")["input_ids"]) == 1
    assert marked(tokenizer, pair, "completions") == "say nu⟦mber it is</s>⟧"


def test_completion_loss_takes_two_renderings_a_row() -> None:
    tokenizer = FORMS["llama_3"].tokenizer()
    rendered = []
    render = tokenizer.apply_chat_template

    def counted(*arguments: Any, **options: Any) -> Any:
        rendered.append(arguments)
        return render(*arguments, **options)

    tokenizer.apply_chat_template = counted
    rows = [chat(("user", f"say {i}"), ("assistant", f"{i} it is")) for i in range(100)]
    encode_examples(rows, Renderer.for_examples(tokenizer, rows), loss_on="completions")
    assert len(rendered) <= 2 * len(rows) + 10  # what the template can do is found out once


# --- tokenizers that mark words by a leading sign ---


def words_tokenizer(template: str, kind: str, specials: Sequence[str]) -> Any:
    """As SentencePiece makes them: words begin with a sign, letters that are not in the vocabulary are bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = ["say one two three it is hello there see you bye hi"] * 3
    bytes_of = [f"<0x{value:02X}>" for value in range(256)]
    always: list[str] = ["<unk>", *specials, *bytes_of]
    if kind == "unigram":
        made = Tokenizer(models.Unigram())
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=always, unk_token="<unk>", show_progress=False
        )
    else:
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=always, show_progress=False)
    if kind == "prepended":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if kind == "first" else "always")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.train_from_iterator(words, trainer)
    saved = json.loads(made.to_str())
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["content"] not in bytes_of]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(saved)),
        eos_token=specials[0],
        bos_token=specials[-1],
        unk_token="<unk>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(specials)})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("kind", ["first", "always", "prepended", "unigram"])
@pytest.mark.parametrize(
    "form", ["llama_2", "mistral", "vicuna", "gemma", "zephyr", "headings", "falcon", "spaced", "phi_3"]
)
def test_tokenizers_with_a_leading_sign_have_the_same_masks(form: str, kind: str) -> None:
    tokenizer = words_tokenizer(FORMS[form].template, kind, FORMS[form].specials)
    row = encode(tokenizer, chat(*BRIEF)).rows[0]
    runs = [re.sub(r"\s+|<unk>", "", text) for learnt, text in pieces(tokenizer, row) if learnt]
    expected = re.findall("⟦(.*?)⟧", EXPECTED[form], flags=re.DOTALL)
    assert runs == [re.sub(r"\s+", "", text) for text in expected]


# --- the templates that TRL ships with markers around what is learnt ---

MARKERS = Path(str(find_spec("trl").submodule_search_locations[0])) / "chat_templates"  # type: ignore[union-attr, index]
NOT_COMPARED = {
    "idefics3": "for pictures: takes no text as content",
    "llava_next": "for pictures: takes no text as content",
    "smolvlm": "for pictures: takes no text as content",
    "qwen2_5_vl": "for pictures",
    "qwen3_vl": "for pictures",
    "diffusion_gemma": "writes a header behind results that its prompt has not",
}
COMPARED = sorted(
    path.name.removesuffix("_training.jinja")
    for path in MARKERS.glob("*_training.jinja")
    if path.name.removesuffix("_training.jinja") not in NOT_COMPARED
)
ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<|eot|>", "<end_of_turn>", "</s>", "<｜end▁of▁sentence｜>", "<|return|>"),
    *("<|END_OF_TURN_TOKEN|>", "<turn|>", "<|endoftext|>", "<|end|>"),
)
_SPECIAL = re.compile(r"<\|\w+\|>|<｜[^｜]+｜>|</?s>|<(?:start|end)_of_turn>|<\|?turn\|?>")
CONVERSATIONS = {
    "multi": chat(*BRIEF),
    "tools": chat(
        ("user", "weather?"),
        calling(call("call00001", city="Paris")),
        result("sunny", name="weather", tool_call_id="call00001"),
        ("assistant", "It is sunny."),
        ("user", "and now?"),
        calling(call("call00002", city="Rome")),
        tools=[WEATHER],
    ),
    "think": chat(
        ("user", "q1"),
        ("assistant", "<think>\nhm\n</think>\n\na1"),
        ("user", "q2"),
        ("assistant", "<think>\nha\n</think>\n\na2"),
    ),
    "reasoning": chat(
        ("user", "q1"),
        Message(role="assistant", content="a1", reasoning_content="one"),
        ("user", "q2"),
        Message(role="assistant", content="a2", reasoning_content="two"),
    ),
}


def marker_tokenizer(name: str) -> Any:
    template = (MARKERS / f"{name}_training.jinja").read_text(encoding="utf-8")
    specials = sorted(set(_SPECIAL.findall(template)))
    eos = next((end for end in ENDS if end in specials), "<|endoftext|>")
    return ChatForm(template, tuple(dict.fromkeys([eos, *specials, "<bos_>"]))).tokenizer()


def test_trl_ships_enough_templates_to_compare_with() -> None:
    assert len(COMPARED) >= 8


@pytest.mark.parametrize("kind", CONVERSATIONS)
@pytest.mark.parametrize("name", COMPARED)
def test_what_is_learnt_is_what_the_author_of_a_template_marks(name: str, kind: str) -> None:
    tokenizer, row = marker_tokenizer(name), CONVERSATIONS[kind]
    renderer = Renderer.for_examples(tokenizer, [row])
    encoded = encode_examples([row], renderer, loss_on="assistant")
    if encoded.unusable:
        assert kind == "tools"
        assert any(reason in encoded.unusable[0][1] for reason in ("leaves out tool calls", "must alternate"))
        return
    theirs = tokenizer.apply_chat_template(
        # Transformers before 5.23 hands thoughts over by the name that they have.
        [
            {**turn, "thinking": turn["reasoning_content"]} if "reasoning_content" in turn else dict(turn)
            for turn in renderer.template.folded(row.messages)
        ],
        tools=list(row.tools) or None,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    ours = encoded.rows[0]
    assert ours.input_ids[: len(theirs["input_ids"])] == theirs["input_ids"]
    masks = zip(ours.labels, theirs["assistant_masks"], strict=False)
    assert not [i for i, (label, mark) in enumerate(masks) if label != IGNORED and not mark]
    runs = [text for learnt, text in pieces(tokenizer, ours) if learnt]
    answers = [turn for turn in row.messages if turn["role"] == "assistant"]
    assert len(runs) == len(answers)
    for text, answer in zip(runs, answers, strict=True):
        assert answer["content"].strip().split("</think>")[-1].strip() in text
        for each in answer.get("tool_calls", ()):
            assert each["function"]["arguments"]["city"] in text
    ends_with_special(tokenizer, ours, name)


def ends_with_special(tokenizer: Any, row: TokenRow, name: str) -> None:
    last = [labels for learnt, labels in runs_of_labels(row) if learnt]
    special = set(tokenizer.all_special_ids)
    # The header of the next turn is all that ends an answer of GLM, but for the last one.
    ended = last[-1:] if name == "glm4moe" else last
    assert all(labels[-1] in special for labels in ended)


def runs_of_labels(row: TokenRow) -> list[tuple[bool, list[int]]]:
    return [(learnt, list(run)) for learnt, run in groupby(row.labels, key=lambda label: label != IGNORED)]
