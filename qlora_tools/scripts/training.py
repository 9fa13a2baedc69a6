"""What the training script of a config is rendered with."""

from ..config.library_arguments import ATTENTION_MODULES, optimizer_name
from ..config.schema import RunConfig, TrainingConfig
from .inputs import ScriptInputs, base_inputs
from .literals import Value
from .rendering import Choice
from .script_rows import ScriptRows


def training_inputs(config: RunConfig, rows: ScriptRows, *, notebook: bool = False) -> ScriptInputs:
    """Inputs of `train.py.j2`; `rows` says how the script comes by its rows."""
    base = base_inputs(config)
    return ScriptInputs(
        choices={
            **base.choices,
            **rows.choices,
            **_lora_choices(config),
            **_training_choices(config),
            "notebook": notebook,
        },
        values={**base.values, **rows.values, **_lora_values(config), **_training_values(config)},
        notes=rows.notes,
    )


def _lora_choices(config: RunConfig) -> dict[str, Choice]:
    lora = config.lora
    return {
        "targets": lora.target_modules if isinstance(lora.target_modules, str) else "named",
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "initialization": lora.initialization,
        "saves_modules": bool(lora.modules_to_save),
        "shards": config.quantization.storage_dtype != "uint8",
    }


def _lora_values(config: RunConfig) -> dict[str, Value]:
    lora = config.lora
    return {
        "rank": lora.rank,
        "alpha": lora.alpha,
        "dropout": lora.dropout,
        "target_modules": [] if isinstance(lora.target_modules, str) else list(lora.target_modules),
        "attention_modules": list(ATTENTION_MODULES),
        "modules_to_save": list(lora.modules_to_save),
        "output": config.output.directory,
        "keep_checkpoints": config.output.keep_checkpoints,
    }


def _training_choices(config: RunConfig) -> dict[str, Choice]:
    training = config.training
    evaluates = training.evaluation_every_steps is not None
    return {
        "attention": config.model.attention_implementation,
        "layout": _layout(config),
        "uses_bitsandbytes_optimizer": "8bit" in training.optimizer or "paged" in training.optimizer,
        "tracker": training.tracking,
        "has_max_steps": training.max_steps is not None,
        "evaluates_during": evaluates,
        "has_checkpoint_steps": training.checkpoint_every_steps is not None,
        "tracks_best": evaluates and (training.keep_best or training.early_stopping_patience is not None),
        "early_stopping": training.early_stopping_patience is not None,
        "samples": training.evaluation_samples > 0,
        "smoke": training.smoke_generation,
        "gradient_checkpointing": training.gradient_checkpointing,
        "overwrite": config.output.overwrite,
    }


def _layout(config: RunConfig) -> str:
    """The layout that `auto` means: rows lie side by side only where attention is sure to keep them apart."""
    if config.training.packing != "auto":
        return config.training.packing
    return "padding_free" if config.model.attention_implementation == "flash_attention_2" else "off"


_SAME_NAME = (
    *("max_length_tokens", "micro_batch_size", "gradient_accumulation_steps", "learning_rate", "schedule"),
    *("warmup_fraction", "weight_decay", "max_gradient_norm", "log_every_steps", "epochs", "max_steps", "seed"),
    *("evaluation_every_steps", "evaluation_samples", "checkpoint_every_steps", "early_stopping_patience", "keep_best"),
)


def _training_values(config: RunConfig) -> dict[str, Value]:
    training: TrainingConfig = config.training
    return {
        **{name: getattr(training, name) for name in _SAME_NAME},
        "optim": optimizer_name(training.optimizer),
        "tracker_name": training.tracking,
    }
