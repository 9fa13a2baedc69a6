"""The one place where a RunConfig becomes arguments of Transformers, PEFT, bitsandbytes and TRL.

Everything here is plain data (dtypes by name), so that planning, explaining and scripts need no torch.
`FIELD_USE` says for every field who reads it; tests hold it against the installed libraries.
"""

import math
from pathlib import Path
from typing import Any

from ..models.hardware import Hardware
from .schema import LoraConfig, QuantizationConfig, RunConfig, TrainingConfig

_ENGINE = "qlora_tools: "

FIELD_USE: dict[str, str] = {
    "model.name": "AutoModelForCausalLM.from_pretrained(pretrained_model_name_or_path)",
    "model.source": _ENGINE + "finding the model",
    "model.revision": _ENGINE + "fetching the model",
    "model.attention_implementation": "AutoModelForCausalLM.from_pretrained(attn_implementation)",
    "data.path": _ENGINE + "reading rows",
    "data.source": _ENGINE + "finding the rows",
    "data.subset": _ENGINE + "finding the rows",
    "data.split": _ENGINE + "finding the rows",
    "data.format": _ENGINE + "reading rows",
    "data.columns": _ENGINE + "reading rows",
    "data.weight": _ENGINE + "mixing sources",
    "data.more_sources": _ENGINE + "mixing sources",
    "data.evaluation_path": _ENGINE + "reading rows",
    "data.evaluation_split": _ENGINE + "reading rows",
    "data.evaluation_fraction": _ENGINE + "splitting rows",
    "data.loss_on": _ENGINE + "labels of each row",
    "data.long_rows": _ENGINE + "cutting or dropping rows",
    "data.check": _ENGINE + "checking rows before training",
    "lora.rank": "LoraConfig(r)",
    "lora.alpha": "LoraConfig(lora_alpha)",
    "lora.dropout": "LoraConfig(lora_dropout)",
    "lora.target_modules": "LoraConfig(target_modules)",
    "lora.use_rslora": "LoraConfig(use_rslora)",
    "lora.use_dora": "LoraConfig(use_dora)",
    "lora.initialization": "LoraConfig(init_lora_weights)",
    "lora.modules_to_save": "LoraConfig(modules_to_save)",
    "quantization.kind": "BitsAndBytesConfig(load_in_4bit, load_in_8bit, bnb_4bit_quant_type)",
    "quantization.double_quantization": "BitsAndBytesConfig(bnb_4bit_use_double_quant)",
    "quantization.compute_dtype": "BitsAndBytesConfig(bnb_4bit_compute_dtype)",
    "quantization.storage_dtype": "BitsAndBytesConfig(bnb_4bit_quant_storage)",
    "training.engine": _ENGINE + "choosing the engine",
    "training.epochs": _ENGINE + "number of steps",
    "training.max_steps": "SFTConfig(max_steps)",
    "training.micro_batch_size": "SFTConfig(per_device_train_batch_size, per_device_eval_batch_size)",
    "training.gradient_accumulation_steps": "SFTConfig(gradient_accumulation_steps)",
    "training.max_length_tokens": _ENGINE + "cutting, dropping and packing rows",
    "training.packing": _ENGINE + "packing rows",
    "training.gradient_checkpointing": "SFTConfig(gradient_checkpointing)",
    "training.memory_limit_gib": _ENGINE + "choosing the layers that the fast engine keeps",
    "training.learning_rate": "SFTConfig(learning_rate)",
    "training.schedule": "SFTConfig(lr_scheduler_type)",
    "training.warmup_fraction": "SFTConfig(warmup_steps)",
    "training.optimizer": "SFTConfig(optim)",
    "training.weight_decay": "SFTConfig(weight_decay)",
    "training.max_gradient_norm": "SFTConfig(max_grad_norm)",
    "training.evaluation_every_steps": "SFTConfig(eval_steps)",
    "training.evaluation_samples": _ENGINE + "answering prompts at evaluations",
    "training.checkpoint_every_steps": _ENGINE + "saving checkpoints",
    "training.early_stopping_patience": _ENGINE + "stopping early",
    "training.keep_best": _ENGINE + "choosing the adapter to save",
    "training.log_every_steps": "SFTConfig(logging_steps)",
    "training.seed": "SFTConfig(seed)",
    "training.smoke_generation": _ENGINE + "generation before the first step",
    "training.tracking": "SFTConfig(report_to)",
    "output.directory": "SFTConfig(output_dir)",
    "output.overwrite": _ENGINE + "refusing or replacing earlier results",
    "output.keep_checkpoints": _ENGINE + "removing old checkpoints",
}

