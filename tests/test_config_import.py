"""Other people's recipes become configs, and every value that they hold is accounted for."""

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from qlora_tools.cli.main import run
from qlora_tools.config import load_config
from qlora_tools.config.files import parse_config_text
from qlora_tools.errors import QloraError, UsageError
from qlora_tools.foreign.axolotl import _RULES as AXOLOTL
from qlora_tools.foreign.from_script_rules import LORA, TRAINING
from qlora_tools.foreign.importing import import_config
from qlora_tools.foreign.recipes import Field
from qlora_tools.foreign.recipes_fields import invalid
from qlora_tools.foreign.recipes_reading import read_recipe
from qlora_tools.results import ImportedConfig

AXOLOTL_RECIPE = """
base_model: acme/base-3b
revision_of_model: v1
adapter: qlora
load_in_4bit: true
load_in_8bit: false
bnb_config_kwargs: {bnb_4bit_use_double_quant: true}
datasets:
  - path: acme/chats
    type: chat_template
    field_messages: turns
    message_property_mappings: {role: from, content: value}
    roles_to_train: [assistant]
    split: train[:10%]
  - path: rows/extra.jsonl
    type: {field_instruction: ask, field_output: reply, format: "<user>{instruction}"}
    shards: 4
val_set_size: 0.05
sequence_len: 4096
sample_packing: true
lora_r: 32
lora_alpha: 64
lora_dropout: 0.05
lora_target_linear: true
peft_use_rslora: true
micro_batch_size: 2
gradient_accumulation_steps: 8
num_epochs: 2
optimizer: adamw_torch_fused
lr_scheduler: cosine_with_restarts
learning_rate: 2e-4
max_steps: 200
warmup_steps: 20
bf16: auto
tf32: true
flash_attention: true
gradient_checkpointing: unsloth
train_on_inputs: false
eval_steps: 50
save_steps: 50
seed: 7
output_dir: runs/chats
wandb_project: tickets
wandb_api_key: 0123456789abcdef
special_tokens: {pad_token: <pad>}
neftune_noise_alpha: 5
xformers_attention:
deepspeed: null
gptq: false
warp_drive: 9
"""
LLAMAFACTORY_RECIPE = """
model_name_or_path: acme/base-7b
trust_remote_code: true
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: q_proj,v_proj
quantization_bit: 4
dataset: tickets, identity
template: llama3
cutoff_len: 1024
max_samples: 1000
output_dir: saves/x
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
val_size: 0.1
eval_strategy: steps
eval_steps: 500
"""
DATASET_INFO = json.dumps(
    {
        "tickets": {
            "file_name": "tickets.json",
            "formatting": "sharegpt",
            "columns": {"messages": "talk", "system": "sys"},
            "tags": {"role_tag": "role", "content_tag": "content"},
        },
        "identity": {"hf_hub_url": "acme/identity", "columns": {"prompt": "q", "response": "a"}},
    }
)
SCRIPT = """
import torch
from datasets import load_dataset
from peft import LoraConfig, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainingArguments
from trl import SFTTrainer

BASE, RANK = "acme/base-7b", 64
rows = load_dataset("json", data_files={"train": "train.jsonl", "test": "held.jsonl"}, split="train")
quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float16)
model = AutoModelForCausalLM.from_pretrained(BASE, quantization_config=quantised, token="hf_aaaaaaaaaaaaaaaaaaaaaaaa")
model = prepare_model_for_kbit_training(model)
lora = LoraConfig(r=RANK, lora_alpha=16, lora_dropout=0.1, bias="none", task_type="CAUSAL_LM")
arguments = TrainingArguments(
    output_dir="results", per_device_train_batch_size=4, gradient_accumulation_steps=2, optim="paged_adamw_32bit",
    learning_rate=pick_rate(), bf16=torch.cuda.is_bf16_supported(), warmup_ratio=0.03, lr_scheduler_type="constant",
    evaluation_strategy="epoch", report_to=["wandb", "tensorboard"],
)
trainer = SFTTrainer(
    model=model, args=arguments, train_dataset=rows, eval_dataset=load_dataset("json"), peft_config=lora,
    dataset_text_field="body", max_seq_length=512, packing=True,
)
"""
UNSLOTH = """
from unsloth import FastLanguageModel
from trl import SFTConfig, SFTTrainer
model, tokenizer = FastLanguageModel.from_pretrained("unsloth/base-8b-bnb-4bit", max_seq_length=1024)
model = FastLanguageModel.get_peft_model(model, r=8, target_modules=["q_proj", "v_proj"], random_state=3407)
dataset = load_dataset("acme/rows", "default", split="train").map(lambda row: row)
trainer = SFTTrainer(model=model, train_dataset=dataset, args=SFTConfig(output_dir="out", max_steps=100, warmup_steps=5))
trainer = train_on_responses_only(trainer, instruction_part="<user>", response_part="<bot>")
"""


