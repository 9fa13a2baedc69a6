"""Rows in the columns and nesting of well-known public datasets (the wording is ours) are read as what they are."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.data.examples import Conversation, Message, PlainText
from qlora_tools.data.formats.detect import UnknownFormatError, detect_mapping, to_example

Rows = list[dict[str, Any]]


def chat(*turns: tuple[str, str], verbatim: bool = False) -> Conversation:
    return Conversation(tuple(Message(role=role, content=content) for role, content in turns), verbatim)


def said(role_key: str, content_key: str, *turns: tuple[str, str], **extra: Any) -> list[dict[str, Any]]:
    return [{role_key: role, content_key: content, **extra} for role, content in turns]


CAPITAL = "What is the capital of Peru?"
LIMA = "The capital of Peru is Lima."
CAPITAL_PAIR = chat(("user", CAPITAL), ("assistant", LIMA))
RIVER, NILE = "Which river flows through Cairo?", "The Nile flows through Cairo."
TURNS = (("human", CAPITAL), ("gpt", LIMA), ("human", RIVER), ("gpt", NILE))
OPENAI = (("user", CAPITAL), ("assistant", LIMA))
FOUR = chat(("user", CAPITAL), ("assistant", LIMA), ("user", RIVER), ("assistant", NILE))
WEATHER = {"name": "get_weather", "description": "Weather of a city", "parameters": {"city": {"type": "str"}}}
WEATHER_TOOL = {"type": "function", "function": WEATHER}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Lima"}}}
STORY = "A fox walked through the snow and found a warm place under an old oak, where it slept until spring."

# name, rows, format, columns, the example of the first row
SHAPES: list[tuple[str, Rows, str, dict[str, str], object]] = [
    (
        "tatsu-lab/alpaca",
        [
            {
                "instruction": "Name the colour.",
                "input": "Grass",
                "output": "Green",
                "text": "Below is an instruction that describes a task.\n\n### Instruction:\nName the colour.\n\n"
                "### Input:\nGrass\n\n### Response:\nGreen",
            },
            {"instruction": CAPITAL, "input": "", "output": LIMA, "text": "### Instruction:\nx\n\n### Response:\ny"},
        ],
        "alpaca",
        {"instruction": "instruction", "input": "input", "output": "output"},
        chat(("user", "Name the colour.\n\nGrass"), ("assistant", "Green")),
    ),
    (
        "yahma/alpaca-cleaned",
        [{"output": LIMA, "input": "", "instruction": CAPITAL}],
        "alpaca",
        {"instruction": "instruction", "input": "input", "output": "output"},
        CAPITAL_PAIR,
    ),
    (
        "databricks/databricks-dolly-15k",
        [
            {"instruction": CAPITAL, "context": "", "response": LIMA, "category": "open_qa"},
            {"instruction": "When?", "context": "It was 1912.", "response": "1912", "category": "closed_qa"},
        ],
        "alpaca",
        {"instruction": "instruction", "input": "context", "output": "response"},
        CAPITAL_PAIR,
    ),
    (
        "HuggingFaceH4/ultrachat_200k",
        [{"prompt": CAPITAL, "prompt_id": "a1f0", "messages": said("role", "content", *OPENAI)}],
        "messages",
        {"messages": "messages"},
        CAPITAL_PAIR,
    ),
    (
        "HuggingFaceH4/no_robots",
        [
            {
                "prompt": CAPITAL,
                "prompt_id": "9c",
                "messages": said("role", "content", ("system", "Be kind."), *OPENAI),
                "category": "Open QA",
            }
        ],
        "messages",
        {"messages": "messages"},
        chat(("system", "Be kind."), *OPENAI),
    ),
    (
        "Open-Orca/OpenOrca",
        [
            {"id": "niv.1", "system_prompt": "", "question": CAPITAL, "response": LIMA},
            {"id": "flan.2", "system_prompt": "Think first.", "question": RIVER, "response": NILE},
        ],
        "question_answer",
        {"question": "question", "answer": "response", "system": "system_prompt"},
        CAPITAL_PAIR,
    ),
    (
        "teknium/OpenHermes-2.5",
        [
            {
                "custom_instruction": None,
                "topic": None,
                "model_name": None,
                "skip_prompt_formatting": False,
                "category": "general",
                "conversations": [{"from": "human", "value": CAPITAL, "weight": None}, {"from": "gpt", "value": LIMA}],
                "language": None,
                "id": None,
                "title": None,
                "hash": None,
                "system_prompt": None,
                "source": "made up",
            }
        ],
        "sharegpt",
        {"conversations": "conversations", "system": "system_prompt"},
        CAPITAL_PAIR,
    ),
    (
        "anon8231489123/ShareGPT_Vicuna_unfiltered",
        [
            {"id": "QWJhYvA_0", "conversations": said("from", "value", *TURNS)},
            {"id": "i6IyJda_0", "conversations": []},
            {
                "id": "A5AbcES_0",
                "conversations": said("from", "value", ("user", CAPITAL), ("bing", LIMA), ("chatgpt", NILE)),
            },
        ],
        "sharegpt",
        {"conversations": "conversations"},
        FOUR,
    ),
    (
        "openai/gsm8k",
        [{"question": "What is 2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}],
        "question_answer",
        {"question": "question", "answer": "answer"},
        chat(("user", "What is 2 + 2?"), ("assistant", "2 + 2 = <<2+2=4>>4\n#### 4")),
    ),
    (
        "meta-math/MetaMathQA",
        [{"type": "MATH_Rephrased", "query": "Add 2 and 2.", "original_question": "2 + 2?", "response": "It is 4."}],
        "question_answer",
        {"question": "query", "answer": "response"},
        chat(("user", "Add 2 and 2."), ("assistant", "It is 4.")),
    ),
    (
        "Anthropic/hh-rlhf",
        [
            {
                "chosen": f"\n\nHuman: {CAPITAL}\n\nAssistant: {LIMA}\n\nHuman: {RIVER}\n\nAssistant: {NILE}",
                "rejected": f"\n\nHuman: {CAPITAL}\n\nAssistant: {LIMA}\n\nHuman: {RIVER}\n\nAssistant: No idea.",
            }
        ],
        "preference",
        {"chosen": "chosen", "rejected": "rejected"},
        FOUR,
    ),
    (
        "Dahoas/full-hh-rlhf",
        [
            {
                "prompt": f"\n\nHuman: {CAPITAL}\n\nAssistant: {LIMA}\n\nHuman: {RIVER}\n\nAssistant:",
                "response": NILE,
                "chosen": NILE,
                "rejected": "No idea.",
            }
        ],
        "preference",
        {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
        FOUR,
    ),
    (
        "HuggingFaceH4/ultrafeedback_binarized",
        [
            {
                "prompt": CAPITAL,
                "prompt_id": "77",
                "chosen": said("content", "role", (CAPITAL, "user"), (LIMA, "assistant")),
                "rejected": said("content", "role", (CAPITAL, "user"), ("Cusco.", "assistant")),
                "messages": said("content", "role", (CAPITAL, "user"), (LIMA, "assistant")),
                "score_chosen": 8.5,
                "score_rejected": 3.0,
            }
        ],
        "preference",
        {"chosen": "chosen", "rejected": "rejected"},
        CAPITAL_PAIR,
    ),
    (
        "Intel/orca_dpo_pairs",
        [
            {"system": "", "question": CAPITAL, "chosen": LIMA, "rejected": "Cusco."},
            {"system": "Be brief.", "question": RIVER, "chosen": NILE, "rejected": "The Po."},
        ],
        "preference",
        {"prompt": "question", "chosen": "chosen", "rejected": "rejected", "system": "system"},
        CAPITAL_PAIR,
    ),
    (
        "argilla/distilabel-intel-orca-dpo-pairs",
        [
            {
                "system": "Be brief.",
                "input": CAPITAL,
                "chosen": LIMA,
                "rejected": "Cusco.",
                "generations": [LIMA, "Cusco."],
                "rating": [9.0, 2.0],
                "status": "unchanged",
            }
        ],
        "preference",
        {"prompt": "input", "chosen": "chosen", "rejected": "rejected", "system": "system"},
        chat(("system", "Be brief."), ("user", CAPITAL), ("assistant", LIMA)),
    ),
    (
        "OpenAI preference fine-tuning",
        [
            {
                "input": {"messages": [{"role": "user", "content": CAPITAL}], "tools": []},
                "preferred_output": [{"role": "assistant", "content": LIMA}],
                "non_preferred_output": [{"role": "assistant", "content": "Cusco."}],
            }
        ],
        "preference",
        {"prompt": "input.messages", "chosen": "preferred_output", "rejected": "non_preferred_output"},
        CAPITAL_PAIR,
    ),
    (
        "timdettmers/openassistant-guanaco",
        [{"text": f"### Human: {CAPITAL}### Assistant: {LIMA}### Human: {RIVER}### Assistant: {NILE}"}],
        "transcript",
        {"text": "text"},
        FOUR,
    ),
    (
        "mlabonne/guanaco-llama2-1k",
        [{"text": f"<s>[INST] {CAPITAL} [/INST] {LIMA} </s><s>[INST] {RIVER} [/INST] {NILE} </s>"}],
        "transcript",
        {"text": "text"},
        FOUR,
    ),
    (
        "glaiveai/glaive-function-calling-v2",
        [
            {
                "system": "SYSTEM: You can call functions. Use them if required -\n{...}",
                "chat": 'USER: Weather in Lima?\n\n\nASSISTANT: <functioncall> {"name": "get_weather"} <|endoftext|>\n\n\n'
                'FUNCTION RESPONSE: {"sky": "clear"}\n\n\nASSISTANT: It is clear. <|endoftext|>\n\n\n',
            }
        ],
        "transcript",
        {"text": "chat", "system": "system"},
        chat(
            ("system", "You can call functions. Use them if required -\n{...}"),
            ("user", "Weather in Lima?"),
            ("assistant", '<functioncall> {"name": "get_weather"}'),
            ("tool", '{"sky": "clear"}'),
            ("assistant", "It is clear."),
        ),
    ),
    (
        "Salesforce/xlam-function-calling-60k",
        [
            {
                "id": 0,
                "query": "Weather in Lima?",
                "answers": json.dumps([{"name": "get_weather", "arguments": {"city": "Lima"}}]),
                "tools": json.dumps([WEATHER]),
            }
        ],
        "question_answer",
        {"question": "query", "answer": "answers", "tools": "tools"},
        Conversation(
            (
                Message(role="user", content="Weather in Lima?"),
                Message(role="assistant", content="", tool_calls=[CALL]),
            ),
            tools=(WEATHER_TOOL,),
        ),
    ),
    (
        "NousResearch/hermes-function-calling-v1",
        [
            {
                "id": "85",
                "conversations": said(
                    "from",
                    "value",
                    ("system", "You call functions."),
                    ("human", "Weather in Lima?"),
                    ("gpt", '<tool_call>\n{"name": "get_weather"}\n</tool_call>'),
                    ("tool", '<tool_response>\n{"sky": "clear"}\n</tool_response>'),
                    ("gpt", "It is clear."),
                ),
                "tools": json.dumps([WEATHER_TOOL]),
                "category": "Weather",
                "subcategory": "City",
                "task": "Look up",
            }
        ],
        "sharegpt",
        {"conversations": "conversations", "tools": "tools"},
        Conversation(
            chat(
                ("system", "You call functions."),
                ("user", "Weather in Lima?"),
                ("assistant", '<tool_call>\n{"name": "get_weather"}\n</tool_call>'),
                ("tool", '<tool_response>\n{"sky": "clear"}\n</tool_response>'),
                ("assistant", "It is clear."),
            ).messages,
            tools=(WEATHER_TOOL,),
        ),
    ),
    (
        "Salesforce/APIGen-MT-5k",
        [
            {
                "conversations": said(
                    "from",
                    "value",
                    ("human", "Weather in Lima?"),
                    ("function_call", json.dumps({"name": "get_weather", "arguments": {"city": "Lima"}})),
                    ("observation", '{"sky": "clear"}'),
                    ("gpt", "It is clear."),
                ),
                "tools": json.dumps([WEATHER]),
                "system": "You are an agent.",
            }
        ],
        "sharegpt",
        {"conversations": "conversations", "system": "system", "tools": "tools"},
        Conversation(
            (
                Message(role="system", content="You are an agent."),
                Message(role="user", content="Weather in Lima?"),
                Message(role="assistant", content="", tool_calls=[CALL]),
                Message(role="tool", content='{"sky": "clear"}'),
                Message(role="assistant", content="It is clear."),
            ),
            tools=(WEATHER_TOOL,),
        ),
    ),
    (
        "Team-ACE/ToolACE",
        [
            {
                "system": "You compose functions.",
                "conversations": said(
                    "from", "value", ("user", "Weather?"), ("assistant", "[weather()]"), ("tool", "[]")
                ),
            }
        ],
        "sharegpt",
        {"conversations": "conversations", "system": "system"},
        chat(("system", "You compose functions."), ("user", "Weather?"), ("assistant", "[weather()]"), ("tool", "[]")),
    ),
    (
        "GAIR/lima",
        [
            {"conversations": [CAPITAL, LIMA], "source": "stackexchange"},
            {"conversations": [RIVER, NILE], "source": "w"},
        ],
        "messages",
        {"messages": "conversations"},
        CAPITAL_PAIR,
    ),
    (
        "openbmb/UltraChat",
        [{"id": "0", "data": [CAPITAL, LIMA, RIVER, NILE]}],
        "messages",
        {"messages": "data"},
        FOUR,
    ),
    (
        "LDJnr/Capybara",
        [{"source": "Own", "conversation": [{"input": CAPITAL, "output": LIMA}, {"input": RIVER, "output": NILE}]}],
        "messages",
        {"messages": "conversation"},
        FOUR,
    ),
    (
        "Salesforce/wikitext",
        [{"text": ""}, {"text": " = A heading = \n"}, {"text": f" {STORY} \n"}],
        "text",
        {"text": "text"},
        None,
    ),
    (
        "wikimedia/wikipedia",
        [{"id": "12", "url": "https://en.example.org/wiki/Fox", "title": "The fox", "text": STORY}],
        "text",
        {"text": "text"},
        PlainText(STORY),
    ),
    (
        "HuggingFaceFW/fineweb",
        [
            {
                "text": STORY,
                "id": "<urn:uuid:1>",
                "dump": "CC-MAIN-2024-10",
                "url": "https://a.example/x",
                "date": "2024-02-20T10:00:00Z",
                "file_path": "s3://bucket/crawl.warc.gz",
                "language": "en",
                "language_score": 0.97,
                "token_count": 22,
            }
        ],
        "text",
        {"text": "text"},
        PlainText(STORY),
    ),
    (
        "b-mc2/sql-create-context",
        [
            {
                "answer": "SELECT COUNT(*) FROM head",
                "question": "How many heads?",
                "context": "CREATE TABLE head (age INT)",
            }
        ],
        "question_answer",
        {"question": "question", "context": "context", "answer": "answer"},
        chat(("user", "CREATE TABLE head (age INT)\n\nHow many heads?"), ("assistant", "SELECT COUNT(*) FROM head")),
    ),
    (
        "sahil2801/CodeAlpaca-20k",
        [{"instruction": "Sort a list in Python.", "input": "", "output": "sorted(values)"}],
        "alpaca",
        {"instruction": "instruction", "input": "input", "output": "output"},
        chat(("user", "Sort a list in Python."), ("assistant", "sorted(values)")),
    ),
    (
        "WizardLMTeam/WizardLM_evol_instruct_70k",
        [{"instruction": CAPITAL, "output": LIMA}],
        "alpaca",
        {"instruction": "instruction", "output": "output"},
        CAPITAL_PAIR,
    ),
    (
        "ise-uiuc/Magicoder-OSS-Instruct-75K",
        [
            {
                "lang": "python",
                "raw_index": 5,
                "index": 6,
                "seed": "def f(x): return x",
                "openai_fingerprint": "eeff13170a",
                "problem": "Write a function that adds two numbers.",
                "solution": "def add(a, b):\n    return a + b",
            }
        ],
        "question_answer",
        {"question": "problem", "answer": "solution"},
        chat(("user", "Write a function that adds two numbers."), ("assistant", "def add(a, b):\n    return a + b")),
    ),
    (
        "Open-Orca/SlimOrca",
        [
            {
                "conversations": [
                    {"from": "system", "value": "Be brief.", "weight": None},
                    {"from": "human", "value": CAPITAL, "weight": 0.0},
                    {"from": "gpt", "value": LIMA, "weight": 1.0},
                ]
            }
        ],
        "sharegpt",
        {"conversations": "conversations"},
        chat(("system", "Be brief."), *OPENAI),
    ),
    (
        "lmsys/lmsys-chat-1m",
        [
            {
                "conversation_id": "33f0",
                "model": "vicuna-33b",
                "conversation": said("content", "role", (CAPITAL, "user"), (LIMA, "assistant")),
                "turn": 1,
                "language": "English",
                "openai_moderation": [{"categories": {"hate": False}, "flagged": False}],
                "redacted": False,
            }
        ],
        "messages",
        {"messages": "conversation"},
        CAPITAL_PAIR,
    ),
    (
        "allenai/tulu-3-sft-mixture",
        [{"id": "oasst_1", "messages": said("role", "content", *OPENAI), "source": "ai2-adapt-dev/oasst1"}],
        "messages",
        {"messages": "messages"},
        CAPITAL_PAIR,
    ),
    (
        "HuggingFaceTB/smoltalk",
        [
            {
                "messages": said("content", "role", ("", "system"), (CAPITAL, "user"), (LIMA, "assistant")),
                "source": "everyday",
            }
        ],
        "messages",
        {"messages": "messages"},
        CAPITAL_PAIR,
    ),
    (
        "open-thoughts/OpenThoughts-114k",
        [{"system": "Think first.", "conversations": said("from", "value", *OPENAI)}],
        "sharegpt",
        {"conversations": "conversations", "system": "system"},
        chat(("system", "Think first."), *OPENAI),
    ),
    (
        "AI-MO/NuminaMath-CoT",
        [
            {
                "source": "synthetic",
                "problem": "2 + 2?",
                "solution": "Four.",
                "messages": said("content", "role", ("2 + 2?", "user"), ("Four.", "assistant")),
            }
        ],
        "messages",
        {"messages": "messages"},
        chat(("user", "2 + 2?"), ("assistant", "Four.")),
    ),
    (
        "GAIR/LIMO",
        [{"question": "2 + 2?", "solution": "Two and two are four.", "answer": "4"}],
        "question_answer",
        {"question": "question", "answer": "solution"},
        chat(("user", "2 + 2?"), ("assistant", "Two and two are four.")),
    ),
    (
        "Magpie-Align/Magpie-Pro-300K-Filtered",
        [
            {
                "uuid": "0e1",
                "model": "a model",
                "gen_input_configs": {"temperature": 1.0, "input_generator": "a model"},
                "instruction": CAPITAL,
                "response": LIMA,
                "conversations": said("from", "value", ("human", CAPITAL), ("gpt", LIMA)),
                "task_category": "Information seeking",
                "instruct_reward": -2.1,
            }
        ],
        "sharegpt",
        {"conversations": "conversations"},
        CAPITAL_PAIR,
    ),
    (
        "BelleGroup/train_1M_CN",
        [{"instruction": "秘鲁的首都是哪里？", "input": "", "output": "秘鲁的首都是利马。"}],
        "alpaca",
        {"instruction": "instruction", "input": "input", "output": "output"},
        chat(("user", "秘鲁的首都是哪里？"), ("assistant", "秘鲁的首都是利马。")),
    ),
    (
        "YeungNLP/firefly-train-1.1M",
        [{"kind": "NLI", "input": "秘鲁的首都是哪里？", "target": "秘鲁的首都是利马。"}],
        "question_answer",
        {"question": "input", "answer": "target"},
        chat(("user", "秘鲁的首都是哪里？"), ("assistant", "秘鲁的首都是利马。")),
    ),
    (
        "m-a-p/COIG-CQIA",
        [
            {
                "instruction": "秘鲁的首都是哪里？",
                "input": "",
                "output": "利马。",
                "task_type": {"major": ["问答"], "minor": ["百科"]},
                "domain": ["通用"],
                "metadata": "x",
                "answer_from": "human",
                "human_verified": True,
                "copyright": "a",
            }
        ],
        "alpaca",
        {"instruction": "instruction", "input": "input", "output": "output"},
        chat(("user", "秘鲁的首都是哪里？"), ("assistant", "利马。")),
    ),
    (
        "CohereForAI/aya_dataset",
        [
            {
                "inputs": CAPITAL,
                "targets": LIMA,
                "language": "English",
                "language_code": "eng",
                "annotation_type": "original-annotations",
                "user_id": "f0ff69",
            }
        ],
        "question_answer",
        {"question": "inputs", "answer": "targets"},
        CAPITAL_PAIR,
    ),
    (
        "nvidia/HelpSteer2",
        [{"prompt": CAPITAL, "response": LIMA, "helpfulness": 4, "correctness": 4, "verbosity": 1}],
        "question_answer",
        {"question": "prompt", "answer": "response"},
        CAPITAL_PAIR,
    ),
    (
        "FreedomIntelligence/medical-o1-reasoning-SFT",
        [{"Question": CAPITAL, "Complex_CoT": "Peru is in South America.", "Response": LIMA}],
        "question_answer",
        {"question": "Question", "answer": "Response"},
        CAPITAL_PAIR,
    ),
    (
        "Amod/mental_health_counseling_conversations",
        [{"Context": "I sleep badly and worry a lot.", "Response": "How long has that been so?"}],
        "question_answer",
        {"question": "Context", "answer": "Response"},
        chat(("user", "I sleep badly and worry a lot."), ("assistant", "How long has that been so?")),
    ),
    (
        "heliosbrahma/mental_health_chatbot_dataset",
        [{"text": f"<HUMAN>: {CAPITAL}\n<ASSISTANT>: {LIMA}"}],
        "transcript",
        {"text": "text"},
        CAPITAL_PAIR,
    ),
    (
        "nvidia/Llama-Nemotron-Post-Training-Dataset",
        [
            {
                "input": [{"role": "user", "content": CAPITAL}],
                "output": LIMA,
                "category": "chat",
                "license": "cc-by-4.0",
                "reasoning": "off",
                "system_prompt": "detailed thinking off",
            }
        ],
        "prompt_completion",
        {"prompt": "input", "completion": "output", "system": "system_prompt"},
        chat(("system", "detailed thinking off"), *OPENAI),
    ),
    (
        "openchat/openchat_sharegpt4_dataset",
        [{"id": "1", "items": said("from", "value", *TURNS)}],
        "sharegpt",
        {"conversations": "items"},
        FOUR,
    ),
    (
        "hiyouga/LLaMA-Factory alpaca with history",
        [
            {"instruction": RIVER, "input": "", "output": NILE, "system": "", "history": [[CAPITAL, LIMA]]},
            {"instruction": CAPITAL, "input": "", "output": LIMA, "system": "", "history": []},
        ],
        "alpaca",
        {"instruction": "instruction", "input": "input", "output": "output", "history": "history", "system": "system"},
        FOUR,
    ),
    (
        "OpenAI chat fine-tuning with tools",
        [
            {
                "messages": [
                    {"role": "user", "content": "Weather in Lima?"},
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "call_1",
                                "type": "function",
                                "function": {"name": "get_weather", "arguments": '{"city": "Lima"}'},
                            }
                        ],
                    },
                    {"role": "tool", "tool_call_id": "call_1", "content": "clear"},
                    {"role": "assistant", "content": "It is clear."},
                ],
                "tools": [WEATHER_TOOL],
                "parallel_tool_calls": False,
            }
        ],
        "messages",
        {"messages": "messages", "tools": "tools"},
        Conversation(
            (
                Message(role="user", content="Weather in Lima?"),
                Message(role="assistant", content="", tool_calls=[{"id": "call_1", **CALL}]),
                Message(role="tool", content="clear", tool_call_id="call_1"),
                Message(role="assistant", content="It is clear."),
            ),
            tools=(WEATHER_TOOL,),
        ),
    ),
]


@pytest.mark.parametrize(
    ("rows", "row_format", "columns", "example"), [shape[1:] for shape in SHAPES], ids=[s[0] for s in SHAPES]
)
def test_a_public_dataset_is_recognised_with_its_columns(
    rows: Rows, row_format: str, columns: dict[str, str], example: object
) -> None:
    mapping = detect_mapping(rows)
    assert (mapping.format, mapping.columns) == (row_format, columns)
    if example is not None:
        assert to_example(rows[0], mapping) == example
    used = {path if path in rows[0] else path.split(".")[0] for path in columns.values()}
    assert mapping.unused_columns == sorted(rows[0].keys() - used)


REVIEW = "The film is too long, but the music and the pictures are worth the evening."
OASST = {"user_id": "u", "lang": "en", "deleted": False, "rank": None, "emojis": {"name": ["+1"], "count": [1]}}
LABEL_COUNTS = {"name": ["spam", "quality"], "value": [0.0, 0.7], "count": [3, 3]}

# name, rows, proposed format, proposed columns (none: by code alone), what the code makes of the rows
REFUSED: list[tuple[str, Rows, str, dict[str, str], list[dict[str, Any]]]] = [
    (
        "rajpurkar/squad",
        [
            {
                "id": "57",
                "title": "Peru",
                "context": "Lima is the capital.",
                "question": CAPITAL,
                "answers": {"text": ["Lima"], "answer_start": [0]},
            }
        ],
        "question_answer",
        {"context": "context", "question": "question", "answer": "answers.text.0"},
        [{"context": "Lima is the capital.", "question": CAPITAL, "answer": "Lima"}],
    ),
    (
        "google-research-datasets/nq_open",
        [{"question": CAPITAL, "answer": ["Lima", "Lima, Peru"]}],
        "question_answer",
        {"question": "question", "answer": "answer.0"},
        [{"question": CAPITAL, "answer": "Lima"}],
    ),
    (
        "OpenAssistant/oasst1",
        [
            {
                "message_id": "a",
                "parent_id": None,
                "text": CAPITAL,
                "role": "prompter",
                "labels": LABEL_COUNTS,
                **OASST,
            },
            {"message_id": "b", "parent_id": "a", "text": LIMA, "role": "assistant", "labels": LABEL_COUNTS, **OASST},
            {
                "message_id": "c",
                "parent_id": "a",
                "text": "Lima.",
                "role": "assistant",
                "labels": LABEL_COUNTS,
                **OASST,
            },
            {"message_id": "d", "parent_id": "b", "text": RIVER, "role": "prompter", "labels": None, **OASST},
        ],
        "messages",
        {},
        [
            {"messages": said("role", "content", ("user", CAPITAL), ("assistant", "Lima."))},
            {"messages": said("role", "content", ("user", CAPITAL), ("assistant", LIMA))},
        ],
    ),
    (
        "stanfordnlp/imdb",
        [{"text": REVIEW, "label": 0}, {"text": STORY, "label": 1}],
        "question_answer",
        {},
        [{"question": REVIEW, "answer": "0"}, {"question": STORY, "answer": "1"}],
    ),
    (
        "fancyzhx/ag_news",
        [{"text": REVIEW, "label": 2}],
        "question_answer",
        {},
        [{"question": REVIEW, "answer": "2"}],
    ),
    (
        "text with labels in words",
        [{"text": REVIEW, "label": "negative"}, {"text": STORY, "label": "positive"}],
        "question_answer",
        {"question": "text", "answer": "label"},
        [{"question": REVIEW, "answer": "negative"}, {"question": STORY, "answer": "positive"}],
    ),
    (
        "nyu-mll/glue mnli",
        [{"premise": "It rains.", "hypothesis": "It is dry.", "label": 2, "idx": 0}],
        "question_answer",
        {},
        [{"question": "It rains.\n\nIt is dry.", "answer": "2"}],
    ),
    (
        "Samsung/samsum",
        [{"id": "138", "dialogue": "Ann: Lunch at noon?\r\nBo: I'd love to.", "summary": "Ann and Bo will lunch."}],
        "question_answer",
        {"question": "dialogue", "answer": "summary"},
        [{"question": "Ann: Lunch at noon?\r\nBo: I'd love to.", "answer": "Ann and Bo will lunch."}],
    ),
    (
        "abisee/cnn_dailymail",
        [{"article": STORY, "highlights": "A fox slept.", "id": "f0"}],
        "question_answer",
        {"question": "article", "answer": "highlights"},
        [{"question": STORY, "answer": "A fox slept."}],
    ),
    (
        "EdinburghNLP/xsum",
        [{"document": STORY, "summary": "A fox slept.", "id": "3"}],
        "question_answer",
        {"question": "document", "answer": "summary"},
        [{"question": STORY, "answer": "A fox slept."}],
    ),
    (
        "FiscalNote/billsum",
        [{"text": STORY, "summary": "A fox slept.", "title": "An act about foxes"}],
        "question_answer",
        {"question": "text", "answer": "summary"},
        [{"question": STORY, "answer": "A fox slept."}],
    ),
    (
        "wmt/wmt14",
        [{"translation": {"de": "Guten Morgen, liebe Welt.", "en": "Good morning, dear world."}}],
        "question_answer",
        {"question": "translation.de", "answer": "translation.en"},
        [{"question": "Guten Morgen, liebe Welt.", "answer": "Good morning, dear world."}],
    ),
    (
        "cais/mmlu",
        [{"question": CAPITAL, "subject": "geography", "choices": ["Cusco", "Lima", "Quito"], "answer": 1}],
        "question_answer",
        {},
        [{"question": f"{CAPITAL}\nA. Cusco\nB. Lima\nC. Quito", "answer": "B. Lima"}],
    ),
    (
        "allenai/ai2_arc",
        [
            {
                "id": "M1",
                "question": CAPITAL,
                "choices": {"text": ["Cusco", "Lima"], "label": ["A", "B"]},
                "answerKey": "B",
            }
        ],
        "question_answer",
        {},
        [{"question": f"{CAPITAL}\nA. Cusco\nB. Lima", "answer": "B. Lima"}],
    ),
    (
        "openlifescienceai/medmcqa",
        [
            {"id": "1", "question": CAPITAL, "opa": "Cusco", "opb": "Lima", "opc": "Quito", "opd": "Ica", "cop": 1},
            {"id": "2", "question": RIVER, "opa": "Nile", "opb": "Po", "opc": "Rhine", "opd": "Ob", "cop": 0},
        ],
        "question_answer",
        {},
        [
            {"question": f"{CAPITAL}\nA. Cusco\nB. Lima\nC. Quito\nD. Ica", "answer": "B. Lima"},
            {"question": f"{RIVER}\nA. Nile\nB. Po\nC. Rhine\nD. Ob", "answer": "A. Nile"},
        ],
    ),
    (
        "google/boolq",
        [{"question": "is lima the capital of peru", "answer": True, "passage": "Lima is the capital."}],
        "question_answer",
        {},
        [{"context": "Lima is the capital.", "question": "is lima the capital of peru", "answer": "true"}],
    ),
    (
        "hotpotqa/hotpot_qa",
        [
            {
                "id": "5a",
                "question": CAPITAL,
                "answer": "Lima",
                "type": "bridge",
                "context": {"title": ["Peru"], "sentences": [["Peru is large.", "Its capital is Lima."]]},
            }
        ],
        "question_answer",
        {},
        [{"context": "Peru\nPeru is large.\nIts capital is Lima.", "question": CAPITAL, "answer": "Lima"}],
    ),
    (
        "lmsys/chatbot_arena_conversations",
        [
            {
                "question_id": "1",
                "model_a": "x",
                "model_b": "y",
                "winner": winner,
                "conversation_a": said("role", "content", ("user", CAPITAL), ("assistant", "Cusco.")),
                "conversation_b": said("role", "content", *OPENAI),
            }
            for winner in ("model_b", "model_a", "tie")
        ],
        "messages",
        {},
        [
            {"messages": said("role", "content", *OPENAI)},
            {"messages": said("role", "content", ("user", CAPITAL), ("assistant", "Cusco."))},
        ],
    ),
    (
        "PKU-Alignment/PKU-SafeRLHF",
        [
            {"prompt": CAPITAL, "response_0": LIMA, "response_1": "I do not know.", "better_response_id": 0},
            {"prompt": RIVER, "response_0": "The Po, I think.", "response_1": NILE, "better_response_id": 1},
        ],
        "question_answer",
        {},
        [{"question": CAPITAL, "answer": LIMA}, {"question": RIVER, "answer": NILE}],
    ),
    (
        "trl-lib/kto unpaired preferences",
        [
            {"prompt": CAPITAL, "completion": LIMA, "label": True},
            {"prompt": CAPITAL, "completion": "Cusco.", "label": False},
        ],
        "prompt_completion",
        {},
        [{"prompt": CAPITAL, "completion": LIMA}],
    ),
    (
        "trl-lib/kto with turns",
        [
            {
                "prompt": said("role", "content", ("user", CAPITAL)),
                "completion": said("role", "content", ("assistant", answer)),
                "label": answer == LIMA,
            }
            for answer in (LIMA, "Cusco.")
        ],
        "prompt_completion",
        {},
        [
            {
                "prompt": said("role", "content", ("user", CAPITAL)),
                "completion": said("role", "content", ("assistant", LIMA)),
            }
        ],
    ),
    (
        "marked chats",
        [
            {"messages": said("role", "content", *OPENAI), "label": True},
            {"messages": said("role", "content", ("user", CAPITAL), ("assistant", "Cusco.")), "label": False},
        ],
        "messages",
        {},
        [{"messages": said("role", "content", *OPENAI)}],
    ),
    (
        "kto pairs from a CSV file",
        [
            {"prompt": CAPITAL, "completion": LIMA, "label": "True"},
            {"prompt": CAPITAL, "completion": "Cusco.", "label": "False"},
        ],
        "prompt_completion",
        {},
        [{"prompt": CAPITAL, "completion": LIMA}],
    ),
    (
        "google-research-datasets/mbpp",
        [{"task_id": 1, "text": "Write a function that adds.", "code": "def add(a, b):\n    return a + b\n"}],
        "question_answer",
        {"question": "text", "answer": "code"},
        [{"question": "Write a function that adds.", "answer": "def add(a, b):\n    return a + b\n"}],
    ),
    (
        "codeparrot/apps",
        [{"question": "Write a program that adds.", "solutions": '["print(1)", "print(2)"]', "input_output": "{}"}],
        "question_answer",
        {"question": "question", "answer": "solutions.0"},
        [{"question": "Write a program that adds.", "answer": "print(1)"}],
    ),
    (
        "microsoft/wiki_qa",
        [
            {"question_id": "Q1", "question": CAPITAL, "document_title": "Peru", "answer": LIMA, "label": 1},
            {"question_id": "Q1", "question": CAPITAL, "document_title": "Peru", "answer": NILE, "label": 0},
        ],
        "question_answer",
        {},
        [{"question": CAPITAL, "answer": LIMA}],
    ),
    (
        "ehovy/race",
        [{"example_id": "h1", "article": STORY, "answer": "B", "question": "Where?", "options": ["A barn", "An oak"]}],
        "question_answer",
        {},
        [{"question": f"{STORY}\n\nWhere?\nA. A barn\nB. An oak", "answer": "B. An oak"}],
    ),
    (
        "qiaojin/PubMedQA",
        [
            {
                "pubid": 1,
                "question": CAPITAL,
                "context": {"contexts": ["Peru is large."], "labels": ["BACKGROUND"]},
                "long_answer": LIMA,
                "final_decision": "yes",
            }
        ],
        "question_answer",
        {},
        [{"context": "Peru is large.\nBACKGROUND", "question": CAPITAL, "answer": LIMA}],
    ),
    (
        "ucinlp/drop",
        [
            {
                "section_id": "n",
                "passage": STORY,
                "question": "Where did the fox sleep?",
                "answers_spans": {"spans": ["under an oak"], "types": ["span"]},
            }
        ],
        "question_answer",
        {"context": "passage", "question": "question", "answer": "answers_spans.spans.0"},
        [{"context": STORY, "question": "Where did the fox sleep?", "answer": "under an oak"}],
    ),
    (
        "speakers with names of their own",
        [{"dialogue": said("speaker", "text", ("Ann", CAPITAL), ("Bo", LIMA), ("Ann", RIVER))}],
        "messages",
        {},
        [{"messages": said("role", "content", ("user", CAPITAL), ("assistant", LIMA), ("user", RIVER))}],
    ),
    (
        "yizhongw/self_instruct seed tasks",
        [{"id": "seed_1", "name": "capital", "instruction": CAPITAL, "instances": [{"input": "", "output": LIMA}]}],
        "alpaca",
        {"instruction": "instruction", "input": "instances.0.input", "output": "instances.0.output"},
        [{"instruction": CAPITAL, "input": "", "output": LIMA}],
    ),
    (
        "no header",
        [{"0": CAPITAL, "1": LIMA}, {"0": RIVER, "1": NILE}],
        "question_answer",
        {"question": "0", "answer": "1"},
        [{"question": CAPITAL, "answer": LIMA}, {"question": RIVER, "answer": NILE}],
    ),
    (
        "other languages",
        [{"id": 1, "antwort": LIMA, "frage": CAPITAL, "datum": "2024-02-03"}],
        "question_answer",
        {"question": "frage", "answer": "antwort"},
        [{"question": CAPITAL, "answer": LIMA}],
    ),
    (
        "gretelai/synthetic_text_to_sql",
        [
            {
                "id": 5,
                "domain": "forestry",
                "sql_prompt": "How many trees are there?",
                "answer_sql": "SELECT COUNT(*) FROM trees",
            }
        ],
        "question_answer",
        {"question": "sql_prompt", "answer": "answer_sql"},
        [{"question": "How many trees are there?", "answer": "SELECT COUNT(*) FROM trees"}],
    ),
    (
        "camel-ai/math",
        [{"role_1": "Mathematician_12", "topic;": "Algebra", "message_1": CAPITAL, "message_2": LIMA}],
        "question_answer",
        {"question": "message_1", "answer": "message_2"},
        [{"question": CAPITAL, "answer": LIMA}],
    ),
    (
        "HuggingFaceTB/cosmopedia",
        [{"prompt": "Write a tale of a fox.", "text_token_length": 40, "text": STORY, "format": "blogpost"}],
        "question_answer",
        {"question": "prompt", "answer": "text"},
        [{"question": "Write a tale of a fox.", "answer": STORY}],
    ),
    (
        "defunct-datasets/eli5",
        [{"q_id": "5l", "title": CAPITAL, "selftext": "", "answers": {"a_id": ["d1"], "text": [LIMA], "score": [9]}}],
        "question_answer",
        {"question": "title", "answer": "answers.text.0"},
        [{"question": CAPITAL, "answer": LIMA}],
    ),
]


@pytest.mark.parametrize(
    ("rows", "row_format", "columns", "converted"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_a_dataset_of_another_task_is_refused_with_a_mapping_and_code_that_runs(
    tmp_path: Path, rows: Rows, row_format: str, columns: dict[str, str], converted: Rows
) -> None:
    with pytest.raises(UnknownFormatError) as caught:
        detect_mapping(rows)
    proposal = caught.value.proposal
    assert proposal is not None
    assert (proposal.format, proposal.columns) == (row_format, columns)
    assert proposal.reason in caught.value.next_step
    made = converted_by(proposal.code, rows, tmp_path)
    assert made == converted
    mapping = detect_mapping(made)
    assert mapping.format == row_format
    if columns:
        read = detect_mapping(rows, row_format=row_format, columns=columns)
        assert [to_example(row, read) for row in rows] == [to_example(row, mapping) for row in made]


def converted_by(code: str, rows: Rows, folder: Path) -> Rows:
    (folder / "convert.py").write_text(code, encoding="utf-8")
    source = folder / "source.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [sys.executable, "convert.py", "source.jsonl", "target.jsonl"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert "rows written" in done.stdout
    return [json.loads(line) for line in (folder / "target.jsonl").read_text(encoding="utf-8").splitlines()]
