"""Settings that recipes share, since they all end up in Transformers' training arguments."""

from .recipes import Account, Field, NotCarriedError, Rules, Section, left
from .recipes_values import attention, every, number, optimizer, schedule, share, steps, tracker, truth, whole

SHARED: Rules = {
    "seed": Field("training.seed", whole),
    "learning_rate": Field("training.learning_rate", number),
    "weight_decay": Field("training.weight_decay", number),
    "max_grad_norm": Field("training.max_gradient_norm", number),
    "gradient_accumulation_steps": Field("training.gradient_accumulation_steps", whole),
    "max_steps": Field("training.max_steps", steps),
    "eval_steps": Field("training.evaluation_every_steps", every("training.evaluation_every_steps")),
    "save_steps": Field("training.checkpoint_every_steps", every("training.checkpoint_every_steps")),
    "save_total_limit": Field("output.keep_checkpoints", whole),
    "logging_steps": Field("training.log_every_steps", every("training.log_every_steps")),
    "early_stopping_patience": Field("training.early_stopping_patience", whole),
    "load_best_model_at_end": Field("training.keep_best", truth),
    "output_dir": Field("output.directory", str),
    "attn_implementation": Field("model.attention_implementation", attention),
    "report_to": Field("training.tracking", tracker),
    **left(
        "it changes how the run is spread over machines and GPUs, and here one GPU trains",
        "Nothing for one GPU.",
        "deepspeed fsdp fsdp_config fsdp_transformer_layer_cls_to_wrap ddp ddp_timeout ddp_bucket_cap_mb "
        "ddp_broadcast_buffers ddp_find_unused_parameters ddp_backend local_rank world_size accelerator_config device_map "
        "device tensor_parallel_size context_parallel_size sequence_parallel_degree heads_k_stride dp_shard_size "
        "dp_replicate_size fsdp_version fsdp_final_state_dict_type parallelism_config ray_num_workers use_ray "
        "ray_run_name resources_per_worker max_memory gpu_memory_limit num_nodes num_gpus",
    ),
    **left(
        "it changes the speed of reading rows and not what is learnt",
        "Nothing: rows are read and prepared once.",
        "dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataloader_persistent_workers "
        "dataset_num_proc preprocessing_num_workers preprocessing_batch_size dataset_processes dataset_keep_in_memory "
        "dataset_prepared_path overwrite_cache tokenized_path num_proc cache_dir streaming buffer_size "
        "dataset_batch_size dataset_shard_num dataset_shard_idx data_shared_file_system dataset_kwargs",
    ),
    **left(
        "checkpoints, the end of the run and its evaluation are always kept or made here",
        "Nothing.",
        "do_train do_eval save_safetensors save_only_model overwrite_output_dir logging_first_step logging_strategy "
        "disable_tqdm log_level logging_dir include_tokens_per_second include_num_input_tokens_seen plot_loss "
        "prediction_loss_only eval_on_start save_on_each_node logging_nan_inf_filter greater_is_better",
    ),
    **left(
        "the kernels of this run are chosen by training.engine, and results are the same to rounding",
        "Nothing.",
        "use_liger_kernel enable_liger_kernel use_unsloth torch_compile torch_compile_backend torch_compile_mode "
        "liger_rms_norm liger_rope liger_glu_activation liger_layer_norm liger_fused_linear_cross_entropy "
        "liger_cross_entropy lora_mlp_kernel lora_qkv_kernel lora_o_kernel unsloth_lora_mlp unsloth_lora_qkv "
        "unsloth_lora_o unsloth_cross_entropy_loss unsloth_rms_norm unsloth_rope cut_cross_entropy "
        "flash_attn_cross_entropy flash_attn_rms_norm flash_attn_fuse_qkv flash_attn_fuse_mlp chunked_cross_entropy "
        "use_kernels tiled_mlp",
    ),
    **left(
        "TF32 speeds up products in fp32, and here they are computed in 16 bits",
        "Nothing.",
        "tf32",
    ),
    **left(
        "rows are batched by like length wherever they are padded, without being asked",
        "Nothing.",
        "group_by_length length_column_name train_sampling_strategy pad_to_multiple_of pad_to_sequence_len",
    ),
    **left(
        "nothing is published by a run",
        "Publish the finished adapter: `qlora export`.",
        "push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_revision push_to_hub_model_id "
        "push_dataset_to_hub hf_use_auth_token hub_always_push",
    ),
    **left(
        "code of models and datasets is never run here",
        "Take a model that Transformers knows by itself.",
        "trust_remote_code",
    ),
    **left(
        "names of projects and runs are read from the tracker's own environment variables",
        "Set them there, such as WANDB_PROJECT.",
        "run_name wandb_project wandb_entity wandb_name wandb_run_id wandb_watch wandb_log_model wandb_mode "
        "wandb_run_name mlflow_tracking_uri mlflow_experiment_name mlflow_run_name hf_mlflow_log_artifacts "
        "comet_project_name comet_workspace comet_experiment_key comet_api_key",
    ),
    **left(
        "noise on the embeddings is not offered here",
        "Nothing: it does not change the adapter's form.",
        "neftune_noise_alpha noisy_embedding_alpha",
    ),
    **left(
        "evaluation runs with training.micro_batch_size and over all held-out rows",
        "Nothing.",
        "per_device_eval_batch_size eval_batch_size eval_accumulation_steps eval_sample_packing eval_table_size "
        "eval_max_new_tokens fp16_full_eval bf16_full_eval eval_packing eval_causal_lm_metrics do_causal_lm_eval "
        "metric_for_best_model eval_do_concat_batches batch_eval_metrics include_inputs_for_metrics",
    ),
    **left(
        "it tunes the optimiser or the schedule beyond what has a field here, where the libraries' defaults are used",
        "Compare with the defaults of Transformers: betas 0.9 and 0.999, epsilon 1e-8.",
        "adam_beta1 adam_beta2 adam_beta3 adam_epsilon adam_epsilon2 optim_args lr_scheduler_kwargs "
        "cosine_min_lr_ratio cosine_constant_lr_ratio lr_quadratic_warmup lr_groups lr_div_factor embedding_lr "
        "embedding_lr_scale loraplus_lr_ratio loraplus_lr_embedding optim_target_modules label_smoothing_factor "
        "torch_empty_cache_steps",
    ),
    **left(
        "going on with an earlier run is not part of a config",
        "A run of ours goes on with `qlora resume`; the checkpoints of another tool cannot be read.",
        "resume_from_checkpoint auto_resume_from_checkpoints ignore_data_skip",
    ),
    **left(
        "a batch that does not fit is never made smaller in silence",
        "Ask `qlora estimate` before, or let `qlora plan` choose the batch.",
        "auto_find_batch_size",
    ),
    **left(
        "recomputation is always the kind without reentrance, whose gradients are the same",
        "Nothing.",
        "gradient_checkpointing_kwargs use_reentrant_gc activation_checkpointing_kwargs",
    ),
    **left(
        "columns are found by data.format and data.columns, and everything else is left out by itself",
        "Nothing.",
        "remove_unused_columns skip_prepare_dataset label_names",
    ),
}