def imported(text: str, name: str = "recipe.yaml", **given: Any) -> ImportedConfig:
    return import_config(text, name=name, **given)


def names_in(result: ImportedConfig) -> str:
    """Every foreign name that the account mentions."""
    carried = [entry.name for entry in (*result.carried, *result.changed)]
    return "\n".join([*carried, *(entry.name for entry in result.not_carried), *result.notes])


def left_of(result: ImportedConfig) -> dict[str, str]:
    return {entry.name: entry.why for entry in result.not_carried}


def test_an_axolotl_recipe_becomes_a_config_with_the_same_meaning() -> None:
    config = imported(AXOLOTL_RECIPE).config
    data, training = config["data"], config["training"]
    assert config["model"]["name"] == "acme/base-3b" and config["model"]["revision"] == "v1"
    assert config["model"]["attention_implementation"] == "flash_attention_2"
    assert (data["path"], data["format"], data["columns"]) == ("acme/chats", "sharegpt", {"conversations": "turns"})
    assert (data["loss_on"], data["long_rows"], data["evaluation_fraction"]) == ("assistant", "drop", 0.05)
    (extra,) = data["more_sources"]
    assert extra["path"] == "rows/extra.jsonl" and extra["weight"] == 0.25
    assert extra["columns"] == {"instruction": "ask", "output": "reply"}
    assert config["quantization"]["kind"] == "nf4" and config["lora"]["use_rslora"]
    assert (config["lora"]["rank"], config["lora"]["alpha"], config["lora"]["target_modules"]) == (
        32,
        64.0,
        "all-linear",
    )
    assert (training["micro_batch_size"], training["gradient_accumulation_steps"]) == (2, 8)
    assert (training["packing"], training["max_length_tokens"], training["seed"]) == ("bins", 4096, 7)
    assert (training["optimizer"], training["schedule"], training["learning_rate"]) == ("adamw_torch", "cosine", 2e-4)
    assert (training["max_steps"], training["warmup_fraction"], training["tracking"]) == (200, 0.1, "wandb")


def test_what_changes_its_meaning_on_the_way_is_said() -> None:
    changed = {entry.name: entry.why for entry in imported(AXOLOTL_RECIPE).changed}
    assert "20 of 200 steps" in changed["warmup_steps"]
    assert "without restarts" in changed["lr_scheduler"]
    assert "offloaded" in changed["gradient_checkpointing"]
    assert "slice [:10%]" in changed["datasets[0].split"]
    assert "drops rows" in changed["excess_length_strategy"]


def test_every_key_of_a_recipe_is_accounted_for() -> None:
    result = imported(AXOLOTL_RECIPE)
    mentioned = names_in(result)
    assert [key for key in read_recipe(AXOLOTL_RECIPE, name="x") if key not in mentioned] == []
    left = left_of(result)
    assert "does not know" in left["warp_drive"]
    assert "embeddings" in left["neftune_noise_alpha"]
    assert "xformers_attention" in result.notes[-1]
    assert not next(entry for entry in result.not_carried if entry.name == "warp_drive").harmless
    assert next(entry for entry in result.not_carried if entry.name == "tf32").harmless


def test_the_short_yaml_of_an_import_reads_back_as_the_same_config(tmp_path: Path) -> None:
    for text, name in ((AXOLOTL_RECIPE, "a.yaml"), (SCRIPT, "train.py")):
        result = imported(text, name=name)
        path = tmp_path / "run.yaml"
        path.write_text(result.config_yaml, encoding="utf-8")
        assert load_config(path).model_dump(mode="json") == result.config


