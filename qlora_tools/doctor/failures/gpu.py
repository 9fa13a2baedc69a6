"""Driver, visibility and state of the GPU, and what kernels report from inside it."""

from .entry import Failure, certain, likely, matching, possible

FAILURES = (
    Failure(
        "driver_too_old",
        "The NVIDIA driver is older than this torch needs",
        "torch was built for a newer CUDA than the driver knows.",
        "Update the driver, or install a torch built for the CUDA version that nvidia-smi shows.",
        certain(
            "the nvidia driver on your system is too old",
            "cuda driver version is insufficient for cuda runtime version",
            "system has unsupported display driver / cuda driver combination",
            "forward compatibility was attempted on non supported hw",
            "compiled with an unsupported toolchain",
            "unsupported ptx version",
            "driver/library version mismatch",
            "cuda_error_unsupported_ptx_version",
            "cudaerrorinsufficientdriver",
        ),
        commands=(
            "nvidia-smi",
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126",
        ),
    ),
    Failure(
        "torch_without_cuda",
        "This torch was built without CUDA",
        "A CPU build of torch is installed, so no GPU is seen whatever the driver.",
        "Install a CUDA build of torch.",
        certain(
            "torch not compiled with cuda enabled",
            "not linked with support for cuda devices",
            "not compiled with cuda support",
        )
        + matching("+cpu", r"torch[ =:]{1,3}(?:version:? )?\d[\d.]+\+cpu", "likely"),
        commands=("pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128",),
    ),
    Failure(
        "no_gpu_found",
        "No GPU is seen",
        "The driver is missing or not loaded, the container was started without the "
        "GPU, or CUDA_VISIBLE_DEVICES hides it.",
        "Run nvidia-smi; start a container with --gpus all; unset CUDA_VISIBLE_DEVICES.",
        certain(
            "no cuda gpus are available",
            "found no nvidia driver on your system",
            "no cuda-capable device is detected",
            "can't initialize nvml",
            "failed to initialize nvml",
            "nvidia-smi has failed because it couldn't communicate",
            "no nvidia gpu found",
            "could not select device driver",
            "cannot find any torch accelerator",
            "no gpu found. a gpu is needed for quantization",
            "but no gpu available",
            "libcuda.so not found",
            "libcuda.so.1: cannot open shared object",
            "gpu is required to run",
            "cuda unknown error",
            "no gpu was named, and nvidia-smi finds none",
        )
        + matching(
            "cuda initialization",
            r"cuda initialization: (?:cuda unknown error|unexpected error from cudagetdevicecount)",
        )
        + matching(
            "torch.cuda.is_available",
            r"torch\.cuda\.is_available\(\)['\"`]? ?(?:is|returns|returned|==|should be true but is|->)? ?false",
            "likely",
        )
        + matching("gpu", r"(?:gpu|cuda) (?:is )?not (?:be )?(?:available|found|detected|visible)", "likely"),
        commands=("nvidia-smi", "unset CUDA_VISIBLE_DEVICES", "docker run --gpus all IMAGE nvidia-smi"),
    ),
    Failure(
        "wrong_device_number",
        "A GPU number does not exist",
        "The script names a GPU that is not there, or CUDA_VISIBLE_DEVICES renumbered them from 0.",
        "Use numbers below the count that nvidia-smi -L shows, counted among the visible ones.",
        certain("invalid device ordinal", "cudaerrorinvaliddevice"),
        commands=("nvidia-smi -L",),
    ),
    Failure(
        "gpu_not_in_this_build",
        "This build has no code for this GPU",
        "torch (or an extension) was compiled for other compute capabilities: the "
        "card is newer or older than the build.",
        "Newer card: install the latest torch for the newest CUDA. Older card: a torch built for CUDA 12.6 or older.",
        certain(
            "no kernel image is available",
            "is not compatible with the current pytorch installation",
            "pytorch no longer supports this gpu",
            "cudaerrornokernelimagefordevice",
            "value 'sm_120' is not defined",
            "minimum cuda capability supported by this library",
            "device kernel image is invalid",
        )
        + matching(
            "sm_", r"(?:unsupported gpu architecture|not defined for option 'gpu-name'|unknown compute capability)"
        ),
        commands=(
            "pip install --upgrade torch --index-url https://download.pytorch.org/whl/cu128",
            "pip install --upgrade bitsandbytes",
        ),
    ),
    Failure(
        "gpu_too_old_for_kernel",
        "The GPU is too old for this kernel",
        "8-bit products need compute capability 7.5, 4-bit ones 6.0.",
        "Use nf4 instead of int8, or a newer GPU.",
        certain("cublaslt ran into an error", "int8 matmul is not supported", "error named symbol not found at line")
        + matching("needs", r"has compute capability [\d.]+; \w+ needs")
        + certain("this cpu has no avx2"),
    ),
    Failure(
        "token_outside_vocabulary",
        "A token id lies outside the embedding",
        "The tokenizer has more tokens than the model (added tokens, another model's "
        "tokenizer), or a label does. The GPU "
        "reports it late, as a device-side assert.",
        "Use the model's own tokenizer, or resize the embeddings and train them (lora.modules_to_save). Run with "
        "CUDA_LAUNCH_BLOCKING=1 to see the place.",
        certain("`srcindex < srcselectdimsize`", "srcindex < srcselectdimsize", "index out of range in self")
        + matching("n_classes", r"t >= 0 && t < n_classes")
        + matching("index out of bounds", r"index out of bounds: 0 <= tmp")
        + matching("is out of bounds", r"target -?\d+ is out of bounds")
        + certain(
            "`-sizes[i] <= index && index < sizes[i]", "ind >= 0 && ind < ind_dim_size", "vectorized_gather_kernel"
        ),
        commands=("export CUDA_LAUNCH_BLOCKING=1",),
        more="data",
    ),
    Failure(
        "gpu_assert",
        "A check inside a GPU kernel failed",
        "A kernel met a value it cannot use, mostly a token id or label outside its "
        "range; what comes after it in the log "
        "follows from it.",
        "Run again with CUDA_LAUNCH_BLOCKING=1, or on the CPU, to see which "
        "operation it was; check tokenizer and labels.",
        likely("device-side assert triggered", "cudaerrorassert"),
        commands=("export CUDA_LAUNCH_BLOCKING=1",),
        more="data",
    ),
    Failure(
        "illegal_memory_access",
        "A kernel read where it may not",
        "A bug or a misfit in a compiled extension (attention, bitsandbytes, triton), or memory that fails.",
        "Run with CUDA_LAUNCH_BLOCKING=1; try model.attention_implementation sdpa or "
        "eager; update the extension it names.",
        certain("illegal memory access was encountered", "misaligned address", "cuda_error_illegal_address")
        + likely(
            "unspecified launch failure",
            "cublas_status_execution_failed",
            "cudnn_status_execution_failed",
            "cublas_status_internal_error",
        )
        + possible(
            "cuda error",
            "cuda failure",
            "cublas_status",
            "cudnn_status",
            "cublas_status_invalid_value",
            "cublas_status_not_supported",
            "cudnn_status_mapping_error",
            "cudnn_status_internal_error",
        ),
        commands=("export CUDA_LAUNCH_BLOCKING=1",),
    ),
    Failure(
        "gpu_hardware_fault",
        "The GPU itself failed",
        "Memory errors, a card that left the bus, or a driver that lost it: no setting of a run mends that.",
        "Reset or reboot the machine; look at dmesg for Xid; replace the card if it comes back.",
        certain(
            "uncorrectable ecc error",
            "gpu has fallen off the bus",
            "gpu is lost",
            "unable to determine the device handle for gpu",
            "all cuda-capable devices are busy or unavailable",
            "cuda error: hardware stack error",
        )
        + matching("xid", r"\bxid\b ?\(?[\w:. ]{0,20}\)?:? ?\d+"),
        commands=("dmesg | grep -i xid", "nvidia-smi -q -d ECC"),
    ),
    Failure(
        "tensors_on_several_devices",
        "Tensors lie on several devices",
        "Part of the model is on another GPU or on the CPU: device_map=auto, an adapter "
        "loaded elsewhere, or inputs left behind.",
        "Load the whole model on one GPU (device_map={'': 0}) and move inputs to model.device; train on one GPU.",
        certain(
            "expected all tensors to be on the same device",
            "on a different device than the one you're training on",
            "on a different device than the one you are training on",
            "cannot copy out of meta tensor",
            "tensor on device meta is not on the expected device",
            "is on meta device",
            "found at least two devices",
            "module must have its parameters and buffers on device",
            "input tensors to be on the same gpu",
            "device_map='auto'` in any distributed mode",
            "loaded with `device_map='auto'`",
        )
        + likely(
            "pointer argument (at 0) cannot be accessed from triton", "expected all the tensors to be on the same"
        ),
        commands=("export CUDA_VISIBLE_DEVICES=0",),
    ),
)