_WARMUP_RULE = "training.warmup_fraction"


def settle_warmup(section: Section, *, default_of: str | None = None) -> None:
    """Warm-up as a share of the steps. A number of steps is one only where the recipe says how many there are."""
    for key in ("warmup_ratio", "warmup_steps"):
        if key in section.unknown_keys():
            section.undecide(key, _WARMUP_RULE)
        if key in section:
            try:
                _carry_warmup(section, key)
            except NotCarriedError as error:
                section.account.undecided.add(_WARMUP_RULE)
                section.leave(key, error.why, error.what_to_do)
    if default_of:
        section.account.take_default(_WARMUP_RULE, 0.0, default_of)


def _carry_warmup(section: Section, key: str) -> None:
    found = number(section.get(key))
    if found < 1 or key == "warmup_ratio":
        # A ratio of 0 beside a number of steps says that the steps count, and the other way round.
        other = "warmup_steps" if key == "warmup_ratio" else "warmup_ratio"
        if found == 0 and other in section and number(section.get(other)) > 0:
            section.switch_off(key)
            return
        section.carry(key, _WARMUP_RULE, found)
        return
    total = section.account.value("training.max_steps")
    if total is None:
        raise NotCarriedError(
            "it is a number of steps, and here warm-up is a share of them; how many steps there are depends on the rows",
            f"Set {_WARMUP_RULE} to {found:g} divided by the number of steps. Without it {_DEFAULT_WARMUP}.",
        )
    why = f"{found:g} of {total} steps, as a share"
    section.carry(key, _WARMUP_RULE, round(min(found / total, 0.99), 6), why)


