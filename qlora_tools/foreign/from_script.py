"""A Python script or a notebook as a RunConfig, from the calls of Transformers, PEFT, TRL and Unsloth that it holds."""

import re
from dataclasses import dataclass

from ..errors import UsageError
from .calls import Call, ScriptSource, read_script
from .from_script_quantization import settle_quantization
from .from_script_rows import settle_length, settle_loss, settle_rows
from .from_script_rules import LORA, MODEL, PREPARED, TRAINER, TRAINING, UNSLOTH_LORA, UNSLOTH_MODEL
from .from_script_sections import note_what_else, section_of, settle_callbacks
from .recipes import Account, Section, named
from .recipes_models import settle_model
from .recipes_training import note_batch, settle_names, settle_precision, settle_training, settle_warmup

_OTHER_TRAINERS = (
    *("DPOTrainer", "KTOTrainer", "ORPOTrainer", "CPOTrainer", "GRPOTrainer", "PPOTrainer", "RewardTrainer"),
    *("RLOOTrainer", "OnlineDPOTrainer", "GKDTrainer", "BCOTrainer", "XPOTrainer", "NashMDTrainer", "PRMTrainer"),
)
_OTHER_BASES = ("GPTQConfig", "AwqConfig", "HqqConfig", "AqlmConfig", "QuantoConfig", "TorchAoConfig", "EetqConfig")
_OTHER_ADAPTERS = ("AdaLoraConfig", "IA3Config", "PromptTuningConfig", "PrefixTuningConfig", "OFTConfig", "VeraConfig")
_ARGUMENTS = ("SFTConfig", "UnslothTrainingArguments", "TrainingArguments")
_TRAINERS = ("SFTTrainer", "UnslothTrainer", "Trainer")
_UNSLOTH_MODELS = ("FastLanguageModel", "FastModel", "FastLlamaModel", "FastMistralModel", "FastQwen2Model")
_IMAGES = re.compile(r"(?:ForImageTextToText|ForVision2Seq|FastVisionModel)\.from_pretrained$")


@dataclass(frozen=True)
class _Parts:
    """The calls that make a run, as far as the script has them."""

    model: Call | None
    unsloth: bool
    lora: Call
    arguments: Call | None
    trainer: Call | None


def read_script_recipe(text: str, account: Account, *, name: str) -> None:
    """Settle every argument of the calls that make a run. Raises `UsageError` where it is no fine-tuning with LoRA."""
    source = read_script(text, name=name)
    parts = _parts(source, name)
    model = section_of(account, parts.model)
    lora = section_of(account, parts.lora)
    arguments = section_of(account, parts.arguments)
    trainer = section_of(account, parts.trainer)
    _settle_trainer_length(trainer, arguments)
    settle_quantization(source, model, lora, parts.model, unsloth=parts.unsloth)
    _settle_model(model, trainer, unsloth=parts.unsloth)
    _settle_lora(lora, source, unsloth=parts.unsloth)
    settle_rows(source, account, parts.trainer, trainer, arguments)
    settle_loss(source, account, arguments)
    settle_length(source, account, parts.trainer)
    _settle_arguments(arguments)
    settle_callbacks(source, trainer)
    trainer.apply(TRAINER)
    for section in (model, lora, arguments, trainer):
        settle_training(section)
        section.close("an argument that has a field")
    _take_defaults(account, parts)
    _note(source, account, parts)


def _parts(source: ScriptSource, name: str) -> _Parts:
    for others, what in (
        (_OTHER_TRAINERS, "trains with"),
        (_OTHER_BASES, "quantises its base with"),
        (_OTHER_ADAPTERS, "trains the adapter"),
    ):
        found = source.calls_of(*others)
        if found:
            raise _refusal(name, f"{what} {found[0].last_name} (line {found[0].line})")
    unsloth = source.calls_of(*(f"{owner}.get_peft_model" for owner in _UNSLOTH_MODELS))
    lora = unsloth or source.calls_of("LoraConfig")
    if not lora:
        raise _refusal(name, "has neither a LoraConfig nor Unsloth's get_peft_model: it trains everything or nothing")
    task = lora[0].arguments.get("task_type")
    if task and task.known and str(task.value).rpartition(".")[2] != "CAUSAL_LM":
        raise _refusal(name, f"trains an adapter for the task {task.value} (line {lora[0].line})")
    models = _models(source)
    images = [call for call in source.calls_of("from_pretrained") if _IMAGES.search(call.name)]
    if images and not models:
        raise _refusal(name, f"trains a model of images and text ({images[0].name}, line {images[0].line})")
    return _Parts(
        model=models[0] if models else None,
        unsloth=bool(unsloth) or bool(models and models[0].name.rpartition(".")[0].endswith(_UNSLOTH_MODELS)),
        lora=lora[0],
        arguments=next(iter(source.calls_of(*_ARGUMENTS)), None),
        trainer=next(iter(source.calls_of(*_TRAINERS)), None),
    )


def _models(source: ScriptSource) -> list[Call]:
    """Calls that load a base, those that quantise it first: scripts load it again in 16 bits to merge."""
    found = [
        call
        for call in source.calls_of("from_pretrained")
        if call.name.rpartition(".")[0].endswith(("ForCausalLM", "ForConditionalGeneration", *_UNSLOTH_MODELS))
        and "PeftModel" not in call.name
    ]
    quantised = ("quantization_config", "load_in_4bit", "load_in_8bit")
    return sorted(found, key=lambda call: not any(key in call.arguments for key in quantised))


