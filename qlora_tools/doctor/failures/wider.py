"""More messages of the failures, told by the part of them that versions keep; by the id of the failure."""

from .entry import Sign, certain, likely, matching, possible

_TENSOR_OF_QUANTISED = r"torch\.u?int8 ?--> ?\w+"
_FIELDS = r"(?:keys?|columns?|fields?|entries)"

WIDER_SIGNS: dict[str, tuple[Sign, ...]] = {
    "gpu_out_of_memory": (
        *certain("allocation on device", "hiperroroutofmemory", "resourceexhaustederror: oom", "cudamalloc failed"),
        *matching("memory", r"fail\w* to allocate .{0,60}(?:cuda|gpu|device|vram)|unable to allocate cuda", "likely"),
        *matching("memory", r"insufficient (?:gpu )?memory|memory allocation (?:failure|failed)", "likely"),
    ),
    "host_out_of_memory": (
        *likely("a process in the process pool was terminated abruptly", "the kernel appears to have died"),
        *likely("requires more system memory", "your session crashed", "kernel died", "brokenprocesspool"),
        *likely("[errno 32] broken pipe"),
    ),
    "server_memory_too_small": (
        *certain("try increasing `gpu_memory_utilization`", "try increasing gpu_memory_utilization"),
        *matching("free memory on device", r"free memory on device .{0,120}less than"),
        *matching("max seq len", r"max seq(?:uence)? len.{0,80}larger than"),
    ),
    "weights_on_cpu": (*likely("does not give any device for the following parameters"),),
    "loss_not_finite": (
        *certain(
            "returned nan values in its", "cannot decrease scale anymore", "non-finite loss", "loss is not finite"
        ),
        *matching("nan", r"(?:loss|gradient|grad\w*)\w* (?:became|becomes?|turn\w*|went|goes|has|contains?|=+) nan\b"),
        *likely("detected nan", "nan loss", "nan gradient"),
    ),
    "dtypes_differ": (
        *matching(
            "dtype", r"(?:must|should|expected?|to) .{0,60}(?:be the same|have the same|equal|match\w*).{0,30}dtype"
        ),
        *matching("dtype", r"expected .{0,40}dtype .{0,60}(?:but got|to be|to match)"),
        *certain("both operands must be same type", "got unsupported scalartype bfloat16", "input dtypes be the same"),
        *certain("expected both dimensions and dtype", "attn_mask dtype to be bool or"),
    ),
    "bfloat16_not_supported": (
        *matching("bf16", r"bf16 .{0,40}(?:not supported|unsupported|is only supported|requires)"),
        *matching("bfloat16", r"bfloat16 .{0,40}(?:not supported|unsupported|is only supported|requires)", "likely"),
    ),
    "no_gradient": (
        *certain("one of the differentiated tensors does not require grad"),
        *likely("no trainable parameters", "no parameters require grad", "has no trainable"),
    ),
    "resume_does_not_fit": (
        *matching("keyerror", r"keyerror: ['\"](?:exp_avg|state|param_groups|optimizer\w*)['\"]", "likely"),
        *matching("optimizer.pt", r"(?:no such file|not found|missing).{0,120}(?:optimizer|scheduler)\.pt", "likely"),
    ),
    "evaluation_without_rows": (*certain("metric_for_best_model` training argument is set to"),),
    "tracker_not_set_up": (
        *matching(
            "requires", r"\w+callback requires (?:tensorboard|wandb|mlflow|comet\w*|swanlab|\w+) to be installed"
        ),
        *matching("no module named", r"no module named '(?:wandb|tensorboard\w*|swanlab|mlflow|comet_ml|trackio)'"),
        *certain("api key must be 40 characters", "wandb.errors"),
    ),
    "process_crashed": (
        *matching("exit", r"exit(?:ed)?(?: with)?(?: code| status|code)? ?:? ?\(?(?:139|134|3221225477|-1073741819)\b"),
        *likely("access violation", "windows fatal exception", "signal 11", "signal 6 (sigabrt)"),
    ),
    "worker_failed": (
        *possible("root cause (first observed failure)", "to enable traceback see: https", "processexitedexception"),
        *possible("failed to train/fine-tune config"),
    ),
    "no_gpu_found": (
        *certain("attempting to deserialize object on a cuda device", "no cuda runtime is found"),
        *likely(
            "failed to infer device type", "expected a cuda device, but got", "no cuda devices", "there are no gpus"
        ),
    ),
    "wrong_device_number": (*certain("invalid device id", "device >= 0 && device < num_gpus", "cuda:0' requested"),),
    "driver_too_old": (*certain("unsatisfied condition: cuda", "cuda driver error: invalid"),),
    "token_outside_vocabulary": (
        *likely("indexselectlargeindex", "indexselectsmallindex"),
        *certain("cur_target >= 0 && cur_target < n_classes", "token id out of range", "is out of vocabulary"),
    ),
    "tensors_on_several_devices": (
        *matching(
            "device", r"(?:tensors?|inputs?|indices|arguments?)\b.{0,60}(?:on|to be on) the (?:same|current) device"
        ),
        *certain("input tensors need to be on the same gpu", "cannot be called on meta tensors"),
        *certain("different from other tensors on cuda", "device type for generator but found"),
        *matching("hooks", r"shouldn'?t move a model .{0,60}accelerate hooks", "likely"),
        *matching("is on cpu", r"is on cpu.{0,80}(?:expected|but).{0,60}(?:gpu|cuda)"),
    ),
    "zero3_with_quantisation": (
        *certain("zeroparamstatus", "ds_status", "'weight' must be 2-d", "inflight params", "attribute 'ds_"),
        *likely("output tensor must have the same type as input tensor"),
    ),
    "launched_wrongly": (
        *matching("keyerror", r"keyerror: ['\"](?:local_rank|rank|world_size|master_addr|master_port)['\"]"),
        *matching("rank", r"unrecognized arguments: --local[-_]rank"),
    ),
    "processes_out_of_step": (
        *likely("nccl watchdog thread terminated with exception", "heartbeat monitor timed out", "timeout(ms)="),
    ),
    "nccl_failed": (*matching("nccl", r"nccl.{0,40}(?:error|failed|failure|unhandled)|libnccl", "likely"),),
    "bitsandbytes_missing": (
        *matching("bitsandbytes", r"module '?bitsandbytes[\w.]*'? has no attribute"),
        *matching("bitsandbytes", r"cannot import name .{0,60}from (?:partially initialized module )?'bitsandbytes"),
        *matching("bitsandbytes", r"(?:requires?|need|install|upgrade|update) .{0,40}bitsandbytes", "likely"),
    ),
    "triton_does_not_fit": (*likely("microsoft visual c++ 14", "triton is not installed", "triton installation"),),
    "libraries_disagree": (
        *certain("peft backend is required", "pattern: '**' can only be an entire path component"),
        *certain("error patching sfttrainer", "no module named 'torch._six'", "zip() argument 2 is longer"),
        *likely("packaging.version.invalidversion", "conflicting dependencies", "has requirement"),
        *matching("no module named", r"no module named ['\"]?(?:swift|trl|peft|transformers|torch)\.[\w.]+", "likely"),
        *matching("version", r"(?:please |try |need to |must )(?:upgrad|updat|downgrad)\w+ .{0,60}version", "likely"),
        *matching("is not compatible", r"version.{0,60}is not compatible|incompatible .{0,40}version", "likely"),
    ),
    "native_library_mismatch": (
        *certain("winerror 193", "winerror 1114", "invalid elf header", "wrong elf class", "cudnn version incompatib"),
        *certain("cudnn_status_sublibrary", "symbol not found in flat namespace"),
        *likely("exec format error", "could not load library lib"),
        *matching("glibc", r"glibc(?:xx)?_[\d.]+.{0,20}not found", "certain"),
    ),
    "cuda_toolkit_missing": (
        *likely("ninja is required", "unable to find cuda_home", "nvcc fatal", "unable to find nvcc"),
        *certain("cuda_home"),
    ),
    "xformers_for_another_torch": (
        *certain(
            "operator wasn't built", "operator wasn't build", "xformers wasn't build", "requires device with capability"
        ),
    ),
    "attention_not_supported": (
        *matching(
            "attention", r"does not support .{0,40}(?:sdpa|scaled_dot_product|flash|flex)[\w. ]*attention", "likely"
        ),
        *matching(
            "attn_implementation", r"attn_implementation.{0,80}(?:not (?:supported|valid)|unknown|invalid)", "likely"
        ),
    ),
    "module_missing": (
        *likely("is not recognized as an internal or external command", "is not installed. please install"),
        *matching(
            "command not found",
            r"\b(?:qlora|accelerate|torchrun|deepspeed|\w+-cli|axolotl|tune|python3?|swift|hf|pip"
            r"|ollama|vllm|cmake|git-lfs)\b: (?:command )?not found",
            "likely",
        ),
        *matching("you need to install", r"you need to (?:pip )?install \S+", "likely"),
    ),
    "tokenizer_library_missing": (
        *likely("cannot instantiate this tokenizer from a slow version", "please install sentencepiece", "blobfile"),
        *likely("no module named 'google.protobuf'", "converting from tiktoken failed"),
    ),
    "model_gated": (
        *matching("401", r"(?:error|status|code|http)\W{0,10}401\b|\b401 (?:client error|unauthori[sz]ed)", "likely"),
        *matching("403", r"(?:error|status|code|http)\W{0,10}403\b|\b403 (?:client error|forbidden)", "likely"),
    ),
    "hub_not_reached": (
        *matching(
            "huggingface.co",
            r"(?:could ?n[o']t|cannot|can'?t|unable to|failed to) (?:connect|reach|access).{0,80}huggingface",
        ),
        *matching(
            "hub", r"(?:couldn'?t|could not|cannot|unable to|failed to) (?:reach|connect).{0,80}\bhub\b", "likely"
        ),
        *certain("getaddrinfo failed", "failed to resolve", "remote end closed connection", "winerror 10060"),
        *likely("connection aborted", "cas service error", "504 gateway", "502 bad gateway", "read timed out"),
    ),
    "weights_damaged": (
        *certain("file is too short", "failed to read magic", "unpicklingerror", "sha256 mismatch"),
        *likely("safetensorerror", "unexpected end of file", "unexpected eof"),
    ),
    "model_files_missing": (
        *matching(
            "config.json",
            r"(?:not found|missing|no such file|does not exist|couldn'?t find).{0,120}(?<!adapter_)config\.json",
            "likely",
        ),
        *matching(
            "model.safetensors", r"(?:no|without|missing|not (?:have|find)).{0,20}\bmodel\.safetensors", "likely"
        ),
        *certain("typeerror: not a string", "can't find model in directory"),
        *likely("expected str, bytes or os.pathlike object, not nonetype", "no safetensors files found"),
    ),
    "architecture_unknown": (
        *matching("model architectures", r"model architectures? .{0,80}(?:are|is) not supported"),
        *matching(
            "model type",
            r"(?:unsupported|unknown|unrecogni[sz]ed) model[ _]type|model type .{0,60}not supported",
            "likely",
        ),
        *likely("is not supported in your current transformers version", "unrecognized configuration"),
    ),
    "quantised_already": (
        *likely("loading an awq quantized model requires", "found modules on cpu/disk. using exllama", "quantlinear"),
        *likely("fp8 quantized model", "loading a gptq quantized model requires"),
    ),
    "chat_template_missing": (
        *matching(
            "template", r"chat[ _]?template\W{0,3} (?:is|was) (?:null|none|missing|not set|empty|not defined|undefined)"
        ),
        *matching("template", r"(?:has|have|without|no|missing) (?:a |any |default )?chat[ _]template", "likely"),
    ),
    "template_fails": (*likely("'dict object' has no attribute", "unknown tag 'generation'", "templatesyntaxerror"),),
    "pad_token_missing": (
        *matching("pad", r"pad (?:samples|token)?.{0,80}tokenizer .{0,40}does not have (?:one|a pad)"),
        *likely("pad_token must be set", "pad token is not set", "no pad token", "pad_token is not set"),
    ),
    "labels_all_masked": (
        *certain(
            "invalid literal for int() with base 10", near=("train_on_responses_only", "_longest_common_substring")
        ),
        *likely("valueerror", "indexerror", near=("train_on_responses_only(", "in train_on_responses_only")),
    ),
    "rows_of_unequal_length": (
        *certain("each element in list of batch should be of equal size", "only one element tensors can be converted"),
    ),
    "data_unreadable": (
        *certain("unicodedecodeerror", "schemainferenceerror", "config name is missing", "expecting value: line"),
        *likely("extra data: line", "pyarrow.lib.", "trailing data", "no supported data files", "keyerror: 'train'"),
        *likely("couldn't find a dataset script", "couldn't find file at", "couldn't find cache"),
        *matching("builderconfig", r"builderconfig .{0,60}not found"),
    ),
    "column_missing": (
        *matching("should", rf"(?:should|must|need to|has to) (?:have|contain|include) .{{0,30}}{_FIELDS}\b", "likely"),
        *matching(
            "column",
            r"columns? .{0,60}(?:doesn'?t|does not|do not|don'?t) (?:exist|match)|missing .{0,30}columns?",
            "likely",
        ),
        *likely("keyerror", near=("arrow_dataset.py", "formatting_func", "in apply_function_on_filtered_inputs")),
        *likely(
            "keyerror", near=("in tokenize_function", "in preprocess_function", "in format_", "in generate_prompt")
        ),
    ),
    "dataset_empty": (
        *certain("please pass `features` or at least one example", "index 0 is out of bounds"),
        *likely("empty dataset", "dataset is empty", "no samples", "no training examples", "0 training samples"),
    ),
    "text_expected": (
        *likely("expected string or bytes-like object", "expected string or buffer", "sequence item 0: expected str"),
    ),
    "target_modules_not_found": (
        *matching("target", r"(?:specify|provide|set|pass) `?(?:the )?(?:lora_)?target_modules`?"),
        *matching(
            "target", r"target[_ ]modules?.{0,120}(?:not found|no match|do(?:es)? not (?:exist|match))", "likely"
        ),
    ),
    "adapter_not_found": (
        *matching(
            "adapter_config.json", r"adapter_config\.json.{0,60}(?:no such file|not found|does not exist|cannot find)"
        ),
        *certain("no adapter found for"),
    ),
    "adapter_saved_empty": (
        *matching(
            "saved", r"saved .{0,60}(?:weights?|adapter|files?|lora).{0,60}(?:only|just) [\d.]+ ?[kmb]", "likely"
        ),
    ),
    "adapter_refused_by_server": (
        *certain("lora is not enabled", "peft_helper.py", "lora rank is not supported"),
        *likely(
            "valueerror",
            "runtimeerror",
            "keyerror",
            "assertionerror",
            near=("vllm/lora/", "in add_lora", "sglang/srt/lora"),
        ),
    ),
    "gguf_from_quantised": (*matching("-->", _TENSOR_OF_QUANTISED),),
    "gguf_tokenizer_unknown": (
        *likely("_create_vocab_by_path", "in load_vocab", "in set_vocab", "could not find any of ['spm'"),
        *certain("file not found: tokenizer.model", "cannot find tokenizer merges"),
        *matching("token_embd.weight", r"token_embd\.weight.{0,40}wrong shape"),
    ),
    "gguf_conversion_failed": (
        *certain("no modelfile or safetensors files found", "invalid file magic", "llama runner process"),
        *certain("can't find model in directory", near=("llama.cpp", "convert")),
        *likely("error", near=('convert_hf_to_gguf.py"', 'convert-hf-to-gguf.py"', 'llama.cpp/convert.py"')),
        *matching(
            "gguf",
            r"(?:error|fail\w*|exception|unable)\b.{0,80}\bgguf|gguf\b.{0,80}(?:error|failed|fails|exception)",
            "possible",
        ),
    ),
    "not_permitted": (*certain("permissiondenied", "access is denied", "operation not permitted (os error 1)"),),
    "disk_full": (*certain("os error 122", "no space left on the device"),),
    "file_missing": (*likely("cannot find the file specified", "cannot find the path specified", "isadirectoryerror"),),
    "yaml_or_arguments_wrong": (
        *matching("is not a valid", r"is not a valid \w+, please (?:select|choose)", "likely"),
        *matching("invalid choice", r"error: argument .{0,80}invalid choice", "likely"),
        *likely("no such option", "configattributeerror", "omegaconf.errors", "extra inputs are not permitted"),
        *certain("as a kwarg when passing `quantization_config`", "mutually exclusive"),
        *likely("must be divisible by", "should be divisible by"),
    ),
}
