"""Axolotl's YAML as a RunConfig. Names and defaults are those of its configuration schema (axolotl 0.13)."""

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from .axolotl_datasets import settle_datasets
from .recipes import Account, Converted, Field, Left, NotCarriedError, Rules, Section, left
from .recipes_models import settle_model
from .recipes_training import SHARED, note_batch, settle_names, settle_precision, settle_training, settle_warmup
from .recipes_values import checkpointing, names, number, targets, truth, whole

_OTHER_WORK = {
    "rl": "preference or reinforcement training",
    "reward_model": "the training of a reward model",
    "process_reward_model": "the training of a reward model",
    "pretraining_dataset": "pretraining",
    "gptq": "training on a GPTQ base",
    "diffusion": "the training of a diffusion model",
    "qat": "quantisation-aware training",
}
_RULES: Rules = {
    "lora_r": Field("lora.rank", whole),
    "lora_alpha": Field("lora.alpha", number),
    "lora_dropout": Field("lora.dropout", number),
    "lora_modules_to_save": Field("lora.modules_to_save", names),
    "peft_use_dora": Field("lora.use_dora", truth),
    "peft_use_rslora": Field("lora.use_rslora", truth),
    "sequence_len": Field("training.max_length_tokens", whole),
    "micro_batch_size": Field("training.micro_batch_size", whole),
    "num_epochs": Field("training.epochs", number),
    "gradient_checkpointing": Field("training.gradient_checkpointing", checkpointing),
    "activation_offloading": Left(
        "activations are not offloaded to the host", "Let `qlora plan` find a batch and a length that fit."
    ),
    **left(
        "model and tokenizer classes are found by the model's own files",
        "Nothing.",
        "model_type tokenizer_type tokenizer_use_fast tokenizer_legacy processor_type is_llama_derived_model "
        "is_falcon_derived_model is_mistral_derived_model is_qwen_derived_model cls_model_config base_model_config "
        "tokenizer_use_mistral_common tokenizer_save_jinja_files low_cpu_mem_usage base_model_ignore_patterns",
    ),
    **left(
        "rows are rendered with the chat template of the model's own tokenizer",
        "Where that template is another one, put yours into a local copy of the model.",
        "chat_template chat_template_jinja chat_template_kwargs default_system_message",
    ),
    **left(
        "tokens are not added or replaced, and labels are built from spans of answers, so that pad tokens are never learnt",
        "Where the model needs new tokens, add them to a local copy of it, with lora.modules_to_save.",
        "special_tokens tokens added_tokens_overrides resize_token_embeddings_to_32x fix_untrained_tokens "
        "mean_resizing_embeddings shrink_embeddings tokenizer_config eot_tokens",
    ),
    **left(
        "the adapter always starts anew on plain linear layers of every block",
        "Nothing, unless the recipe depends on it.",
        "lora_model_dir lora_fan_in_fan_out lora_target_parameters peft_layers_to_transform peft_layers_pattern "
        "peft_layer_replication peft_trainable_token_indices peft_ensure_weight_tying peft_autocast_adapter_dtype "
        "unfrozen_parameters relora relora_steps relora_warmup_steps relora_cpu_offload relora_prune_ratio "
        "relora_prune_method jagged_restart_steps jagged_restart_warmup_steps lisa_n_layers lisa_step_interval",
    ),
    **left(
        "it says how bins are filled, and here they are filled with whole rows, longest first",
        "Nothing.",
        "sample_packing_eff_est sample_packing_group_size sample_packing_bin_size sample_packing_sequentially "
        "multipack_real_batches total_num_tokens curriculum_sampling pretraining_sample_concatenation "
        "sample_packing_mp_start_method",
    ),
    **left(
        "it belongs to Axolotl's own running, watching or merging",
        "Nothing for training; merging is `qlora merge`.",
        "strict debug loss_watchdog_threshold loss_watchdog_patience gc_steps lora_on_cpu merge_lora merge_method "
        "shuffle_merged_datasets qlora_sharded_model_loading plugins torchdistx_path profiler_steps inference "
        "dataset_exact_deduplication experimental_skip_move_to_device axolotl_config_path use_tensorboard",
    ),
    **left(
        "bitsandbytes leaves experts that are stored as one tensor in 16 bits",
        "Ask `qlora estimate` for the memory of such a model.",
        "quantize_moe_experts llama4_linearized_experts experts_implementation model_quantization_config "
        "model_quantization_config_kwargs expert_parallel_size",
    ),
    **left(
        "it chooses kernels or how a model of images is loaded, and rows here are text",
        "Nothing.",
        "liger_rms_norm_gated use_scattermoe use_sonicmoe fused_attn_kernel flex_attn_compile_kwargs freeze_mm_modules "
        "gemma4_hybrid_attn_impl use_dsv4_kernels dsv4_fp4_grouped_mode use_glm_dsa_kernels ple_cpu_offload "
        "nvfp4_merge_aware use_otel_metrics otel_metrics_host otel_metrics_port",
    ),
    **left(
        "rows are kept whatever their least length",
        "`qlora data inspect` finds empty and short rows.",
        "min_sample_len max_prompt_len",
    ),
}
_KINDS = {"int4": "nf4", "nf4": "nf4", "int8": "int8"}
_ATTENTION = {
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
    "flex_attention": "flex_attention",
}