def _refusal(name: str, what: str) -> UsageError:
    return UsageError(
        f"The script {name} {what}; only supervised fine-tuning with LoRA or QLoRA can be imported.",
        next_step="Plan a QLoRA run for its model and data: qlora plan --model M --data D.",
    )


def _settle_trainer_length(trainer: Section, arguments: Section) -> None:
    """Older scripts hand to the trainer what now stands in its arguments."""
    for key in ("max_seq_length", "max_length", "packing", "dataset_text_field"):
        if key in trainer and key in arguments:
            arguments.settle(key)


def _settle_model(model: Section, trainer: Section, *, unsloth: bool) -> None:
    for key in ("pretrained_model_name_or_path", "model_name"):
        if key in model.unknown_keys():
            model.undecide(key, "model.name")
        settle_model(model, key, "revision")
    if isinstance(trainer.get("model"), str):
        settle_model(trainer, "model", "revision")
    trainer.settle("model")
    model.apply(UNSLOTH_MODEL if unsloth else MODEL)


def _settle_lora(lora: Section, source: ScriptSource, *, unsloth: bool) -> None:
    lora.apply(UNSLOTH_LORA if unsloth else LORA)
    prepared = source.calls_of("prepare_model_for_kbit_training", "prepare_model_for_int8_training")
    if prepared:
        call = prepared[0]
        section = section_of(lora.account, call)
        lora.account.notes.append(
            f"Line {call.line}: {call.last_name} turns embeddings, head and norms into fp32, which takes gigabytes; here "
            "they stay in 16 bits, and freezing and checkpointing are done without it."
        )
        section.settle("model")
        section.apply(PREPARED)
        section.close("an argument of it")
        _imply_checkpointing(lora.account, call)
    for call in source.calls_of("gradient_checkpointing_enable"):
        _imply_checkpointing(lora.account, call)


def _imply_checkpointing(account: Account, call: Call) -> None:
    name, line = f"{call.last_name}(...)", f"line {call.line}"
    account.imply("training.gradient_checkpointing", True, name=name, shown=line, why="the call turns it on")


def _settle_arguments(arguments: Section) -> None:
    arguments.apply({key: rule for key, rule in TRAINING.items() if key == "max_steps"})
    settle_warmup(arguments)
    settle_names(arguments, "optim", "lr_scheduler_type")
    _settle_asked_precision(arguments)
    settle_precision(arguments, unset=None)
    arguments.apply(TRAINING)


def _settle_asked_precision(arguments: Section) -> None:
    """bf16 = torch.cuda.is_bf16_supported() asks the GPU, which is what auto does."""
    asked = [key for key in ("bf16", "fp16") if key in arguments.unknown_keys()]
    arguments.settle(*asked)
    if asked:
        name, why = named(arguments.name(key) for key in asked), "decided when the script runs; auto asks the hardware"
        arguments.account.imply("quantization.compute_dtype", "auto", name=name, shown="(computed)", why=why)


def _take_defaults(account: Account, parts: _Parts) -> None:
    _take_lora_defaults(account, parts)
    if parts.arguments is None:
        account.notes.append("No TrainingArguments or SFTConfig was found: steps and batches are our defaults.")
        return
    of = f"the default of {parts.arguments.last_name}"
    sft = parts.arguments.last_name == "SFTConfig"
    account.take_default("training.learning_rate", 2e-5 if sft else 5e-5, of)
    account.take_default("training.schedule", "linear", of)
    account.take_default("training.warmup_fraction", 0.0, of)
    account.take_default("training.micro_batch_size", 8, of)
    account.take_default("training.gradient_accumulation_steps", 1, of)
    account.take_default("training.optimizer", "adamw_torch", of)
    if not sft:
        account.take_default("training.gradient_checkpointing", False, of)
    if parts.trainer is None or parts.trainer.last_name != "Trainer":
        account.take_default("training.max_length_tokens", 1024, "TRL's default (max_length)")
    account.take_default("training.packing", "off", "the trainer's default")
    if account.has("training.evaluation_every_steps"):
        account.take_default("training.keep_best", False, of)
    note_batch(account)


def _take_lora_defaults(account: Account, parts: _Parts) -> None:
    if parts.unsloth:
        account.take_default("lora.alpha", 16.0, "Unsloth's default")
        account.take_default("training.seed", 3407, "Unsloth's default (random_state)")
        return
    account.take_default("lora.rank", 8, "PEFT's default")
    account.take_default("lora.alpha", 8.0, "PEFT's default")
    account.imply(
        "lora.target_modules",
        "all-linear",
        name="LoraConfig(target_modules)",
        shown="(left out)",
        why="left out, PEFT adapts the modules it has listed for the model, mostly query and value; here all linear layers",
    )


def _note(source: ScriptSource, account: Account, parts: _Parts) -> None:
    note_what_else(source, account)
    if source.unread:
        account.notes.append(f"Cells that are no Python were not read: {', '.join(map(str, source.unread))}.")
    models = _models(source)
    if len(models) > 1:
        lines = ", ".join(str(call.line) for call in models[1:])
        account.notes.append(
            f"The base is loaded again at line {lines}, for merging or answering; that is not imported."
        )
    if parts.trainer is None:
        account.notes.append("No trainer was found: how the script trains is not imported, only its settings.")
    for found, word in ((source.calls_of("LoraConfig"), "LoraConfig"), (source.calls_of(*_ARGUMENTS), "of arguments")):
        others = [str(call.line) for call in found if call not in (parts.lora, parts.arguments)]
        if others:
            account.notes.append(f"A further {word} at line {', '.join(others)} is not read.")
