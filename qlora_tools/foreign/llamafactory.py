"""LLaMA-Factory's YAML or JSON as a RunConfig. Names and defaults are those of its argument classes (version 0.9)."""

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from .llamafactory_datasets import settle_datasets
from .recipes import Account, Field, Rules, Section, left
from .recipes_models import settle_model
from .recipes_reading import shown_value
from .recipes_training import SHARED, note_batch, settle_names, settle_precision, settle_training, settle_warmup
from .recipes_values import attention, names, number, opposite, targets, truth, whole

_STAGES = {
    "pt": "pretraining (stage pt)",
    "rm": "the training of a reward model (stage rm)",
    "ppo": "reinforcement training (stage ppo)",
    "dpo": "preference training (stage dpo)",
    "kto": "preference training (stage kto)",
}
_BITSANDBYTES = ("bitsandbytes", "bnb", "quantizationmethod.bnb")
_OTHER_ADAPTERS = ("use_galore", "use_apollo", "use_badam", "use_llama_pro", "train_from_scratch", "mixture_of_depths")
_RULES: Rules = {
    "lora_rank": Field("lora.rank", whole),
    "lora_alpha": Field("lora.alpha", number),
    "lora_dropout": Field("lora.dropout", number),
    "lora_target": Field("lora.target_modules", targets),
    "additional_target": Field("lora.modules_to_save", names),
    "use_dora": Field("lora.use_dora", truth),
    "use_rslora": Field("lora.use_rslora", truth),
    "per_device_train_batch_size": Field("training.micro_batch_size", whole),
    "num_train_epochs": Field("training.epochs", number),
    "cutoff_len": Field("training.max_length_tokens", whole),
    "flash_attn": Field("model.attention_implementation", attention),
    "disable_gradient_checkpointing": Field("training.gradient_checkpointing", opposite),
    "gradient_checkpointing": Field("training.gradient_checkpointing", truth),
    "double_quantization": Field("quantization.double_quantization", truth),
    **left(
        "rows are rendered with the chat template of the model's own tokenizer",
        "Compare the two: `qlora data inspect` shows rendered rows. Base models without one get an Alpaca-style template.",
        "template default_system tool_format enable_thinking efficient_eos replace_text",
    ),
    **left(
        "it is for images, sound or video, and rows here are text",
        "Nothing for text.",
        "image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels video_fps "
        "video_maxlen use_audio_in_video audio_sampling_rate media_dir freeze_vision_tower freeze_multi_modal_projector "
        "freeze_language_model train_mm_proj_only image_resolution video_resolution",
    ),
    **left(
        "rows are all read; nothing caps their number",
        "Take fewer rows with data.weight, such as 0.1, or stop early with training.max_steps.",
        "max_samples",
    ),
    **left(
        "sources are mixed by their rows and data.weight, fixed by the seed",
        "Set data.weight and those of data.more_sources.",
        "mix_strategy interleave_probs",
    ),
    **left(
        "the adapter always starts anew as LoRA on whole blocks",
        "Nothing, unless the recipe depends on it.",
        "adapter_name_or_path adapter_folder create_new_adapter pissa_iter pissa_convert freeze_trainable_layers "
        "freeze_trainable_modules freeze_extra_modules module_dropout oft_rank oft_block_size oft_target shift_attn "
        "rope_scaling moe_aux_loss_coef use_asft_loss use_dft_loss use_eaft_loss ref_model pref_beta pref_loss pref_ftx "
        "ppo_epochs reward_model galore_rank galore_target apollo_rank apollo_target badam_mode",
    ),
    **left(
        "norms, head and embeddings stay in 16 bits: making them fp32 takes gigabytes and gains nothing measurable",
        "Nothing.",
        "upcast_layernorm upcast_lmhead_output",
    ),
    **left(
        "tokens are not added, and labels are built from spans of answers, so that pad tokens are never learnt",
        "Where the model needs new tokens, add them to a local copy of it, with lora.modules_to_save.",
        "resize_vocab split_special_tokens add_tokens add_special_tokens new_special_tokens_config init_special_tokens "
        "use_fast_tokenizer ignore_pad_token_for_loss",
    ),
    **left(
        "it is for generating, predicting or exporting, not for training",
        "Generating is `qlora generate`, merging `qlora merge`, exporting `qlora export`.",
        "infer_backend infer_dtype offload_folder use_cache use_kv_cache predict_with_generate do_predict do_sample "
        "temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty length_penalty skip_special_tokens "
        "export_dir export_size export_device export_quantization_bit export_legacy_format export_hub_model_id "
        "eval_num_beams vllm_maxlen vllm_gpu_util vllm_enforce_eager compute_accuracy",
    ),
    **left(
        "it belongs to LLaMA-Factory's own running and watching",
        "Nothing for training.",
        "print_param_status low_cpu_mem_usage eval_on_each_dataset use_swanlab swanlab_project swanlab_workspace "
        "swanlab_run_name swanlab_mode swanlab_logdir use_unsloth_gc use_v1_kernels ray_storage_path placement_strategy "
        "ray_storage_filesystem ray_init_kwargs ray_scheduler_type master_addr master_port use_kt kt_optimize_rule "
        "cpu_infer chunk_size quantization_device_map early_stopping_steps disable_shuffling use_mca",
    ),
    **left(
        "keys to services are read from the environment, and none stands in a config",
        "Set HF_TOKEN in the environment.",
        "hf_hub_token ms_hub_token om_hub_token swanlab_api_key swanlab_lark_webhook_url swanlab_lark_secret",
    ),
}