def read_axolotl(values: Mapping[str, Any], account: Account, *, name: str) -> None:
    """Settle every key of an Axolotl recipe. Raises `UsageError` where it is no fine-tuning with LoRA or QLoRA."""
    section = Section(account, values)
    _require_lora(section, name)
    settle_model(section, "base_model", "revision_of_model")
    _settle_quantization(section)
    _settle_adapter(section)
    settle_datasets(section)
    section.apply({"max_steps": SHARED["max_steps"]})
    settle_warmup(section)
    _settle_attention(section)
    _settle_packing(section)
    _settle_batch(section)
    settle_names(section, "optimizer", "lr_scheduler")
    settle_precision(section, unset="Axolotl computes in bf16 where the GPU has it; auto does the same here.")
    _settle_trackers(section)
    _settle_pad_token(section)
    section.apply(_RULES)
    settle_training(section)
    section.close("a setting of Axolotl")
    _take_defaults(account)
    note_batch(account, gpus=" or with another deepspeed or fsdp set-up")


def _require_lora(section: Section, name: str) -> None:
    other = next((work for key, work in _OTHER_WORK.items() if section.is_on(key)), None)
    adapter = section.get("adapter")
    if other is None and adapter not in ("lora", "qlora"):
        other = (
            f"training with the adapter {adapter!r}" if section.is_on("adapter") else "full fine-tuning (no adapter)"
        )
    if other is not None:
        raise UsageError(
            f"The recipe {name} is {other}; only supervised fine-tuning with LoRA or QLoRA can be imported.",
            next_step="Plan a QLoRA run for its model and data: qlora plan --model M --data D.",
        )
    section.switch_off(*_OTHER_WORK)


def _settle_quantization(section: Section) -> None:
    """The way of holding the base, from the adapter's name, two switches and what is handed to bitsandbytes."""
    path, peft = "quantization.kind", section.get("peft")
    peft = peft if isinstance(peft, dict) else {}
    wanted = _KINDS.get(str(peft.get("weight_dtype")))
    four = section.is_on("load_in_4bit") or section.get("adapter") == "qlora"
    kind = wanted or ("nf4" if four else "int8" if section.is_on("load_in_8bit") else "none")
    options = section.get("bnb_config_kwargs")
    if isinstance(options, dict):
        part = Section(section.account, options, form="bnb_config_kwargs.{}")
        kind = "fp4" if part.get("bnb_4bit_quant_type") == "fp4" else kind
        if "bnb_4bit_quant_type" in part:
            part.carry("bnb_4bit_quant_type", path, kind)
        if "bnb_4bit_use_double_quant" in part:
            part.apply({"bnb_4bit_use_double_quant": Field("quantization.double_quantization", truth)})
        part.apply(left("it follows quantization.compute_dtype", "Nothing.", "bnb_4bit_compute_dtype"))
        part.close("an argument of bitsandbytes")
        section.settle("bnb_config_kwargs")
    why = (
        "load_in_4bit beside adapter: lora is read as QLoRA, with NF4"
        if four and section.get("adapter") == "lora"
        else ""
    )
    for key in ("adapter", "load_in_4bit", "load_in_8bit"):
        if key in section:
            section.carry(key, path, kind, why if key == "load_in_4bit" else "")
    if peft:
        _settle_peft(section, peft, kind)


def _settle_peft(section: Section, peft: dict[str, Any], kind: str) -> None:
    part = Section(section.account, peft, form="peft.{}")
    if isinstance(part.get("loftq_config"), dict):
        part.carry("loftq_config", "lora.initialization", "loftq")
    if "weight_dtype" in part and part.get("weight_dtype") in _KINDS:
        torchao = "bitsandbytes holds the weights, not torchao" if part.get("backend") == "torchao" else ""
        part.carry("weight_dtype", "quantization.kind", kind, torchao)
    part.apply(left("bitsandbytes quantises here, in blocks of 64", "Nothing.", "backend group_size"))
    part.close("a setting of Axolotl's peft")
    section.settle("peft")


