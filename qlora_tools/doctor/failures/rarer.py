"""Rarer messages of the failures of the other modules, and how people tell them in words; by the id of the failure."""

from .entry import Sign, certain, likely, matching, possible

_WORSE = (
    r"(?:worse\w*|quality|degrad\w*|ruin\w*|accuracy|drops?|lose?s|loss of"
    r"|poor\w*|not good|bad|performance|different)"
)
_CANNOT = r"(?:can'?t|cannot|unable|fail\w*|does ?n[o']t|doesn'?t|not|error|wrong|issue|problem|bug)"
_OLD_ARGUMENTS = "max_seq_length|tokenizer|evaluation_strategy|dataset_text_field|packing|warmup_ratio|group_by_length"

MORE_SIGNS: dict[str, tuple[Sign, ...]] = {
    "gpu_out_of_memory": (
        *matching("oom", r"\boom\b", "likely"),
        *matching("memory", r"(?:gpu|cuda|v?ram|training).{0,40}memory.{0,40}(?:leak|grow|increas|explod)", "likely"),
    ),
    "host_out_of_memory": (
        *likely("unable to mmap"),
        *matching(
            "memory",
            r"(?:out of|not enough|insufficient|fills?|uses? all) (?:\w+ ){0,2}(?:main|cpu|host|system) (?:memory|ram)",
            "likely",
        ),
        *certain("dataloader worker (pid(s)"),
        *likely("exited unexpectedly"),
        *matching(
            "ram",
            r"(?:runs?|ran|running|run) out of (?:system |cpu |host )?ram|(?:cpu"
            r"|system) ram.{0,30}(?:full|out|100)",
            "likely",
        ),
    ),
    "merging_into_quantised": (
        *matching("merg", rf"merg\w*.{{0,180}}\b{_WORSE}|{_WORSE}.{{0,180}}merg", "likely"),
        *likely("loading a quantized checkpoint into non-quantized"),
    ),
    "adapter_without_effect": (
        *matching("effect", r"(?:lora|adapter|merge\w*).{0,80}effects? (?:is|are) (?:gone|lost|missing)", "certain"),
        *matching("base model", r"\b(?:is|are|was|be) (?:just )?like the base model|returns the base", "likely"),
    ),
    "resume_does_not_fit": (
        *matching("resum", rf"{_CANNOT}.{{0,60}}\bresum|\bresum\w*.{{0,60}}{_CANNOT}", "possible"),
        *matching(
            "checkpoint",
            r"checkpoint.{0,120}(?:reset|starts? (?:from|at) (?:step |iteration "
            r"|epoch )?[01]\b|instead of continuing)",
            "likely",
        ),
    ),
    "gguf_conversion_failed": (
        *likely(
            "converting model: unsupported", "command must be one of", "unsupported safetensors", "pull model manifest"
        ),
        *certain(
            "lora-to-gguf",
            "llama_lora_adapter_init",
            "failed to apply lora adapter",
            "unrecognized tensor",
            "could not map tensor name",
        ),
        *likely("convert-lora-to-ggml", "convert_lora_to_gguf", "bad file magic", "max retries exceeded: eof"),
    ),
    "adapter_not_found": (
        *likely("your repo has a lora adapter and a base model", "unable to load adapter", "failed to load adapter"),
        *certain("can't find config.json at", "'peftmodelforcausallm' is not supported for"),
    ),
    "module_missing": (
        *likely("nameerror: name"),
        *matching(
            "is not defined",
            r"name .?(?:lora\w*|peft\w*|bitsandbytes\w*|torch|transformers"
            r"|init_empty_weights).? is not defined",
            "certain",
        ),
        *likely(
            "packages that were not found in your environment",
            "could not find a version that satisfies",
            "importerror: please install",
        ),
        *likely(
            "could not build wheels for",
            "failed building wheel for",
            "command 'gcc' failed",
            "no matching distribution found",
        ),
        *possible("requires the following packages"),
    ),
    "bitsandbytes_missing": (
        *certain("requires `accelerate", "pip install accelerate -u", "please run `pip install transformers[torch]`"),
        *certain("failed building wheel for bitsandbytes"),
    ),
    "bitsandbytes_without_cuda": (
        *certain("libcudart.so", "libcusparse.so", "libcublas.so", near=("bitsandbytes",)),
        *likely("bitsandbytes/cextension.py", "bitsandbytes\\cextension.py"),
        *certain("cudasetup", "bitsandbytes.cuda_setup", "locate cuda libraries", "evaluate_cuda_setup"),
        *likely("csrc/ops.cu", "csrc\\ops.cu", "pythoninterface.c"),
        *matching(
            "bitsandbytes",
            r"bitsandbytes.{0,60}(?:no gpu|without gpu|cpu only|not (?:find"
            r"|detect)\w* (?:cuda|gpu)|cuda.{0,20}not)",
            "likely",
        ),
    ),
    "libraries_disagree": (
        *likely("unknown quantization type", "quantization method bitsandbytes is not"),
        *certain("loading a dataset cached in a localfilesystem is not supported"),
        *likely("pip's dependency resolver does not", "is not json serializable", "resolutionimpossible"),
        *likely(
            "has no attribute 'itemsize'", "has no attribute 'element_size'", "model_kwargs` are not used by the model"
        ),
    ),
    "argument_removed": (
        *matching("typeerror", rf"typeerror:? .{{0,80}}(?:{_OLD_ARGUMENTS})\b", "likely"),
        *matching("you passed", r"you passed (?:a |an )?[\w=` ]{1,60}to the sfttrainer", "likely"),
        *possible(
            "takes no arguments",
            "missing 1 required positional argument",
            "required positional argument",
        ),
    ),
    "column_missing": (
        *certain(
            "didn't pass a dataset_text_field or formatting_func", "pass a `dataset_text_field` or `formatting_func`"
        ),
        *likely("expected a list of dicts"),
    ),
    "flash_attention_missing": (
        *certain(
            "could not build wheels for flash-attn",
            "environment: flash_attn",
            "pip install flash_attn",
            "pip install flash-attn",
        ),
    ),
    "flash_attention_needs_newer_gpu": (
        *certain(
            "cutlassf: no kernel found to launch",
            "no available kernel. aborting execution",
            "for head dim > 64 requires a100",
        ),
        *certain(
            "flashattention forward only supports head dimension",
            "expected is_sm80 to be true",
            "expected is_sm90 to be true",
        ),
    ),
    "dtypes_differ": (
        *matching("input type", r"input type \([\w.:]+\) and (?:weight|bias) type \([\w.:]+\) should be the same"),
        *certain("found dtype", "to have one of the following scalar types"),
        *certain(
            "should either all have the same dtype",
            "can't be cast to the desired output type",
            "you must use the same dtype",
        ),
        *matching(
            "dtype",
            r"d?type (?:mismatch|conflict|incompat)|mismatch\w* (?:in )?dtype"
            r"|dtypes? (?:do not|don'?t) match",
            "likely",
        ),
    ),
    "tensors_on_several_devices": (
        *likely("is on the meta device", "are on the meta device"),
        *certain(
            "loaded in 8-bit precision on multiple devices",
            "doesn't have any device set",
            "is on the meta device, we need a `value`",
        ),
        *likely("placeholder storage has not been allocated on mps"),
    ),
    "quantised_model_moved": (*certain("quantization state not initialized", "quantization state is not initialized"),),
    "quantised_already": (*certain("has no attribute 'compress_statistics'", "object has no attribute 'quant_state'"),),
    "no_gradient": (
        *likely(
            "enable_input_require_grads",
            "layers not trained",
            "weights not updat",
            "not being updated",
            "are not updated",
        ),
        *certain("no or negligible gradients", "a leaf variable that requires grad is being used in an in-place"),
        *certain("inference tensors cannot be saved for backward"),
        *matching("trainable", r"(?:no|0|zero) trainable param|trainable%?:? ?0(?:\.0+)?(?:$| )", "likely"),
    ),
    "unscaling_fp16_gradients": (*likely("unscale_() has already been called"),),
    "loss_does_not_fall": (
        *matching(
            "loss",
            r"\bloss\b.{0,60}(?:stays? (?:the )?same|flat\b|constant|stagnat|too high|very high|remains)",
            "likely",
        ),
        *likely("no learning", "not learning", "doesn't learn", "does not learn"),
    ),
    "overfitting": (
        *matching("loss", r"(?:validation|eval\w*) loss.{0,40}(?:increas|ris|going up|goes up)\w*", "certain"),
    ),
    "data_unreadable": (*certain("arrowtypeerror", "failed to read file"), *likely("expected bytes, got a")),
    "template_fails": (
        *likely("string indices must be integers", "list indices must be integers"),
        *likely("can only concatenate list", "instruction key not found"),
    ),
    "dataset_empty": (
        *certain("is out of bounds for axis 0 with size 0", "is out of bounds for dimension 0 with size 0"),
        *likely("max() arg is an empty sequence", "min() arg is an empty sequence"),
    ),
    "shapes_differ": (
        *likely("tensors must be contiguous", "invalid shape"),
        *likely("has invalid shape", "bad split size", "split_with_sizes", "sizes do not match"),
    ),
    "weights_do_not_fit": (
        *matching("keyerror", r"keyerror: ['\"](?:layers|blk|h)\.\d+[\w.]*['\"]", "likely"),
        *matching("keyerror", r"keyerror: ['\"](?:base_model|model|transformer|lm_head)[\w.]*['\"]", "likely"),
        *matching("does not exist", r"weight [\w.]+ does not exist", "likely"),
    ),
    "gpu_not_in_this_build": (
        *certain("invalid device function", "hip error: invalid"),
        *likely("find an engine to execute this computation", "valid cudnn algorithm"),
    ),
    "no_gpu_found": (*certain("cuda driver initialization failed"),),
    "gpu_hardware_fault": (*likely("gpu fell off", "nvml: unknown error"),),
    "cuda_in_forked_process": (*certain("daemonic processes are not allowed to have children"),),
    "cuda_toolkit_missing": (*certain("cuda.h: no such file", "cuda_runtime.h: no such file"),),
    "native_library_mismatch": (*certain("libcudnn"),),
    "process_crashed": (
        *likely(
            "free(): invalid",
            "double free or corruption",
            "munmap_chunk()",
            "corrupted size vs. prev_size",
            "malloc(): ",
        ),
        *possible("fatal python error"),
    ),
    "illegal_memory_access": (
        *possible(
            "cudaerror",
            "acceleratorerror",
            "a memory access was encountered",
            "invalid configuration argument",
            "invalid argument at line",
        ),
    ),
    "architecture_unknown": (*likely("not supported yet!", "is not supported yet", "unsupported model type"),),
    "compilation_failed": (*likely("torch._dynamo", "torchdynamo", "torch.compile", "torchruntimeerror"),),
    "never_stops": (*possible("pad token id were not set"),),
    "processes_out_of_step": (
        *matching("timed out", r"timed out after \d+ seconds? waiting for clients|barrier.{0,40}timed out", "likely"),
        *matching("hang", r"(?<!process to )\b(?:hangs?|hung|stuck|freez\w+|deadlock)\b", "possible"),
    ),
    "labels_all_masked": (*matching("mask", r"(?:only|just) (?:learns?|trains?) (?:on )?(?:eos|nothing)", "possible"),),
    "merge_failed": (
        *matching("saved model", r"(?:saved|merged) model.{0,40}(?:empty|too small|\d+ ?kb)", "likely"),
        *matching("merg", r"merg\w*.{0,80}(?:fail|error|crash|stuck|empty|wrong)", "possible"),
    ),
    "model_brings_code": (*certain("attribute that is not consistent with the config class"),),
    "slow_training": (
        *matching(
            "longer",
            r"(?:longer|more) (?:train\w*|fine-?tun\w*)? ?time|train\w* (?:takes"
            r"|time).{0,30}(?:longer|too long|very long|so long|hours)",
            "likely",
        ),
    ),
    "nccl_failed": (
        *likely("nccl communicator was aborted", "distbackenderror", "connection refused", "distnetworkerror"),
    ),
    "model_gated": (
        *likely("invalid token passed", "invalid credentials in authorization header", "invalid access token"),
    ),
    "token_outside_vocabulary": (*certain("input id values are out of range", "index out of range in"),),
    "model_files_missing": (
        *certain("no config file found - are you sure", "could not parse modelproto", "error parsing line b"),
    ),
    "adapter_refused_by_server": (
        *likely("cannot find any of ['adapter_name_or_path']", "quantization with tp or pp is not"),
    ),
    "run_interrupted": (*likely("cancelled due to task failure", "cancelled at", "srun: job step"),),
    "disk_full": (*likely("[errno 5] input/output error", "no space left"),),
    "flash_attention_for_another_torch": (*certain("importing flash_attn_2_cuda", "import flash_attn_2_cuda failed"),),
    "zero3_with_quantisation": (*certain("illegal to call engine.step() inside no_sync"),),
}