def test_what_a_recipe_leaves_out_is_taken_as_its_tool_does_and_said() -> None:
    recipe = "base_model: a/b\nadapter: lora\ndatasets: [{path: a/c, type: alpaca}]\nlearning_rate: 1e-4\n"
    result = imported(recipe, output="out")
    missing = {entry.field: (entry.taken, entry.our_default) for entry in result.missing}
    assert missing["training.max_length_tokens"] == (512, 2048)
    assert missing["training.epochs"] == (1.0, 3.0)
    assert missing["training.gradient_checkpointing"] == (False, True)
    assert result.config["quantization"]["kind"] == "none"
    assert result.config["training"]["packing"] == "off"


def test_a_llamafactory_recipe_finds_its_datasets_by_their_names() -> None:
    result = imported(LLAMAFACTORY_RECIPE, dataset_info=DATASET_INFO)
    data, training = result.config["data"], result.config["training"]
    assert (data["path"], data["format"]) == ("data/tickets.json", "messages")
    assert data["columns"] == {"messages": "talk", "system": "sys"}
    assert data["more_sources"][0]["path"] == "acme/identity"
    assert data["more_sources"][0]["columns"] == {"instruction": "q", "output": "a"}
    assert data["loss_on"] == "assistant"
    assert result.config["lora"]["target_modules"] == ["q_proj", "v_proj"]
    assert result.config["lora"]["alpha"] == 32.0
    assert result.config["quantization"]["kind"] == "nf4"
    assert (training["micro_batch_size"], training["gradient_accumulation_steps"]) == (1, 8)
    assert training["optimizer"] == "adamw_torch"
    mentioned = names_in(result)
    assert [key for key in read_recipe(LLAMAFACTORY_RECIPE, name="x") if key not in mentioned] == []


def test_names_of_datasets_that_nobody_explains_are_asked_for() -> None:
    with pytest.raises(UsageError, match=r"tickets.*dataset_info") as caught:
        imported(LLAMAFACTORY_RECIPE)
    assert "--data PATH" in caught.value.next_step and "--dataset-info" in caught.value.next_step
    result = imported(LLAMAFACTORY_RECIPE, settings={"data.path": "rows.jsonl"})
    assert result.config["data"]["path"] == "rows.jsonl"
    assert "you gave the rows yourself" in left_of(result)["dataset"]


def test_a_script_is_read_by_its_calls() -> None:
    result = imported(SCRIPT, name="train.py")
    config, training = result.config, result.config["training"]
    assert config["model"]["name"] == "acme/base-7b" and config["lora"]["rank"] == 64
    assert (config["data"]["path"], config["data"]["evaluation_path"]) == ("train.jsonl", "held.jsonl")
    assert (config["data"]["format"], config["data"]["columns"]) == ("text", {"text": "body"})
    assert (config["quantization"]["kind"], config["quantization"]["compute_dtype"]) == ("nf4", "float16")
    assert (training["packing"], training["max_length_tokens"], training["optimizer"]) == (
        "bins",
        512,
        "paged_adamw_32bit",
    )
    assert (training["schedule"], training["tracking"]) == ("constant", "wandb")
    assert next(entry for entry in result.carried if entry.name == "LoraConfig(r)").line == 13


def test_the_silent_fp4_of_bitsandbytes_becomes_nf4_and_is_said() -> None:
    result = imported(SCRIPT, name="train.py")
    entry = next(entry for entry in result.changed if "bnb_4bit_quant_type" in entry.name)
    assert "fp4" in entry.why and entry.our_value == "nf4"
    chosen = imported(SCRIPT.replace("load_in_4bit=True", "load_in_4bit=True, bnb_4bit_quant_type='fp4'"), name="t.py")
    assert chosen.config["quantization"]["kind"] == "fp4"


def test_a_value_that_only_a_run_would_tell_gets_no_default_of_the_library() -> None:
    result = imported(SCRIPT, name="train.py")
    left = left_of(result)
    assert "only running" in left["TrainingArguments(learning_rate)"]
    assert result.config["training"]["learning_rate"] == 2e-4
    assert "training.learning_rate" not in {entry.field for entry in result.missing}