def _settle_adapter(section: Section) -> None:
    listed, every = section.get("lora_target_modules"), section.is_on("lora_target_linear")
    if every:
        why = "every linear layer has the named ones among them" if listed else ""
        section.carry("lora_target_linear", "lora.target_modules", "all-linear", why)
        if listed:
            section.carry("lora_target_modules", "lora.target_modules", "all-linear", why)
    else:
        section.switch_off("lora_target_linear")
        section.apply({"lora_target_modules": Field("lora.target_modules", targets)})
    start = section.get("peft_init_lora_weights")
    if start in ("pissa", "loftq"):
        section.carry("peft_init_lora_weights", "lora.initialization", start)
    elif start is True:
        section.carry("peft_init_lora_weights", "lora.initialization", "default")
    elif start is not None:
        section.leave("peft_init_lora_weights", "adapters start as default, loftq or pissa", "Set lora.initialization.")


def _settle_attention(section: Section) -> None:
    for key, ours in _ATTENTION.items():
        if section.is_on(key):
            section.carry(key, "model.attention_implementation", ours)
        section.switch_off(key)
    section.apply(
        left(
            "there is no such attention here",
            "Set model.attention_implementation: sdpa computes the same as xformers.",
            "xformers_attention s2_attention sage_attention flash_optimum",
        )
    )


def _settle_packing(section: Section) -> None:
    path = "training.packing"
    if section.is_on("sample_packing"):
        section.carry("sample_packing", path, "bins")
    elif section.is_on("batch_flattening"):
        section.carry("batch_flattening", path, "padding_free")
    if "sample_packing" in section and not section.account.has(path):
        section.carry("sample_packing", path, "off")
    section.switch_off("sample_packing", "batch_flattening")
    strategy = section.get("excess_length_strategy")
    if strategy in ("drop", "truncate"):
        section.carry("excess_length_strategy", "data.long_rows", "drop" if strategy == "drop" else "cut")
    elif strategy is not None:
        section.leave("excess_length_strategy", "long rows are cut or dropped, and counted", "Set data.long_rows.")
    why = "Axolotl drops rows over sequence_len where the recipe says nothing; here they would be cut"
    section.account.imply("data.long_rows", "drop", name="excess_length_strategy", shown="(left out)", why=why)


def _settle_pad_token(section: Section) -> None:
    """A pad token alone changes nothing, since labels are built from spans of answers."""
    tokens = section.get("special_tokens")
    if isinstance(tokens, dict) and set(tokens) == {"pad_token"}:
        section.leave("special_tokens", "pad tokens are never learnt here, whichever they are", "Nothing.")


def _settle_batch(section: Section) -> None:
    """A batch that is given whole is the micro-batch times the accumulation."""
    size = section.get("micro_batch_size")

    def accumulation(value: Any) -> Converted:
        rows, rows_at_once = whole(value), whole(size)
        if "gradient_accumulation_steps" in section or rows_at_once < 1 or rows % rows_at_once:
            raise NotCarriedError("micro-batch and accumulation make the batch", "Set them as you need.")
        return Converted(rows // rows_at_once, f"{rows} rows in micro-batches of {rows_at_once}")

    section.apply({"batch_size": Field("training.gradient_accumulation_steps", accumulation)})


def _settle_trackers(section: Section) -> None:
    why = "the recipe names a project for it, which is how Axolotl turns it on"
    for tracker, keys in (
        ("wandb", ("use_wandb", "wandb_project")),
        ("mlflow", ("use_mlflow", "mlflow_experiment_name")),
    ):
        key = next((key for key in keys if section.is_on(key)), None)
        if key is not None and not section.account.has("training.tracking"):
            section.carry(key, "training.tracking", tracker, why)
    if section.is_on("use_tensorboard") and not section.account.has("training.tracking"):
        section.carry("use_tensorboard", "training.tracking", "tensorboard")
    section.apply(left("one tracker is reported to", "Set training.tracking.", "use_wandb use_mlflow use_comet"))


def _take_defaults(account: Account) -> None:
    of = "Axolotl's default"
    account.take_default("training.max_length_tokens", 512, of)
    account.take_default("training.micro_batch_size", 1, of)
    account.take_default("training.gradient_accumulation_steps", 1, of)
    if not account.has("training.max_steps"):
        account.take_default("training.epochs", 1.0, of)
    account.take_default("training.optimizer", "adamw_torch", of)
    account.take_default("training.gradient_checkpointing", False, of)
    account.take_default("training.packing", "off", of)
    account.take_default("lora.rank", 8, "PEFT's default")
    account.take_default("lora.alpha", 8.0, "PEFT's default")
    if account.has("training.evaluation_every_steps"):
        account.take_default("training.keep_best", False, of)
