"""The engines beside ours, through their public interfaces, and the checkpoint on disk that Unsloth reads."""

import shutil
from pathlib import Path
from typing import Any

import torch
from engine_work import Work, random_base, tokenizer
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from qlora_tools.config.library_arguments import lora_arguments, trainer_arguments

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_FUSED = {"phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}


def trl_model(work: Work) -> Any:
    """PEFT's model as a script makes it: `tutorial` prepares it for k-bit training, which casts to fp32; `trl` does not."""
    base = random_base(work)
    if work.engine == "tutorial":
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=not work.case.kept)
    return get_peft_model(base, LoraConfig(**lora_arguments(work.config.lora, "all-linear")))


def trl_trainer(work: Work, model: Any, callbacks: list[Any]) -> Any:
    """`SFTTrainer` on rows that are tokenised; packed ones lie side by side and their positions tell where rows end."""
    arguments = SFTConfig(**_arguments(work), use_liger_kernel=work.engine == "trl-liger")
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=work.training_set.dataset,
        data_collator=work.training_set.collator,
        processing_class=tokenizer(),
        callbacks=callbacks,
    )


def _arguments(work: Work) -> dict[str, Any]:
    return trainer_arguments(
        work.config,
        steps=work.training_set.steps,
        compute_dtype=work.dtype,
        on_gpu=work.device == "cuda",
        evaluates=False,
        output_directory=work.scratch,
    )


def unsloth_model(work: Work, checkpoint: Path) -> Any:
    """Unsloth's model at its best: no dropout, its own gradient checkpointing, or none where all is kept."""
    from unsloth import FastLanguageModel  # type: ignore[import-not-found]

    length = work.case.length
    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(checkpoint), max_seq_length=length, dtype=torch.bfloat16, load_in_4bit=True
    )
    return FastLanguageModel.get_peft_model(
        model,
        r=work.config.lora.rank,
        target_modules=_FUSED.get(work.values["model_type"], SEVEN),
        lora_alpha=work.config.lora.alpha,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing=False if work.case.kept else "unsloth",
        random_state=0,
        max_seq_length=length,
    )


def unsloth_trainer(work: Work, model: Any, callbacks: list[Any]) -> Any:
    """TRL's trainer as Unsloth patches it; chat-like rows are packed by its own packing, so its bins are not ours."""
    from trl import SFTConfig, SFTTrainer  # the patched ones

    values, packed = _arguments(work), work.case.lengths == "chat"
    if not work.case.kept:  # left to Unsloth, as its notebooks do
        del values["gradient_checkpointing"]
    del values["gradient_checkpointing_kwargs"]
    rows: dict[str, Any] = {"train_dataset": work.training_set.dataset, "data_collator": work.training_set.collator}
    if packed:
        from datasets import Dataset

        del values["dataset_kwargs"]
        values |= {"packing": True, "max_length": work.case.length}
        rows = {"train_dataset": Dataset.from_list([{"input_ids": row.input_ids} for row in work.rows.rows])}
    return SFTTrainer(
        model=model,
        args=SFTConfig(**values),
        processing_class=four_words(),
        callbacks=callbacks,
        **rows,
    )


def write_checkpoint(work: Work, folder: Path) -> None:
    """The random base as a checkpoint in 4 bits with a small tokenizer, so that nothing is downloaded or quantised again."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    base = random_base(work)
    base.config.quantization_config.llm_int8_skip_modules = ["lm_head"]
    base.save_pretrained(unfinished)
    four_words().save_pretrained(unfinished)
    unfinished.rename(folder)


def four_words() -> Any:
    """A tokenizer whose special tokens are all there and all different: Unsloth adds those that it misses."""
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(names.values())}, unk_token="<unk>"))  # noqa: S106
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)