_DEFAULT_WARMUP = "3 % of the steps warm up"


def settle_names(section: Section, optimizer_key: str, schedule_key: str) -> None:
    """The optimiser and the schedule under the tool's names for them."""
    section.apply(
        {
            optimizer_key: Field("training.optimizer", optimizer),
            schedule_key: Field("training.schedule", schedule),
            "val_set_size": Field("data.evaluation_fraction", share),
            "val_size": Field("data.evaluation_fraction", share),
        }
    )


def settle_strategies(section: Section) -> None:
    """When to evaluate and save: by steps there are fields, by epochs it depends on the rows."""
    for what, path in (("eval", "training.evaluation_every_steps"), ("save", "training.checkpoint_every_steps")):
        for key in (f"{what}_strategy", "evaluation_strategy" if what == "eval" else ""):
            if key not in section:
                continue
            word = str(section.get(key)).rpartition(".")[2].lower()
            if word == "steps":
                section.settle(key)
                section.account.notes.append(f"{section.name(key)} is steps: the number of steps decides.")
            elif word == "no":
                section.switch_off(key, f"{what}_steps")
            else:
                section.leave(key, *_of_epochs(what, path))
        key = f"{what}s_per_epoch"
        if key in section:
            section.leave(key, *_of_epochs(what, path))


def _of_epochs(what: str, path: str) -> tuple[str, str]:
    verb = "evaluates" if what == "eval" else "saves"
    always = "at the end only" if what == "eval" else "every ten minutes"
    return (
        f"it {verb} by epochs, whose number of steps depends on the rows; without {path} that happens {always}",
        f"Set {path} to the steps of an epoch, rows / (micro-batch x accumulation), divided by how often.",
    )


def settle_precision(section: Section, *, unset: str | None) -> None:
    """The switches bf16 and fp16 as the dtype that is computed in. `unset` is what the tool takes without them."""
    account, path = section.account, "quantization.compute_dtype"
    for key, dtype in (("bf16", "bfloat16"), ("bfloat16", "bfloat16"), ("pure_bf16", "bfloat16"), ("fp16", "float16")):
        _settle_dtype(section, key, dtype)
    _settle_dtype(section, "float16", "float16")
    _settle_dtype(section, "float32", "float32")
    if unset is not None and not account.has(path):
        account.notes.append(unset)


def _settle_dtype(section: Section, key: str, dtype: str) -> None:
    if key not in section:
        return
    value = section.get(key)
    if value == "auto":
        section.carry(key, "quantization.compute_dtype", "auto")
    elif not section.is_on(key):
        section.switch_off(key)
    elif section.account.value("quantization.compute_dtype") not in (None, dtype):
        already = section.account.value("quantization.compute_dtype")
        section.leave(key, f"products are computed in {already} by another value", "Set quantization.compute_dtype.")
    elif value is True or str(value).lower() in ("true", "yes", "full"):
        pure = key == "pure_bf16" or str(value).lower() == "full"
        why = (
            "adapters are trained in fp32 and saved so, which keeps small steps; only products are in bf16"
            if pure
            else ""
        )
        section.carry(key, "quantization.compute_dtype", dtype, why)
    else:
        # A script may ask the GPU: bf16 = torch.cuda.is_bf16_supported() is what auto does.
        section.carry(key, "quantization.compute_dtype", "auto", "auto asks the hardware")


def settle_training(section: Section) -> None:
    """Everything that the tools share, once the tool's own keys are settled."""
    section.apply({key: rule for key, rule in SHARED.items() if key == "max_steps"})
    settle_strategies(section)
    section.apply(SHARED)


def note_batch(account: Account, *, gpus: str = "") -> None:
    """Say what the effective batch is here."""
    size = account.value("training.micro_batch_size")
    steps_added = account.value("training.gradient_accumulation_steps")
    if isinstance(size, int) and isinstance(steps_added, int):
        account.notes.append(
            f"A step holds {size * steps_added} rows ({size} x {steps_added}) on one GPU; where the recipe ran on "
            f"several{gpus}, multiply training.gradient_accumulation_steps by their number to keep its effective batch."
        )
