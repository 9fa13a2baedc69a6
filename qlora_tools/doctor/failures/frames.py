"""Where a traceback ended, for texts that were cut off before their message; by the id of the failure.

A function or a line of code says less than a message, and counts only in the last traceback.
"""

from .entry import Sign, matching, possible

FRAME_SIGNS: dict[str, tuple[Sign, ...]] = {
    "yaml_or_arguments_wrong": possible(
        "parse_args_into_dataclasses", "parser.parse_args(", "in parse_known_args", "in validate_config"
    ),
    "libraries_disagree": (
        *possible("importlib.import_module(", "in _get_module", "in __getattr__"),
        *matching("import", r", in <module> from [\w.]+ import \(? ?\w+[^\"]{0,80}$", "possible"),
    ),
    "weights_do_not_fit": possible("in load_state_dict", "in _load_pretrained_model", "in load_weights"),
    "resume_does_not_fit": possible(
        "optimizer.load_state_dict", "in _load_optimizer_and_scheduler", "in _load_from_checkpoint"
    ),
    "merge_failed": possible("merge_and_unload(", "in _unload_and_optionally_merge"),
    "nan_while_generating": possible("torch.multinomial(probs"),
    "template_fails": possible("chat_template(", "in apply_chat_template", "in render_jinja_template"),
    "data_unreadable": possible(
        "in download_and_prepare", "in _prepare_split", "in load_dataset", "in _generate_tables"
    ),
    "rows_of_unequal_length": possible("in convert_to_tensors", "as_tensor(value)", "in torch_default_data_collator"),
    "dataset_empty": possible("_check_valid_index_key"),
    "deepspeed_config_wrong": possible("deepspeed.initialize(", "ipg_bucket", "in deepspeed_init"),
    "worker_failed": possible("in simple_launcher", "in deepspeed_launcher", "in elastic_launch", "in launch_agent"),
    "hub_not_reached": possible(
        "in cached_file", "in hf_hub_download", "in hf_raise_for_status", "in snapshot_download"
    ),
    "bitsandbytes_missing": possible("in validate_environment"),
    "adapter_refused_by_server": possible("in _load_adapter", "in from_local_checkpoint", "in add_lora"),
    "target_modules_not_found": possible("in inject_adapter", "in _check_target_module_exists", "in _find_and_replace"),
    "nccl_failed": possible("in init_process_group", "in new_group"),
    "weights_damaged": possible(
        "safe_open(", "safe_load_file(", "in load_file", "in _legacy_load", "in _open_zipfile_reader"
    ),
    "tracker_not_set_up": possible("wandb.init(", "in wandb_init"),
    "text_expected": possible("in _batch_encode_plus", "in _encode_plus"),
    "model_files_missing": possible("in get_spm_processor", "in loadfromfile", "in get_config_dict"),
    "tokenizer_library_missing": possible("in convert_slow_tokenizer", "in import_protobuf"),
    "fsdp_needs_one_dtype": possible("_flat_param.py"),
    "zero3_with_quantisation": possible("partition_parameters.py", "partitioned_param_coordinator.py"),
    "compilation_failed": possible("torch/_dynamo/", "torch/_inductor/"),
    "gguf_tokenizer_unknown": possible("in get_vocab_base", "in load_vocab"),
    "saving_quantised_model": possible("in _save_to_state_dict"),
    "model_refused_by_server": possible("vllm/model_executor/model_loader", "in run_engine_core", "in run_mp_engine"),
    "evaluation_without_rows": possible("in get_eval_dataloader"),
    "labels_all_masked": possible("in train_on_responses_only"),
    "out_of_memory_loading": possible("in caching_allocator_warmup"),
}