# Names of the attention projections in the families of Transformers: split, fused, and GPT-style.
ATTENTION_MODULES = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "qkv_proj",
    "query_key_value",
    "c_attn",
    "out_proj",
    "dense",
)

# bitsandbytes has no torch-named twins; these two differ from the config's words.
_OPTIMIZER_NAMES = {"adamw_8bit": "adamw_bnb_8bit"}


def resolve_compute_dtype(choice: str, hardware: Hardware) -> str:
    """The dtype of the matrix products: `choice`, or for `auto` the best that the hardware computes natively."""
    if choice != "auto":
        return choice
    if hardware.computes_bfloat16:
        return "bfloat16"
    return "float16" if hardware.kind == "cuda" else "float32"


def quantization_arguments(quantization: QuantizationConfig, compute_dtype: str) -> dict[str, Any] | None:
    """Arguments of `BitsAndBytesConfig`, or None where the base stays unquantised."""
    if quantization.kind == "none":
        return None
    if quantization.kind == "int8":
        return {"load_in_8bit": True}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quantization.kind,
        "bnb_4bit_use_double_quant": quantization.double_quantization,
        "bnb_4bit_compute_dtype": compute_dtype,
        "bnb_4bit_quant_storage": quantization.storage_dtype,
    }


def lora_arguments(lora: LoraConfig, target_modules: str | list[str]) -> dict[str, Any]:
    """Arguments of `peft.LoraConfig`. LoftQ is applied to the attached adapter afterwards, so it starts as default."""
    return {
        "task_type": "CAUSAL_LM",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": target_modules,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "init_lora_weights": "pissa" if lora.initialization == "pissa" else True,
        "modules_to_save": list(lora.modules_to_save) or None,
        "bias": "none",
    }


def trainer_arguments(
    config: RunConfig, *, steps: int, compute_dtype: str, on_gpu: bool, evaluates: bool, output_directory: Path
) -> dict[str, Any]:
    """Arguments of `trl.SFTConfig` for a dataset that is tokenised, labelled and in its final order already."""
    training = config.training
    return {
        **_optimiser_arguments(training, steps),
        **_evaluation_arguments(training, evaluates),
        "output_dir": str(output_directory),
        "max_steps": steps,
        "per_device_train_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "gradient_checkpointing": training.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": compute_dtype == "bfloat16",
        "fp16": compute_dtype == "float16",
        "use_cpu": not on_gpu,
        "seed": training.seed,
        "train_sampling_strategy": "sequential",
        "logging_strategy": "steps",
        "logging_steps": training.log_every_steps,
        "logging_nan_inf_filter": False,
        "report_to": training.tracking,
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": on_gpu,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }


def optimizer_name(optimizer: str) -> str:
    """The optimiser as Transformers calls it."""
    return _OPTIMIZER_NAMES.get(optimizer, optimizer)


def _optimiser_arguments(training: TrainingConfig, steps: int) -> dict[str, Any]:
    return {
        "optim": optimizer_name(training.optimizer),
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule,
        # Whole steps, since Transformers reads a value below 1 as a ratio and 0.03 of 20 steps would be none at all; but
        # never all of them, since warm-up begins at a rate of 0 and a single step would train nothing.
        "warmup_steps": min(math.ceil(training.warmup_fraction * steps), steps - 1),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_gradient_norm,
    }


def _evaluation_arguments(training: TrainingConfig, evaluates: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {"per_device_eval_batch_size": training.micro_batch_size, "prediction_loss_only": True}
    if evaluates and training.evaluation_every_steps is not None:
        return {**arguments, "eval_strategy": "steps", "eval_steps": training.evaluation_every_steps}
    return {**arguments, "eval_strategy": "no"}
