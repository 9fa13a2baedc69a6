"""Arguments and names that the libraries of today no longer take, or take under another name.

The versions were found by comparing the signatures of released packages: "gone in" names the first of those compared
without the name, where neighbours lie far apart also the last with it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .calls import Call
from .constants import Value
from .lint_subject import TRL_CONFIGS, TRL_TRAINERS, Found, Subject, at, each_with, written

_TRAINING = ("TrainingArguments", "Seq2SeqTrainingArguments", *TRL_CONFIGS)
_MOVED = ("dataset_kwargs", "dataset_num_proc", "dataset_text_field", "eval_packing", "model_init_kwargs", "packing")
_NO_MORE = "delete the argument"


@dataclass(frozen=True)
class Stale:
    """An argument that is gone. `now` is the argument that replaces it, with `{}` for the value as written; "" where none
    does; a function where it depends on the value."""

    name: str
    since: str
    now: str | Callable[[Value], str]
    fix: str = ""


def _ratio(value: Value) -> str:
    # 0 is the default, and a whole number as a ratio was never right.
    if value.known and value.value == 0:
        return ""
    return "warmup_steps={}"


def _sampling(value: Value) -> str:
    if not value.known:
        return 'train_sampling_strategy="group_by_length" if {} else "random"'
    return 'train_sampling_strategy="group_by_length"' if value.value else ""


_GONE_5 = "gone in transformers 5.0"
_STALE_TRAINING = (
    Stale("evaluation_strategy", "renamed in transformers 4.41, the old name gone by 4.57", "eval_strategy={}"),
    Stale(
        "warmup_ratio",
        "gone in transformers 5.17 (5.10 still had it)",
        _ratio,
        "warmup_steps takes a ratio too: below 1 it is a share of all steps",
    ),
    Stale("overwrite_output_dir", _GONE_5, "", f"{_NO_MORE}: nothing asks for it any more"),
    Stale(
        "logging_dir",
        "gone in transformers 5.17 (5.10 still had it)",
        "",
        f"{_NO_MORE}; for TensorBoard set the environment variable TENSORBOARD_LOGGING_DIR",
    ),
    Stale("group_by_length", "gone in transformers 5.5", _sampling),
    Stale("save_safetensors", _GONE_5, "", f"{_NO_MORE}: weights are always saved as safetensors"),
    Stale("no_cuda", _GONE_5, "use_cpu={}"),
    Stale("per_gpu_train_batch_size", _GONE_5, "per_device_train_batch_size={}"),
    Stale("per_gpu_eval_batch_size", _GONE_5, "per_device_eval_batch_size={}"),
    Stale("push_to_hub_token", _GONE_5, "hub_token={}"),
    Stale("push_to_hub_model_id", _GONE_5, "hub_model_id={}"),
    Stale("adafactor", _GONE_5, "", 'use optim="adafactor"'),
    Stale(
        "fsdp_transformer_layer_cls_to_wrap", _GONE_5, "", "put it into fsdp_config as transformer_layer_cls_to_wrap"
    ),
    Stale("fsdp_min_num_params", _GONE_5, "", "put it into fsdp_config as min_num_params"),
    Stale("include_inputs_for_metrics", _GONE_5, "", 'use include_for_metrics=["inputs"]'),
    Stale("include_tokens_per_second", _GONE_5, "include_num_input_tokens_seen={}"),
    Stale("dispatch_batches", "gone in transformers 4.57", "", "put it into accelerator_config"),
    Stale("split_batches", "gone in transformers 4.57", "", "put it into accelerator_config"),
    *(
        Stale(name, _GONE_5, "", _NO_MORE)
        for name in ("fp16_backend", "fp16_opt_level", "half_precision_backend", "jit_mode_eval", "past_index")
    ),
    *(Stale(name, _GONE_5, "", _NO_MORE) for name in ("ray_scope", "torchdynamo", "tpu_num_cores", "use_mps_device")),
    Stale("use_ipex", "gone in transformers 4.57", "", _NO_MORE),
    Stale("xpu_backend", "gone in transformers 4.41", "ddp_backend={}"),
)
_STALE_SFT_CONFIG = (
    Stale("max_seq_length", "renamed in trl 0.16, the old name gone in 0.20", "max_length={}"),
    Stale("use_liger", "gone in trl 0.18", "use_liger_kernel={}"),
    *(Stale(name, "gone in trl 0.18", "", _NO_MORE) for name in ("chars_per_token", "num_of_sequences")),
    Stale("dataset_batch_size", "gone in trl 0.18", "", _NO_MORE),
)
_STALE_SFT_TRAINER = (
    Stale("tokenizer", "renamed in trl 0.12, the old name gone in 0.16", "processing_class={}"),
    Stale("max_seq_length", "gone in trl 0.13", "", "move it to SFTConfig, where it is max_length={}"),
    *(Stale(name, "gone in trl 0.13", "", f"move it to SFTConfig: SFTConfig({name}={{}}, ...)") for name in _MOVED),
    Stale("neftune_noise_alpha", "gone in trl 0.13", "", "move it to SFTConfig: neftune_noise_alpha={}"),
    *(Stale(name, "gone in trl 0.13", "", _NO_MORE) for name in ("chars_per_token", "dataset_batch_size", "infinite")),
    Stale("num_of_sequences", "gone in trl 0.13", "", _NO_MORE),
)
_STALE_TRAINER = (Stale("tokenizer", "renamed in transformers 4.46, the old name gone in 5.0", "processing_class={}"),)
_STALE_LOADING = (
    Stale("use_auth_token", _GONE_5, "token={}"),
    Stale("use_flash_attention_2", _GONE_5, "", 'use attn_implementation="flash_attention_2"'),
    Stale("resume_download", _GONE_5, "", f"{_NO_MORE}: downloads always go on"),
)
# Arguments with a finding of their own, for the rule about those that nobody knows.
STALE_NAMES = frozenset(
    stale.name for table in (_STALE_TRAINING, _STALE_SFT_CONFIG, _STALE_SFT_TRAINER, _STALE_TRAINER) for stale in table
)
_QUANTISED_BY_HAND = ("load_in_4bit", "load_in_8bit", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type")
_OLD_NAMES: dict[str, dict[str, str]] = {
    "transformers": {
        "AdamW": "torch.optim.AdamW, or optim= of TrainingArguments (gone by transformers 4.57)",
        "AutoModelWithLMHead": "AutoModelForCausalLM (gone by transformers 5)",
        "AutoModelForVision2Seq": "AutoModelForImageTextToText (gone by transformers 5)",
        "LineByLineTextDataset": "datasets.load_dataset (gone by transformers 5)",
        "TextDataset": "datasets.load_dataset (gone by transformers 5)",
        "LLaMATokenizer": "LlamaTokenizer, or AutoTokenizer",
        "LLaMAForCausalLM": "LlamaForCausalLM, or AutoModelForCausalLM",
        "is_torch_tpu_available": "is_torch_xla_available (gone by transformers 5)",
        "TFAutoModelForCausalLM": "AutoModelForCausalLM (TensorFlow left with transformers 5)",
        "TFAutoModel": "AutoModel (TensorFlow left with transformers 5)",
    },
    "peft": {"prepare_model_for_int8_training": "prepare_model_for_kbit_training (gone by peft 0.10)"},
    "trl": {
        "DataCollatorForCompletionOnlyLM": "rows with `prompt` and `completion`, which SFTTrainer masks by itself, or "
        "assistant_only_loss=True for chats (gone in trl 0.20)",
        "ConstantLengthDataset": "packing=True of SFTConfig (gone in trl 0.20)",
        "setup_chat_format": "clone_chat_template, or chat_template_path= of SFTConfig (gone in trl 0.26)",
        "get_kbit_device_map": 'device_map={"": 0} (gone in trl 1.15)',
        "SFTScriptArguments": "ScriptArguments (gone in trl 0.13)",
        "AutoModelForCausalLMWithValueHead": "GRPOTrainer or RLOOTrainer, which need no value head (gone in trl 0.29)",
        "PPOTrainer": "GRPOTrainer or RLOOTrainer (gone in trl 0.29)",
        "PPOConfig": "GRPOConfig or RLOOConfig (gone in trl 0.29)",
        "ORPOTrainer": "trl.experimental.orpo.ORPOTrainer (moved in trl 0.29)",
        "ORPOConfig": "trl.experimental.orpo.ORPOConfig (moved in trl 0.29)",
        "CPOTrainer": "trl.experimental.cpo.CPOTrainer (moved in trl 0.29)",
        "CPOConfig": "trl.experimental.cpo.CPOConfig (moved in trl 0.29)",
    },
}


def removed_arguments(subject: Subject) -> Iterator[Found]:
    """Arguments that make a constructor of Transformers or TRL raise TypeError today."""
    yield from _stale(subject.training_arguments, _STALE_TRAINING)
    yield from _stale(subject.calls_of("SFTConfig"), _STALE_SFT_CONFIG)
    yield from _stale(subject.plain_trainers, _STALE_TRAINER)
    if not subject.is_unsloths:
        yield from _stale(subject.sft_trainers, _STALE_SFT_TRAINER)
        others = [call for call in subject.calls_of(*TRL_TRAINERS) if call.last_name != "SFTTrainer"]
        yield from _stale(others, _STALE_SFT_TRAINER[:1])


def removed_loading_arguments(subject: Subject) -> Iterator[Found]:
    """Arguments that `from_pretrained` of a model hands on to a constructor that does not know them."""
    loads = [call for call in subject.loads if not call.name.startswith("unsloth.") and "Peft" not in call.name]
    yield from _stale(loads, _STALE_LOADING)
    for call in loads:
        for name in _QUANTISED_BY_HAND:
            if name in call.arguments and "quantization_config" not in call.arguments:
                yield _quantised_by_hand(call, name)


def attributes_nobody_reads(subject: Subject) -> Iterator[Found]:
    """An old name set on the arguments of a trainer: Python makes a new attribute, and nothing reads it."""
    trainers = [*subject.trl_trainers, *subject.plain_trainers]
    holders = {value.text for _, value in each_with(trainers, "args")}
    table = {stale.name: stale for stale in (*_STALE_TRAINING, *(_STALE_SFT_CONFIG if subject.sft_trainers else ()))}
    for item in subject.assigned:
        holder, _, name = item.target.rpartition(".")
        if holder in holders and name in table:
            stale = table[name]
            now = stale.now.split("=")[0] if isinstance(stale.now, str) else ""
            yield Found(
                item.line,
                item.line,
                f"{name} is set on the trainer's arguments, and nothing reads it",
                f"Python makes a new attribute of that name ({stale.since}); the setting itself keeps its default.",
                f"set {now}" if now else "give its successor where the arguments are made",
                f"{item.target} = {item.value.text}",
                f"{holder}.{now} = {item.value.text}" if now else None,
            )


def renamed_dtype(subject: Subject) -> Iterator[Found]:
    """`torch_dtype`, which still works and is called `dtype` now."""
    for call, value in each_with(
        [call for call in subject.loads if not call.name.startswith("unsloth.")], "torch_dtype"
    ):
        yield Found(
            *at(call, "torch_dtype"),
            "torch_dtype is called dtype now",
            "transformers takes the old name with a warning since 4.56, and drops such names after a while.",
            "rename the argument",
            written(call, "torch_dtype"),
            f"dtype={value.text}",
        )


def removed_token_argument(subject: Subject) -> Iterator[Found]:
    """`use_auth_token` where it is not a model that is loaded: a tokenizer ignores it, so the token is not sent."""
    others = [call for call in subject.calls_of("from_pretrained") if call not in subject.loads]
    for call, value in each_with([*others, *subject.calls_of("load_dataset", "push_to_hub")], "use_auth_token"):
        yield Found(
            *at(call, "use_auth_token"),
            f"{_called(call)} no longer takes use_auth_token",
            "It is called token since transformers 4.31 and datasets 2.14; the old name is refused, or not sent to the Hub.",
            "rename the argument",
            written(call, "use_auth_token"),
            f"token={value.text}",
        )


def names_that_are_gone(subject: Subject) -> Iterator[Found]:
    """Imports of what a library no longer has."""
    for imported, line in subject.imports:
        library, _, name = imported.partition(".")
        name = name.rpartition(".")[2]
        now = _OLD_NAMES.get(library, {}).get(name)
        if now is not None and "experimental" not in imported:
            yield Found(
                line,
                line,
                f"{library} has no {name} any more",
                "The import raises ImportError before anything is trained.",
                f"use {now}",
                imported,
            )


def _stale(calls: list[Call], table: tuple[Stale, ...]) -> Iterator[Found]:
    for call in calls:
        for stale in table:
            if stale.name in call.arguments:
                yield _stale_argument(call, stale)


def _stale_argument(call: Call, stale: Stale) -> Found:
    value = call.arguments[stale.name]
    if stale.name.endswith("_token") and isinstance(value.value, str):
        value = Value(False, text="...")  # the rule about secrets speaks of it
    now = stale.now if isinstance(stale.now, str) else stale.now(value)
    replacement = now.replace("{}", value.text)
    fix = stale.fix.replace("{}", value.text) or (f"write {replacement}" if replacement else _NO_MORE)
    return Found(
        *at(call, stale.name),
        f"{_called(call)} takes no {stale.name}",
        f"The call raises TypeError ({stale.since}).",
        fix,
        f"{stale.name}={value.text}",
        replacement if (now or fix.startswith(_NO_MORE)) and value.node is not None else None,
    )


def _quantised_by_hand(call: Call, name: str) -> Found:
    bits = f"{name}={call.arguments[name].text}"
    config = (
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
        "bnb_4bit_compute_dtype=torch.bfloat16)"
    )
    whole = name == "load_in_4bit" and call.arguments[name].value is True
    return Found(
        *at(call, name),
        f"from_pretrained of a model takes no {name}",
        "transformers 5.0 and later hand it to the model's constructor, which raises TypeError; 4.x took fp4 by default.",
        "give the quantisation as quantization_config=BitsAndBytesConfig(...)",
        bits,
        f"quantization_config={config}" if whole else None,
    )


def _called(call: Call) -> str:
    parts = call.name.strip(".").split(".")
    return ".".join(parts[-2:]) if parts[-1] in ("from_pretrained",) else parts[-1]
