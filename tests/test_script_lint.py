"""Every rule about other people's scripts finds its fault, a good script has none, and hostile files are refused."""

import json
import re
import time
from pathlib import Path

import pytest

from qlora_tools.errors import UsageError
from qlora_tools.foreign import lint_script
from qlora_tools.foreign.calls import Call, read_script
from qlora_tools.foreign.lint_rules import RULES
from qlora_tools.guide import read_topic
from qlora_tools.results import LintFinding, LintResult

IMPORTS = """\
import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments, set_seed
from transformers import DataCollatorForLanguageModeling
from trl import SFTConfig, SFTTrainer
"""
BITS = (
    'bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
    "bnb_4bit_compute_dtype=torch.bfloat16)\n"
)
BASE = 'model = AutoModelForCausalLM.from_pretrained("owner/model", quantization_config=bits, dtype=torch.bfloat16)\n'
TOKENIZER = 'tokenizer = AutoTokenizer.from_pretrained("owner/model")\n'
ADAPTER = 'adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")\n'
ARGUMENTS = (
    'arguments = SFTConfig(output_dir="out", learning_rate=2e-4, max_length=1024, optim="paged_adamw_8bit", '
    'warmup_steps=0.03, eval_strategy="no")\n'
)
TRAINER = (
    "trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer, "
    "peft_config=adapter)\ntrainer.train()\n"
)
ROWS = 'rows = load_dataset("json", data_files="rows.jsonl", split="train")\n'
GOOD = IMPORTS + BITS + BASE + TOKENIZER + ADAPTER + ROWS + ARGUMENTS + TRAINER
PLAIN_ARGUMENTS = (
    'arguments = TrainingArguments(output_dir="out", learning_rate=2e-4, optim="paged_adamw_8bit", bf16=True, '
    "gradient_checkpointing=True)\n"
)
PLAIN = (
    IMPORTS + BITS + BASE + TOKENIZER + ADAPTER + ROWS + "set_seed(42)\nmodel = get_peft_model(model, adapter)\n"
    "" + PLAIN_ARGUMENTS + "trainer = Trainer(model=model, args=arguments, train_dataset=rows)\ntrainer.train()\n"
)
COLLATOR = "collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)\n"
ANSWER_TEXT = 'def text(row):\n    return {"text": f"### Question:\\n{row[0]}\\n### Answer:\\n{row[1]}"}\n'
PADDED = (
    'def tokens(row):\n    found = tokenizer(row["text"], padding="max_length")\n'
    '    found["labels"] = found["input_ids"].copy()\n    return found\n'
)


def changed(before: str, after: str, script: str = GOOD) -> str:
    assert before in script
    return script.replace(before, after)


