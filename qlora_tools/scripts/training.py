"""What the training script of a config is rendered with."""

from ..config.library_arguments import ATTENTION_MODULES, optimizer_name
from ..config.schema import RunConfig, TrainingConfig
from ..models.reference import ModelReference
from .asking import attention_choice
from .inputs import ScriptInputs, base_inputs, without_tilde
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
            **_training_choices(config, rows.choices["evaluation"]),
            "notebook": notebook,
        },
        values={**base.values, **rows.values, **_lora_values(config), **_training_values(config)},
        notes=(*rows.notes, *_engine_notes(config)),
    )


def _engine_notes(config: RunConfig) -> tuple[str, ...]:
    if config.training.engine != "fast":
        return ()
    return ("The script trains as the stock engine does; losses of the fast engine agree with it to rounding.",)


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
        "output": without_tilde(config.output.directory),
        "keep_checkpoints": config.output.keep_checkpoints,
    }


def _training_choices(config: RunConfig, held_out: Choice) -> dict[str, Choice]:
    training, every = config.training, config.training.evaluation_every_steps
    evaluates = every is not None
    keeps_best = evaluates and training.keep_best
    saves_every = training.checkpoint_every_steps
    return {
        "attention": attention_choice(config.model),
        "is_local": ModelReference.parse(config.model.name, source=config.model.source).source == "local",
        "layout": _layout(config),
        "uses_bitsandbytes_optimizer": "8bit" in training.optimizer or "paged" in training.optimizer,
        "tracker": training.tracking,
        "has_max_steps": training.max_steps is not None,
        "evaluates_during": evaluates,
        "keeps_best": keeps_best,
        "has_checkpoint_steps": saves_every is not None and not keeps_best,
        # Trainer, which is to find the best again, saves at evaluations; this is for what they are too rare for.
        "saves_between": keeps_best and saves_every is not None and every is not None and saves_every < every,
        "early_stopping": training.early_stopping_patience is not None,
        "samples": training.evaluation_samples > 0 and held_out != "none",
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
    *("evaluation_every_steps", "evaluation_samples", "checkpoint_every_steps", "early_stopping_patience"),
)


def _training_values(config: RunConfig) -> dict[str, Value]:
    training: TrainingConfig = config.training
    return {
        **{name: getattr(training, name) for name in _SAME_NAME},
        "optim": optimizer_name(training.optimizer),
        "tracker_name": training.tracking,
    }