def read_llamafactory(
    values: Mapping[str, Any], account: Account, *, name: str, dataset_info: Mapping[str, Any] | None
) -> None:
    """Settle every key of a LLaMA-Factory recipe. Raises `UsageError` where it is no fine-tuning with LoRA or QLoRA."""
    section = Section(account, values)
    _require_lora(section, name)
    settle_model(section, "model_name_or_path", "model_revision")
    _settle_quantization(section, name)
    settle_datasets(section, dataset_info)
    _settle_packing(section)
    _settle_loss(section)
    section.apply({"early_stopping_steps": SHARED["early_stopping_patience"]})
    section.apply({"max_steps": SHARED["max_steps"]})
    settle_warmup(section, default_of="LLaMA-Factory's default")
    settle_names(section, "optim", "lr_scheduler_type")
    settle_precision(
        section,
        unset="The recipe names neither bf16 nor fp16, so LLaMA-Factory computes in fp32; here auto takes bf16 or fp16 by "
        "the GPU, which halves activations and is what QLoRA uses.",
    )
    section.apply(_RULES)
    settle_training(section)
    section.close("a setting of LLaMA-Factory")
    _take_defaults(account)
    note_batch(account)


def _require_lora(section: Section, name: str) -> None:
    stage, kind = str(section.get("stage") or "sft"), str(section.get("finetuning_type") or "lora")
    found = _STAGES.get(stage) or ("" if stage == "sft" else f"of the stage {stage!r}")
    if not found and kind != "lora":
        found = "full fine-tuning" if kind == "full" else f"training by {kind!r} instead of LoRA"
    found = found or next((f"training with {key}" for key in _OTHER_ADAPTERS if section.is_on(key)), "")
    if not found and section.is_on("do_predict") and not section.is_on("do_train"):
        found = "prediction (do_predict), which trains nothing"
    if not found and section.is_on("export_dir"):
        found = "an export (export_dir), which trains nothing"
    if found:
        raise UsageError(
            f"The recipe {name} is {found}; only supervised fine-tuning (stage: sft) with LoRA or QLoRA can be imported.",
            next_step="Plan a QLoRA run for its model and data: qlora plan --model M --data D.",
        )
    section.account.notes += [
        f"{key} is what every run here is." for key in ("stage", "finetuning_type") if key in section
    ]
    section.settle("stage", "finetuning_type")
    section.switch_off(*_OTHER_ADAPTERS)


def _settle_quantization(section: Section, name: str) -> None:
    method, bits = str(section.get("quantization_method") or "bnb").lower(), str(section.get("quantization_bit") or 16)
    path = "quantization.kind"
    if bits != "16" and (method not in _BITSANDBYTES or bits not in ("4", "8")):
        raise UsageError(
            f"The recipe {name} quantises its base to {shown_value('', bits)} bits with {shown_value('', method)}; here "
            "bitsandbytes holds 4 or 8 bits.",
            next_step="Import it with quantization_bit: 4 and without quantization_method, or plan a run: qlora plan.",
        )
    kind = {"4": "nf4", "8": "int8"}.get(bits, "none")
    if kind == "nf4" and section.get("quantization_type") == "fp4":
        kind = "fp4"
    for key in ("quantization_bit", "quantization_type", "quantization_method"):
        if key in section:
            section.carry(key, path, kind)
    if kind == "none":
        section.account.take_default(path, "none", "LLaMA-Factory's default without quantization_bit")
    if section.is_on("pissa_init"):
        section.carry("pissa_init", "lora.initialization", "pissa")
    section.switch_off("pissa_init")


def _settle_packing(section: Section) -> None:
    path = "training.packing"
    if section.is_on("neat_packing"):
        section.carry("neat_packing", path, "bins")
    why = "" if section.account.has(path) else "rows in a bin do not attend to each other here"
    if section.is_on("packing"):
        section.carry("packing", path, "bins", why)
    elif "packing" in section:
        section.carry("packing", path, section.account.settings.get(path, "off"))
    section.switch_off("neat_packing")


def _settle_loss(section: Section) -> None:
    if section.is_on("train_on_prompt"):
        section.carry("train_on_prompt", "data.loss_on", "all")
    elif section.is_on("mask_history"):
        section.carry("mask_history", "data.loss_on", "completions")
    section.switch_off("train_on_prompt", "mask_history")


def _take_defaults(account: Account) -> None:
    of = "LLaMA-Factory's default"
    rank = account.value("lora.rank") or 8
    account.take_default("data.loss_on", "assistant", of)
    account.take_default("lora.rank", 8, of)
    account.take_default("lora.alpha", float(2 * rank), of)
    account.take_default("training.micro_batch_size", 8, of)
    account.take_default("training.gradient_accumulation_steps", 1, of)
    account.take_default("training.learning_rate", 5e-5, of)
    account.take_default("training.schedule", "linear", of)
    account.take_default("training.optimizer", "adamw_torch", of)
    account.take_default("training.packing", "off", of)
    if account.has("training.evaluation_every_steps"):
        account.take_default("training.keep_best", False, of)