# Rule -> a script with that fault and no other that is worse than a note, and what may be written instead.
CASES: list[tuple[str, str, str | None]] = [
    ("removed-argument", changed("eval_strategy", "evaluation_strategy"), 'eval_strategy="no"'),
    ("removed-argument", changed("warmup_steps=0.03", "warmup_ratio=0.03"), "warmup_steps=0.03"),
    ("removed-argument", changed("warmup_steps=0.03", "overwrite_output_dir=True"), ""),
    (
        "removed-argument",
        changed("warmup_steps=0.03", "group_by_length=True"),
        'train_sampling_strategy="group_by_length"',
    ),
    ("removed-argument", changed("max_length=1024", "max_seq_length=1024"), "max_length=1024"),
    ("removed-argument", changed("processing_class=", "tokenizer="), "processing_class=tokenizer"),
    ("removed-argument", changed("train_dataset=rows", "train_dataset=rows, packing=True"), None),
    ("removed-loading-argument", changed("dtype=torch.bfloat16)", 'use_auth_token="x")'), None),
    (
        "removed-loading-argument",
        changed("quantization_config=bits", "load_in_4bit=True"),
        'quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
        "bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16)",
    ),
    ("stale-attribute", changed("trainer =", "arguments.max_seq_length = 64\ntrainer ="), "arguments.max_length = 64"),
    ("removed-name", GOOD + "from transformers import AdamW\n", None),
    ("removed-name", "import trl\n" + GOOD + 'trl.setup_chat_format("x")\n', None),
    ("removed-token-argument", GOOD + 'load_dataset("x", use_auth_token=True)\n', "token=True"),
    ("unknown-argument", changed("learning_rate", "learning_rates"), None),
    ("unknown-argument", changed("(model, adapter)", "(model, lora_config=adapter)", PLAIN), None),
    ("renamed-dtype", changed("bits, dtype=", "bits, torch_dtype="), "dtype=torch.bfloat16"),
    ("fp4", changed('bnb_4bit_quant_type="nf4", ', ""), 'load_in_4bit=True, bnb_4bit_quant_type="nf4"'),
    ("fp4", changed('"nf4"', '"fp4"'), 'bnb_4bit_quant_type="nf4"'),
    (
        "no-double-quantisation",
        changed("double_quant=True", "double_quant=False"),
        "bnb_4bit_use_double_quant=True",
    ),
    ("fp32-compute", changed(", bnb_4bit_compute_dtype=torch.bfloat16", ""), None),
    ("eight-bit-base", changed("load_in_4bit=True", "load_in_8bit=True"), None),
    ("not-quantised", changed("load_in_4bit=True", "load_in_4bit=False"), "load_in_4bit=True"),
    ("fp16-and-bf16", changed("bf16=True", "bf16=True, fp16=True", PLAIN), None),
    (
        "compute-dtype",
        changed("compute_dtype=torch.bfloat16", "compute_dtype=torch.float16").replace(
            "dtype=torch.bfloat16)\n", ")\n"
        ),
        "bnb_4bit_compute_dtype=torch.bfloat16",
    ),
    ("compute-dtype", changed("bf16=True", "fp16=True", PLAIN), "bf16=True"),
    ("weights-dtype", changed("bits, dtype=torch.bfloat16", "bits, dtype=torch.float16"), "dtype=torch.bfloat16"),
    ("trl-fp16", changed("warmup_steps=0.03", "fp16=True"), "bf16=True"),
    (
        "bf16-emulation",
        GOOD + "half = torch.cuda.is_bf16_supported()\n",
        "is_bf16_supported(including_emulation=False)",
    ),
    ("fp32-upcast", GOOD + "model = prepare_model_for_kbit_training(model)\n", None),
    (
        "fp32-upcast",
        GOOD.replace(BITS, "").replace("quantization_config=bits, ", "") + "prepare_model_for_kbit_training(model)\n",
        None,
    ),
    ("optimiser-32-bit", changed("paged_adamw_8bit", "adamw_torch"), 'optim="paged_adamw_8bit"'),
    ("optimiser-gone", changed("paged_adamw_8bit", "adamw_hf"), 'optim="paged_adamw_8bit"'),
    ("learning-rate", changed("2e-4", "2e-5"), "learning_rate=2e-4"),
    ("learning-rate", changed("2e-4", "1e-2"), "learning_rate=2e-4"),
    ("learning-rate", changed("learning_rate=2e-4, ", ""), None),
    ("best-model", changed("bf16=True", 'bf16=True, load_best_model_at_end=True, eval_strategy="epoch"', PLAIN), None),
    ("auto-find-batch-size", changed("warmup_steps=0.03", "auto_find_batch_size=True"), "auto_find_batch_size=False"),
    (
        "reentrant",
        changed("warmup_steps=0.03", 'gradient_checkpointing_kwargs={"use_reentrant": True}'),
        'gradient_checkpointing_kwargs={"use_reentrant": False}',
    ),
    ("no-checkpointing", changed("gradient_checkpointing=True", "gradient_checkpointing=False", PLAIN), None),
    ("no-checkpointing", changed(", gradient_checkpointing=True", "", PLAIN).replace("bf16=True,", "bf16=True"), None),
    (
        "cache-in-training",
        IMPORTS + BITS + BASE + "model.gradient_checkpointing_enable()\nloss = model(rows).loss\nloss.backward()\n",
        None,
    ),
    ("device-map", changed("quantization_config=bits", 'quantization_config=bits, device_map="auto"'), None),
    ("no-seed", changed("set_seed(42)\n", "", PLAIN), None),
    ("no-seed", changed(ROWS, ROWS + "rows = rows.train_test_split(test_size=0.1)\n"), None),
    ("adapter-targets", changed('"all-linear"', '["q_proj", "v_proj"]'), 'target_modules="all-linear"'),
    ("adapter-targets", changed('target_modules="all-linear", ', ""), None),
    ("adapter-strength", changed("lora_alpha=32", "lora_alpha=256"), "lora_alpha=32"),
    ("adapter-bias", changed("r=16", 'r=16, bias="all"'), 'bias="none"'),
    ("adapter-frozen", changed("r=16", "r=16, inference_mode=True"), "inference_mode=False"),
    (
        "adapter-frozen",
        changed("model = get_peft_model(model, adapter)", 'model = PeftModel.from_pretrained(model, "out")', PLAIN),
        None,
    ),
    ("adapter-twice", changed("trainer =", "set_seed(1)\nmodel = get_peft_model(model, adapter)\ntrainer ="), ""),
    ("adapter-initialisation", changed("r=16", 'r=16, init_lora_weights="pissa"'), "init_lora_weights=True"),
    ("adapter-on-head", changed('"all-linear"', '["up_proj", "lm_head"]'), "target_modules=['up_proj']"),
    ("embeddings-trained", changed("r=16", 'r=16, modules_to_save=["lm_head"]'), None),
    ("merge-in-4-bit", GOOD + "merged = trainer.model.merge_and_unload()\n", None),
    (
        "merge-in-4-bit",
        GOOD + 'model = PeftModel.from_pretrained(model, "out")\nmodel = model.merge_and_unload()\n',
        None,
    ),
    ("adapter-order", GOOD + 'PeftModel.from_pretrained("out", model)\n', None),
    ("pad-is-eos", PLAIN + "tokenizer.pad_token = tokenizer.eos_token\n" + COLLATOR, None),
    ("pad-is-eos", PLAIN + 'tokenizer.add_special_tokens({"pad_token": tokenizer.eos_token})\n' + COLLATOR, None),
    (
        "pad-is-eos",
        PLAIN + "tokenizer.pad_token = tokenizer.eos_token\nlabels[labels == tokenizer.pad_token_id] = -100\n",
        None,
    ),
    ("no-eos", PLAIN + ANSWER_TEXT, None),
    ("whole-prompt-loss", PLAIN + COLLATOR, None),
    ("whole-prompt-loss", changed("max_length=1024", 'max_length=1024, dataset_text_field="text"'), None),
    (
        "mask-without-completions",
        changed("max_length=1024", 'max_length=1024, dataset_text_field="text", completion_only_loss=True'),
        None,
    ),
    ("masked-language-model", PLAIN + "collator = DataCollatorForLanguageModeling(tokenizer)\n", None),
    ("padding-learnt", PLAIN + PADDED, None),
    (
        "formatting-list",
        changed("trainer =", "def text(rows):\n    texts = []\n    return texts\ntrainer =").replace(
            "peft_config=adapter", "peft_config=adapter, formatting_func=text"
        ),
        None,
    ),
    ("rows-cut", changed("max_length=1024, ", ""), None),
    (
        "packing",
        changed("warmup_steps=0.03", 'packing=True, packing_strategy="wrapped"'),
        'packing_strategy="bfd"',
    ),
    ("remote-code", changed('("owner/model")', '("owner/model", trust_remote_code=True)'), "trust_remote_code=False"),
    ("pickle", GOOD + 'torch.load("x.bin", weights_only=False)\n', "weights_only=True"),
    ("pickle", "import pickle\n" + GOOD + "rows = pickle.load(file)\n", None),
    ("pickled-weights", GOOD + 'model.save_pretrained("x", safe_serialization=False)\n', "safe_serialization=True"),
    ("pickled-weights", GOOD + 'torch.save(model.state_dict(), "x.pt")\n', None),
    ("made-up-code", "import os\n" + GOOD + 'os.system(f"ls {name}")\n', None),
    ("made-up-code", GOOD + "rows = eval(text)\n", None),
    ("secret", GOOD + 'key = "hf_' + "aB3dE5gH7jK9mN1pQ3sT5vW7" + '"\n', None),
    ("secret", "import wandb\n" + GOOD + 'wandb.login(key="' + "0a1b2c3d" * 5 + '")\n', None),
]


