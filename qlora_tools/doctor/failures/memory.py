"""The GPU, the host or the shared memory ran out."""

from .changes import less_memory, less_memory_evaluating, less_memory_loading
from .entry import Failure, certain, likely, matching, possible

_OUT_OF_MEMORY = (
    "cuda out of memory",
    "outofmemoryerror",
    "cuda error: out of memory",
    "hip out of memory",
    "mps backend out of memory",
    "xpu out of memory",
    "the gpu ran out of memory",
    "ran out of memory, which the estimate did not expect",
    "cudaerrormemoryallocation",
    "cuda_error_out_of_memory",
    "cudamalloc failed: out of memory",
)
_EVALUATING = (
    "evaluation_loop",
    "evaluation step",
    "evaluating",
    "validation fail",
    "during eval",
    "during the first eval",
    "during validation",
    "the evaluation",
    "prediction_step",
    "in evaluate",
    "in _maybe_log_save_evaluate",
    "in _evaluate",
)
_LOADING = (
    "in from_pretrained",
    "from_pretrained(",
    "_load_pretrained_model",
    "_load_state_dict_into_meta_model",
    "caching_allocator_warmup",
    "in load_model",
    "set_module_quantized_tensor_to_device",
    "return t.to(",
)
_MERGING = ("merge_and_unload", "_unload_and_optionally_merge", "get_delta_weight", "merge_lora")

