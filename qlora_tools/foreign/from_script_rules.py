"""Arguments of Transformers, PEFT, TRL and Unsloth, and the fields that they are here."""

from typing import Any

from .recipes import Converted, Field, NotCarriedError, Rules, left
from .recipes_training import SHARED
from .recipes_values import attention, checkpointing, names, number, targets, truth, whole

_LOADING = left(
    "how weights are found, read and cached is settled by the engine",
    "Nothing.",
    "low_cpu_mem_usage use_cache local_files_only offload_folder offload_state_dict offload_buffers use_safetensors "
    "pretraining_tp force_download subfolder variant max_lora_rank gpu_memory_utilization fast_inference config "
    "float8_kv_cache disable_log_stats use_exact_model_name resize_model_vocab fix_tokenizer rope_scaling key_mapping "
    "tokenizer_name use_kernels output_loading_info load_in_16bit return_logits unsloth_tiled_mlp qat_scheme",
) | left(
    "keys to services are read from the environment, and none stands in a config",
    "Set HF_TOKEN in the environment.",
    "token use_auth_token",
)


def _flash(value: Any) -> Converted:
    return Converted("flash_attention_2" if truth(value) else "auto")


def _no_full(value: Any) -> Converted:
    if truth(value):
        raise NotCarriedError("the base stays frozen here", "Nothing: a LoRA adapter is trained.")
    raise NotCarriedError("it is so here", "Nothing.")


def _bias(value: Any) -> Converted:
    raise NotCarriedError("biases stay frozen here", "Nothing: they have next to no effect beside the adapter.")


def start(value: Any) -> Converted:
    """Our start of an adapter for PEFT's `init_lora_weights`."""
    word = value.lower() if isinstance(value, str) else value
    if word is True or word in ("default", "true"):
        return Converted("default")
    if word == "gaussian":
        return Converted("default", "A is drawn uniformly, not from a normal distribution; B is zero in both")
    if isinstance(word, str) and word.startswith("pissa"):
        return Converted("pissa", "" if word == "pissa" else "with the exact decomposition")
    if word == "loftq":
        return Converted("loftq")
    raise NotCarriedError("adapters start as default, loftq or pissa", "Set lora.initialization.")


MODEL: Rules = {
    "attn_implementation": Field("model.attention_implementation", attention),
    "use_flash_attention_2": Field("model.attention_implementation", _flash),
    **_LOADING,
}
UNSLOTH_MODEL: Rules = {
    **MODEL,
    "max_seq_length": Field("training.max_length_tokens", whole),
    "random_state": Field("training.seed", whole),
    "use_gradient_checkpointing": Field("training.gradient_checkpointing", checkpointing),
    "full_finetuning": Field("lora.target_modules", _no_full),
}
LORA: Rules = {
    "r": Field("lora.rank", whole),
    "lora_alpha": Field("lora.alpha", number),
    "lora_dropout": Field("lora.dropout", number),
    "target_modules": Field("lora.target_modules", targets),
    "modules_to_save": Field("lora.modules_to_save", names),
    "use_rslora": Field("lora.use_rslora", truth),
    "use_dora": Field("lora.use_dora", truth),
    "init_lora_weights": Field("lora.initialization", start),
    "bias": Field("lora.target_modules", _bias),
    **left(
        "what is adapted is named by lora.target_modules alone, the same in every block and with one rank",
        "Nothing, unless the recipe depends on it.",
        "layers_to_transform layers_pattern layer_replication rank_pattern alpha_pattern exclude_modules "
        "target_parameters trainable_token_indices finetune_vision_layers finetune_language_layers "
        "finetune_attention_modules finetune_mlp_modules",
    ),
    **left(
        "it belongs to a kind of adapter that is not offered here, or to how PEFT keeps it",
        "Nothing for LoRA, DoRA and rsLoRA.",
        "fan_in_fan_out inference_mode megatron_config megatron_core loftq_config eva_config corda_config lora_ga_config "
        "velora_config alora_invocation_tokens use_qalora qalora_group_size monteclora_config runtime_config lora_bias "
        "use_bdlora arrow_config kasa_config auto_mapping peft_version base_model_name_or_path revision peft_type "
        "ensure_weight_tying temporary_location model",
    ),
}
UNSLOTH_LORA: Rules = {
    **LORA,
    "use_gradient_checkpointing": Field("training.gradient_checkpointing", checkpointing),
    "random_state": Field("training.seed", whole),
    "max_seq_length": Field("training.max_length_tokens", whole),
}
PREPARED: Rules = {
    "use_gradient_checkpointing": Field("training.gradient_checkpointing", checkpointing),
    **left("recomputation is always the kind without reentrance", "Nothing.", "gradient_checkpointing_kwargs"),
}


def _packing(value: Any) -> str:
    return "bins" if truth(value) else "off"


def _free(value: Any) -> str:
    if truth(value):
        return "padding_free"
    raise NotCarriedError("it is off, which packing: off says", "Nothing.")


def _epochs(value: Any) -> float:
    found = number(value)
    if found <= 0:
        raise NotCarriedError("steps decide, not epochs", "Nothing where max_steps is set.")
    return found


TRAINING: Rules = {
    **SHARED,
    "per_device_train_batch_size": Field("training.micro_batch_size", whole),
    "num_train_epochs": Field("training.epochs", _epochs),
    "gradient_checkpointing": Field("training.gradient_checkpointing", checkpointing),
    "activation_checkpointing": Field("training.gradient_checkpointing", checkpointing),
    "max_length": Field("training.max_length_tokens", whole),
    "max_seq_length": Field("training.max_length_tokens", whole),
    "packing": Field("training.packing", _packing),
    "padding_free": Field("training.packing", _free),
    **left(
        "rows are shuffled, cut and rendered by the data part of a config, with the model's own chat template",
        "Look at rendered rows: `qlora data inspect`.",
        "packing_strategy truncation_mode shuffle_dataset chat_template_path eos_token pad_token dataset_kwargs "
        "data_seed dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context num_of_sequences "
        "chars_per_token add_special_tokens append_concat_token use_liger",
    ),
    **left(
        "the base and how it is loaded stand in model and quantization",
        "Nothing.",
        "model_init_kwargs",
    ),
    **left(
        "it belongs to the trainer's own running and watching, or to several machines",
        "Nothing.",
        "average_tokens_across_devices ddp_static_graph debug do_predict enable_jit_checkpoint eval_delay "
        "eval_use_gather_object full_determinism include_for_metrics liger_kernel_config log_level_replica "
        "log_on_each_node project restore_callback_states_from_checkpoint skip_memory_metrics trackio_bucket_id "
        "trackio_space_id trackio_static_space_id use_cache use_cpu no_cuda half_precision_backend optim_target_modules "
        "loss_type router_aux_loss_coef activation_offloading use_mps_device jit_mode_eval embedding_learning_rate",
    ),
}
TRAINER: Rules = {
    "max_seq_length": Field("training.max_length_tokens", whole),
    "packing": Field("training.packing", _packing),
    **left(
        "rows are read, rendered and batched by the data part of a config",
        "Look at rendered rows and what is learnt of them: `qlora data inspect`.",
        "dataset_num_proc dataset_batch_size dataset_kwargs num_of_sequences chars_per_token neftune_noise_alpha "
        "model_init_kwargs infinite eval_packing",
    ),
}