def test_unsloth_calls_are_read_with_their_own_defaults() -> None:
    result = imported(UNSLOTH, name="train.py")
    config, training = result.config, result.config["training"]
    assert (config["quantization"]["kind"], config["lora"]["alpha"], training["seed"]) == ("nf4", 16.0, 3407)
    assert config["lora"]["target_modules"] == ["q_proj", "v_proj"]
    assert (config["data"]["path"], config["data"]["subset"]) == ("acme/rows", "default")
    assert (config["data"]["loss_on"], training["warmup_fraction"]) == ("assistant", 0.05)
    why = next(entry.why for entry in result.changed if entry.field == "model.name")
    assert "16-bit model" in why


def test_a_notebook_is_a_script() -> None:
    cells = [{"cell_type": "code", "source": ["%pip install trl\n", SCRIPT]}, {"cell_type": "markdown", "source": "x"}]
    text = json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})
    assert imported(text, name="train.ipynb").config["lora"]["rank"] == 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base_model: a/b\nadapter: qlora\nrl: dpo\n", "preference"),
        ("base_model: a/b\ndatasets: []\n", "full fine-tuning"),
        ("base_model: a/b\nadapter: qlora\npretraining_dataset: [{path: a/c}]\n", "pretraining"),
        ("base_model: a/b\nadapter: lora\ngptq: true\n", "GPTQ"),
        ("base_model: a/b-GPTQ\nadapter: lora\n", "GPTQ"),
        ("model_name_or_path: a/b\nstage: pt\n", "stage pt"),
        ("model_name_or_path: a/b\nstage: rm\n", "reward"),
        ("model_name_or_path: a/b\nfinetuning_type: full\n", "full fine-tuning"),
        ("model_name_or_path: a/b\nquantization_bit: 2\nquantization_method: hqq\n", "hqq"),
        ("import trl\ntrainer = trl.DPOTrainer(model)\n", "DPOTrainer"),
        ("import peft\npeft.LoraConfig(task_type='SEQ_CLS')\n", "SEQ_CLS"),
        ("from transformers import Trainer\nTrainer()\n", "LoraConfig"),
        ("from transformers import GPTQConfig\nGPTQConfig(bits=4)\n", "GPTQConfig"),
        ("model: {name: a}\ndata: {path: b}\noutput: {directory: c}\n", "config of qlora already"),
        ("hello: world\n", "neither base_model"),
        ("- a\n- b\n", "a list"),
        ("base_model: [\n", "line 2"),
        ("", "empty"),
    ],
)
def test_what_is_no_supervised_fine_tuning_with_lora_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        imported(text)
    assert said in caught.value.message and caught.value.next_step


def test_nothing_that_a_config_needs_is_invented() -> None:
    recipe = "base_model: a/b\nadapter: qlora\nload_in_4bit: true\n"
    with pytest.raises(UsageError, match="where the rows are and where the results go") as caught:
        imported(recipe)
    assert caught.value.next_step == "Give it: --data PATH --output DIRECTORY."
    given = imported(recipe, output="out", settings={"path": "rows.jsonl", "rank": 4})
    assert (given.config["data"]["path"], given.config["lora"]["rank"]) == ("rows.jsonl", 4)


def test_secrets_and_hidden_characters_of_a_recipe_are_not_shown() -> None:
    recipe = (
        AXOLOTL_RECIPE
        + 'hub_token: plain-secret-word\nodd: "a\\u202eb\\e[31m"\nlora_modules_to_save: [hf_bbbbbbbbbbbbbbbbbbbbbbbb]\n'
    )
    shown = imported(recipe).model_dump_json() + imported(SCRIPT, name="t.py").model_dump_json()
    for secret in ("0123456789abcdef", "plain-secret-word", "hf_aaaa", "hf_bbbb", "\u202e", "\\u001b"):
        assert secret not in shown