FAILURES = (
    Failure(
        "out_of_memory_merging",
        "Memory ran out while merging",
        "A merge holds the whole base in 16 or 32 bits; the GPU that trained it in 4 bits is too small for that.",
        "Merge in host memory with `qlora merge`, which works tensor by tensor, or serve base and adapter apart.",
        certain(*_OUT_OF_MEMORY, near=_MERGING)
        + certain("merging holds the model in fp32")
        + matching("merg", r"memory.{0,80}\bmerg(?:e|ing)\b", "likely")
        + matching("merg", r"merg(?:e|ing)\b.{0,120}\b(?:out of (?:ram|memory)|oom)\b", "likely"),
        commands=("qlora merge OUTPUT -o MERGED",),
    ),
    Failure(
        "out_of_memory_evaluating",
        "The GPU ran out of memory in an evaluation",
        "An evaluation on top of the training state needs room for logits; keeping them for all rows fills the GPU.",
        "Evaluate smaller micro-batches and fewer rows; do not collect logits for metrics.",
        certain(*_OUT_OF_MEMORY, near=_EVALUATING)
        + matching(
            "memory",
            r"\b(?:eval\w*|validation)\b.{0,120}(?:out of (?:v?ram|memory)|memory (?:not enough|error))|(?:out of "
            r"(?:v?ram|memory)|memory (?:not enough|error)).{0,120}\b(?:eval\w*"
            r"|validation)\b|memory.{0,30}not enough.{0,60}eval",
            "likely",
        ),
        less_memory_evaluating,
        more="memory",
    ),
    Failure(
        "out_of_memory_loading",
        "The GPU ran out of memory while the model was loaded",
        "The weights alone do not fit: the base is too large for this GPU, is not "
        "quantised, or something else uses the GPU.",
        "Look with nvidia-smi for what else uses the GPU; then load in nf4 or choose a smaller base or a larger GPU.",
        certain(*_OUT_OF_MEMORY, near=_LOADING) + certain("does not fit into the memory of"),
        less_memory_loading,
        ("nvidia-smi", "qlora plan --largest"),
        more="memory",
    ),
    Failure(
        "gpu_out_of_memory",
        "The GPU ran out of memory",
        "A step needed more than was free: micro-batch times row length decides, and one long row is enough.",
        "Halve training.micro_batch_size and double training.gradient_accumulation_steps (the same result), turn "
        "training.gradient_checkpointing on, then lower training.max_length_tokens. "
        "`qlora estimate` counts it "
        "beforehand. Where much is reserved but unallocated, set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True.",
        certain(*_OUT_OF_MEMORY, "cublas_status_alloc_failed")
        + matching("memory", r"cuda\s?out\s?of\s?memory|[o0]utofmemory|cuda oom\b|tried to allocate [\d.]+ [kmgt]i?b")
        + matching(
            "oom", r"\b(?:gpu|vram|cuda|got|hit|gives?|getting|goes|run(?:s|ning)? into)\b.{0,20}\boom\b", "likely"
        )
        + matching("memory", r"(?:runs?|ran|running|run) out of (?:v?ram|gpu memory|memory)", "likely")
        + matching(
            "memory",
            r"(?:not enough|insufficient) (?:gpu |cuda |video |graphics |v?ram )?memory|(?:gpu|cuda|v?ram) memory "
            r"(?:is )?(?:not enough|insufficient|full|exceeded)",
            "likely",
        )
        + likely("cudacachingallocator", "cublas_status_not_initialized"),
        less_memory,
        ("nvidia-smi",),
        more="memory",
    ),
    Failure(
        "weights_on_cpu",
        "Parts of the base were put on CPU or disk",
        "device_map=auto found too little free GPU memory and moved layers off the "
        "GPU; 4-bit layers cannot be trained there.",
        "Free the GPU, choose a smaller base, or load it whole on one GPU (device_map={'': 0}).",
        certain(
            "some modules are dispatched on the cpu or the disk",
            "with cpu or disk offload",
            "some parameters are on the meta device",
            "load_in_8bit_fp32_cpu_offload",
            "llm_int8_enable_fp32_cpu_offload",
            "please provide an `offload_folder`",
            "we need an `offload_dir`",
        ),
        less_memory_loading,
        ("nvidia-smi", "qlora plan --largest"),
        more="memory",
    ),
    Failure(
        "host_out_of_memory",
        "The host's memory ran out and the process was killed",
        "The kernel or the container ended the process: loading in 16 bits, a merge, "
        "or many data workers needed more RAM "
        "than there is. Signal 9 without a traceback is its usual sign, not a proof.",
        "Look for `oom` in dmesg or for oom_kill in the cgroup's memory.events; raise the limit, use fewer workers, or "
        "load shard by shard.",
        certain(
            "defaultcpuallocator: can't allocate memory",
            "defaultcpuallocator: not enough memory",
            "oom-kill",
            "oom_kill",
            "oomkilled",
            "out of memory: killed process",
            "std::bad_alloc",
            "[errno 12] cannot allocate memory",
            "one of the subprocesses has abruptly died during map operation",
            "unable to allocate array with shape",
            "the paging file is too small",
            "os error 1455",
        )
        + matching("memoryerror", r"(?<!\w)memoryerror\b")
        + matching("unable to allocate", r"unable to allocate [\d.]+ [kmgt]i?b")
        + matching("sigkill", r"signal(?:s\.)? ?sigkill|sigkill\b|\(sigkill\)", "likely")
        + matching("killed", r"(?:^|\s|\d |: )killed(?: \"|$| python| *\w*\.sh|\s+(?!by user))", "possible")
        + matching("killed by signal", r"killed by signal: killed")
        + matching("exitcode", r"exitcode ?[:=]? ?-9\b", "likely")
        + matching("signal 9", r"signal 9\b", "likely")
        + matching("exit", r"exit(?:ed)?(?: with)?(?: code| status|code)? ?:? ?\(?(?:137|-9)\b", "likely")
        + matching("return code", r"return code (?:137|-9)\b", "likely")
        + matching("ram", r"(?:crashed|session).{0,40}(?:using all available|out of) ram", "certain")
        + possible("cannot allocate memory"),
        commands=("dmesg | grep -i oom", "cat /sys/fs/cgroup/memory.events", "free -g"),
        more="memory",
    ),
    Failure(
        "shared_memory_too_small",
        "The shared memory (/dev/shm) is too small",
        "Data workers hand over batches through shared memory, and a container has 64 MiB of it by default.",
        "Start the container with --shm-size=8g (or --ipc=host), or use no data workers.",
        certain(
            "insufficient shared memory",
            "unable to open shared memory object",
            "unable to write to file </torch_",
            "unable to allocate shared memory",
            "no space left on device (28) /dev/shm",
            "error while creating shared memory segment",
        )
        + matching("bus error", r"(?:killed by signal: bus error|unexpected bus error)"),
        commands=("docker run --shm-size=8g IMAGE", "df -h /dev/shm"),
    ),
    Failure(
        "batch_size_changed_by_itself",
        "The batch size was changed behind the scenes",
        "auto_find_batch_size halves the micro-batch after an out-of-memory error and "
        "leaves the accumulation as it is: the "
        "effective batch, and with it the result, changes.",
        "Set micro-batch and accumulation yourself; `qlora plan` finds what fits and keeps the effective batch.",
        certain("no executable batch size found", "found batch size of") + likely("auto_find_batch_size"),
        less_memory,
        more="memory",
    ),
    Failure(
        "server_memory_too_small",
        "The inference server has no memory left for its cache",
        "vLLM takes a share of the GPU beforehand; after the weights too little is "
        "left for keys and values of the context.",
        "Lower --max-model-len, raise --gpu-memory-utilization up to 0.95, or free the GPU.",
        certain(
            "no available memory for the cache blocks",
            "larger than the maximum number of tokens that can be stored in kv cache",
            "is less than desired gpu memory utilization",
            "larger than the available kv cache memory",
            "kv cache is needed, which is larger than",
        ),
        commands=("vllm serve MODEL --max-model-len 4096 --gpu-memory-utilization 0.95",),
    ),
    Failure(
        "too_many_open_files",
        "Too many files are open",
        "Data workers and shards open more files than the limit of this shell allows.",
        "Raise the limit of the shell that starts the run.",
        certain("too many open files", "[errno 24]"),
        commands=("ulimit -n 65536",),
    ),
)