def of_rule(result: LintResult, rule: str) -> list[LintFinding]:
    return [finding for finding in result.findings if finding.rule == rule]


@pytest.mark.parametrize(
    ("rule", "script", "replacement"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
def test_a_rule_finds_its_fault_and_no_worse_one_is_made_up(rule: str, script: str, replacement: str | None) -> None:
    result = lint_script(script, name="train.py")
    (found, *_) = of_rule(result, rule)
    assert replacement is None or found.replacement == replacement
    assert found.what and found.why and found.fix
    assert 1 <= found.line <= found.end_line <= script.count("\n") + 1
    others = {item.rule for item in result.findings if item.severity != "note"} - {rule}
    assert others <= COMPANIONS.get(rule, set())
    if found.given and found.replacement:
        mended = lint_script(script.replace(found.given, found.replacement))
        assert [item for item in of_rule(mended, rule) if item.line == found.line] == []


# Faults that come in company: what is planted for one is really another one too.
COMPANIONS = {
    "trl-fp16": {"compute-dtype"},
    "compute-dtype": {"weights-dtype"},
    "fp16-and-bf16": {"compute-dtype"},
    "fp32-upcast": {"adapter-twice"},
    "removed-loading-argument": {"fp32-compute"},
    "unknown-argument": {"learning-rate"},
    "pad-is-eos": {"no-eos"},
}


def test_every_rule_has_a_case() -> None:
    assert {rule.name for rule in RULES} == {case[0] for case in CASES}
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("script", [GOOD, PLAIN], ids=["trl", "trainer"])
def test_a_good_script_has_nothing_to_mend(script: str) -> None:
    result = lint_script(script)
    assert (result.kind, result.findings, result.not_checked) == ("qlora", [], [])


def test_what_is_unknown_is_passed_over() -> None:
    script = changed("learning_rate=2e-4", "learning_rate=rate()").replace("lora_alpha=32", "lora_alpha=alpha()")
    script = script.replace("load_in_4bit=True, ", "**options, ").replace('optim="paged_adamw_8bit"', "optim=name")
    result = lint_script(script)
    assert result.findings == []
    assert "`**`" in result.not_checked[0]


@pytest.mark.parametrize(
    "harmless",
    [
        "tokenizer.pad_token = tokenizer.eos_token\n",  # TRL hides padding by length
        'def ask(row):\n    return f"### Question:\\n{row}\\n### Answer:\\n"\n',  # a prompt has no end
        "class RewardConfig:\n    pass\nRewardConfig(fp16=True, bf16=True, optim='adamw_hf')\n",
        'model = AutoModelForCausalLM.from_pretrained("m")\nmodel = PeftModel.from_pretrained(model, "out")\n'
        "model = model.merge_and_unload()\n",
        'key = "hf_xxxxxxxxxxxxxxxxxxxxxxxx"\n',
        'torch.load("x.bin")\n',
        'import subprocess\nsubprocess.run(["ls", name])\n',
        'text = "evaluation_strategy=1"  # tokenizer=tokenizer\n',
    ],
)
def test_what_only_looks_like_a_fault_is_none(harmless: str) -> None:
    assert lint_script(GOOD + harmless).findings == []


def test_a_merge_in_another_function_is_not_taken_for_one_into_the_loaded_base() -> None:
    merge = "def merge(model):\n    return model.merge_and_unload()\n"
    assert of_rule(lint_script(GOOD + merge), "merge-in-4-bit") == []


def test_unsloths_scripts_are_read_with_what_is_not_checked() -> None:
    script = (
        "from unsloth import FastLanguageModel\n"
        'model, tokenizer = FastLanguageModel.from_pretrained("m", load_in_4bit=True, max_seq_length=2048)\n'
        "model = FastLanguageModel.get_peft_model(model, r=16)\n"
        "from trl import SFTTrainer\n"
        "trainer = SFTTrainer(model=model, tokenizer=tokenizer, max_seq_length=2048)\n"
    )
    result = lint_script(script)
    assert (result.kind, result.errors) == ("qlora", 0)
    assert "Unsloth" in result.not_checked[0]


def test_a_file_that_trains_nothing_is_told_so() -> None:
    result = lint_script("print(1)\n", name="x.py")
    assert [(item.rule, item.severity) for item in result.findings] == [("no-training", "note")]
    assert result.kind == "other"


def test_a_secret_is_never_shown() -> None:
    secret = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vW7"
    script = changed("dtype=torch.bfloat16)", f'use_auth_token="{secret}", trust_remote_code=True)')
    result = lint_script(script)
    assert of_rule(result, "secret") and secret not in result.model_dump_json()


def test_hostile_text_is_shown_without_control_characters() -> None:
    script = changed('eval_strategy="no"', 'evaluation_strategy="\x1b[31m\u202eno\u2066"')
    (found,) = of_rule(lint_script(script, name="a\x1b[2J.py"), "removed-argument")
    assert not re.search("[\x1b\u202e\u2066]", found.model_dump_json())
    assert found.replacement is None  # it would not be what stood there


def test_findings_of_a_notebook_name_the_cell() -> None:
    cells = ["!pip install trl\n", IMPORTS + BITS + BASE, "%%bash\nls", "x = !ls\n" + changed("eval_s", "evaluation_s")]
    document = {"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]}
    result = lint_script(json.dumps(document), name="train.ipynb")
    (found,) = of_rule(result, "removed-argument")
    assert found.where.startswith("code cell 4, line ")


def test_a_cell_that_is_no_python_is_passed_over_and_named() -> None:
    cells = ["print 'old'", GOOD]
    document = {"cells": [{"cell_type": "code", "source": cell} for cell in cells]}
    result = lint_script(json.dumps(document), name="train.ipynb")
    assert result.errors == 0 and "Code cells 1" in result.not_checked[0]


@pytest.mark.parametrize(
    "text",
    [
        "print 'old Python'",
        "def f(:\n",
        "a\0b",
        "x = '\ud800'",
        "(" * 5000 + ")" * 5000,
        "+".join(["1"] * 20_000),
        "-" * 50_000 + "1",
        "a" + ".b" * 5000,
        "x = 1\n" * 200_000,
    ],
    ids=["old", "syntax", "nul", "surrogate", "parentheses", "sum", "minus", "attributes", "long"],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        lint_script(text, name="x.py")
    assert caught.value.message.startswith("x.py ") and caught.value.next_step


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "no json", '{"cells": 3}'])
def test_what_is_no_notebook_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        lint_script(text, name="x.ipynb")


def test_small_files_that_name_huge_values_are_read_in_a_moment() -> None:
    began = time.monotonic()
    lines = "x0 = [1, 2]\n" + "".join(f"x{n + 1} = [x{n}, x{n}]\n" for n in range(200)) + "f(x200)\nf(9**9**9)\n"
    assert lint_script(lines + GOOD).findings == []
    assert time.monotonic() - began < 5


def call_named(script: str, name: str) -> Call:
    (call,) = read_script(script, name="x.py").calls_of(name)
    return call


@pytest.mark.parametrize(
    ("before", "argument", "worth"),
    [
        ("R = 8\n", "R", 8),
        ("R = 8\nR = 16\n", "R", 16),
        ("R = 8\nif a:\n    R = 16\n", "R", None),
        ("R = 8\nR += 1\n", "R", None),
        ("A, R = 1, 2\n", "R", 2),
        ("options = {'r': 4}\n", "options['r']", 4),
        ("options = {'r': 4}\noptions['r'] = 8\n", "options['r']", None),
        ("names = ['a']\nnames.append('b')\n", "names", None),
        ("class Options:\n    rank: int = 32\no = Options()\n", "o.rank", 32),
        ("class Options:\n    rank: int = 32\no = Options(rank=64)\n", "o.rank", 64),
        ("p.add_argument('--lora-r', default=64)\nargs = p.parse_args()\n", "args.lora_r", 64),
        ("import torch\n", "torch.float16", "torch.float16"),
        ("import torch\n", "getattr(torch, 'bfloat16')", "torch.bfloat16"),
        ("N = 'a'\n", "f'{N}-b'", "a-b"),
        ("", "2 * 8 + 1", 17),
        ("", "10**400", None),
        ("", "1 / 0", None),
        ("", "float('2e-4')", 2e-4),
        ("x = x\n", "x", None),
    ],
)
def test_an_argument_is_worth_what_the_tree_tells(before: str, argument: str, worth: object) -> None:
    value = call_named(f"{before}use(r={argument})\n", "use").arguments["r"]
    assert (value.known, value.value, value.text) == (worth is not None, worth, argument)


def test_a_parameter_is_worth_what_the_one_call_of_its_function_gives() -> None:
    script = "def made(r, a=1):\n    return use(r=r, a=a)\nmade(8)\n"
    assert {name: value.value for name, value in call_named(script, "use").arguments.items()} == {"r": 8, "a": 1}
    assert not call_named(script + "made(16)\n", "use").arguments["r"].known


def test_calls_have_the_names_that_were_imported() -> None:
    script = (
        "import peft as p\nfrom transformers import AutoTokenizer as T\np.LoraConfig()\nT.from_pretrained()\nm.eval()\n"
    )
    names = [(call.name, call.receiver) for call in read_script(script, name="x").calls]
    assert names == [("peft.LoraConfig", ""), ("transformers.AutoTokenizer.from_pretrained", ""), (".eval", "m")]


def test_options_handed_over_by_stars_are_arguments_where_they_are_written_out() -> None:
    call = call_named("options = dict(r=8)\nuse(**options, a=1)\n", "use")
    assert {name: value.value for name, value in call.arguments.items()} == {"r": 8, "a": 1} and call.complete
    assert not call_named("use(**options)\n", "use").complete


def test_the_guide_has_every_rule_with_its_severity() -> None:
    rows = dict(
        re.findall(r"^\| `([a-z0-9-]+)` \| (error|warning|note) \|", read_topic("script-lint"), flags=re.MULTILINE)
    )
    assert rows == {rule.name: rule.severity for rule in RULES}


def test_nothing_heavy_is_imported() -> None:
    for path in (Path(__file__).parent.parent / "qlora_tools" / "foreign").glob("*.py"):
        assert not re.search(r"^(import|from) (torch|transformers|peft|trl)\b", path.read_text("utf-8"), re.MULTILINE)