def test_a_recipe_that_would_grow_without_end_is_read_in_no_time() -> None:
    nested = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghijklm", "bcdefghijklmn", strict=True)
    )
    result = imported(nested + "base_model: a/b\nadapter: lora\ndatasets: [{path: a/c}]\n", output="o")
    assert max(len(entry.value) for entry in result.not_carried) <= 160
    with pytest.raises(UsageError, match="merged"):
        imported("a: &a {x: 1}\nb: {<<: [*a, *a]}\nbase_model: a/b\n")
    with pytest.raises(UsageError, match="too large"):
        imported("x" * 200_000)


def test_values_of_any_type_in_any_place_never_escape_as_a_bug() -> None:
    odd = [
        None,
        True,
        -1,
        10**400,
        float("nan"),
        "hf",
        "2e-4",
        [],
        {},
        [1, [2]],
        {"a": {1: 2}},
        [{"path": 3}],
        "train[:5%]",
    ]
    places = ("datasets", "lora_r", "lora_target_modules", "warmup_steps", "val_set_size", "batch_size", "peft", "bf16")
    base = {
        "base_model": "a/b",
        "adapter": "qlora",
        "learning_rate": 1e-4,
        "datasets": [{"path": "a/c", "type": "alpaca"}],
    }
    for place in (*places, "bnb_config_kwargs", "test_datasets", "eval_steps", "seed", "optimizer", "max_steps"):
        for value in odd:
            try:
                result = imported(yaml.dump({**base, place: value}), output="o", kind="axolotl")
            except QloraError:
                continue
            assert result.config["model"]["name"] == "a/b"


def fields_of(library: str, module: str, name: str) -> set[str]:
    """Fields of a dataclass of an installed library, by its source: importing it takes seconds."""
    spec = importlib.util.find_spec(library)
    assert spec is not None and spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / module).read_text(encoding="utf-8"))
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name]
    targets = [node.target for node in found.body if isinstance(node, ast.AnnAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name) and not target.id.startswith("_")}


def test_every_argument_of_the_installed_libraries_is_known_to_the_import() -> None:
    elsewhere = {"task_type", "bf16", "fp16", "optim", "lr_scheduler_type", "warmup_steps", "eval_strategy"}
    elsewhere |= {"save_strategy", "assistant_only_loss", "completion_only_loss", "dataset_text_field"}
    arguments = fields_of("transformers", "training_args.py", "TrainingArguments")
    arguments |= fields_of("trl", "trainer/sft_config.py", "SFTConfig")
    adapters = fields_of("peft", "tuners/lora/config.py", "LoraConfig")
    assert len(arguments) > 100 and len(adapters) > 25
    assert arguments - TRAINING.keys() - elsewhere == set()
    assert adapters - LORA.keys() - elsewhere == set()


def test_every_rule_names_a_field_that_exists() -> None:
    paths = {rule.path for rules in (AXOLOTL, LORA, TRAINING) for rule in rules.values() if isinstance(rule, Field)}
    assert len(paths) > 20
    assert {path: invalid(path, object()) for path in paths if "Extra" in invalid(path, object())} == {}


def test_the_command_writes_the_config_and_tells_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, target = tmp_path / "axolotl.yaml", tmp_path / "run.yaml"
    recipe.write_text(AXOLOTL_RECIPE, encoding="utf-8")
    assert run(["config", "import", str(recipe)]) == 0
    shown = capsys.readouterr()
    assert parse_config_text(shown.out, source="stdout")["lora"]["rank"] == 32
    assert "warp_drive = 9" in shown.err and "Not carried, and no loss" in shown.err
    command = ["config", "import", str(recipe), "rank=8", "--output", "elsewhere", "-o", str(target)]
    assert run(command) == 0
    assert (load_config(target).lora.rank, load_config(target).output.directory) == (8, "elsewhere")
    assert run(command) == 2
    assert run([*command, "--replace", "--data", "rows.jsonl", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["written_to"] == str(target) and document["config"]["data"]["path"] == "rows.jsonl"


def test_the_command_names_what_is_wrong_with_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "import", str(tmp_path / "none.yaml")]) == 2
    broken = tmp_path / "train.py"
    broken.write_text("def (:\n", encoding="utf-8")
    assert run(["config", "import", str(broken), "--json"]) == 2
    said = capsys.readouterr()
    assert "cannot be read" in said.err and "line 1" in json.loads(said.out)["message"]
