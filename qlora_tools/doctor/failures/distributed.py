"""Several GPUs or machines: NCCL, FSDP, DeepSpeed, ports."""

from .changes import storage_as_computed
from .entry import Failure, certain, likely, matching

FAILURES = (
    Failure(
        "fsdp_needs_one_dtype",
        "FSDP met tensors of several dtypes",
        "FSDP flattens parameters of one dtype only: 4-bit weights stored as uint8, or "
        "an adapter in fp32 beside a bf16 base.",
        "Set quantization.storage_dtype to the compute dtype, and load adapter, norms and head in it as well.",
        certain(
            "must flatten tensors with uniform dtype",
            "requires uniform dtype but got",
            "flatparameter` requires uniform",
            "cannot flatten integer dtype tensors",
            "fsdp does not support mixed dtype",
            "must flatten tensors with the same dtype",
        )
        + likely("must flatten tensors with uniform", "expects tensors of the same dtype"),
        storage_as_computed,
        more="dtypes",
    ),
    Failure(
        "processes_out_of_step",
        "One process waited for the others until NCCL gave up",
        "A rank crashed, was much slower (tokenising, evaluating, saving), or took "
        "another branch, so that a collective never "
        "completed.",
        "Look for the first error of any rank above it. If there is none: tokenise "
        "before the start, and raise ddp_timeout; "
        "NCCL_P2P_DISABLE=1 helps on cards without peer access.",
        likely(
            "watchdog caught collective operation timeout",
            "timeout at nccl work",
            "nccl timeout",
            "collective operation timeout",
            "some nccl operations have failed or timed out",
            "timed out waiting for clients",
            "socket timeout",
            "wait timeout after",
        )
        + matching(
            "hang",
            r"\b(?:nccl|multi-?gpu|ddp|distributed|training)\b.{0,60}\b(?:hangs?|hung|stuck|deadlock)",
            "possible",
        ),
        commands=("export NCCL_DEBUG=INFO", "export NCCL_P2P_DISABLE=1", "export TORCH_NCCL_TRACE_BUFFER_SIZE=2000"),
    ),
    Failure(
        "nccl_failed",
        "NCCL cannot connect the GPUs",
        "The network interface, peer access or shared memory does not work between the processes.",
        "Run with NCCL_DEBUG=INFO; name the interface (NCCL_SOCKET_IFNAME), enlarge "
        "/dev/shm, or set NCCL_P2P_DISABLE=1 or "
        "NCCL_IB_DISABLE=1.",
        certain("ncclsystemerror", "ncclunhandledcudaerror", "ncclinternalerror", "ncclinvalidusage", "ncclremoteerror")
        + matching("nccl", r"nccl (?:error|warn).{0,200}(?:unhandled|system error|duplicate gpu|invalid usage)")
        + likely(
            "doesn't support faster communication broadband via p2p or ib",
            "nccl error",
            "connection closed by remote peer",
            "connection reset by peer",
        ),
        commands=("export NCCL_DEBUG=INFO", "export NCCL_P2P_DISABLE=1", "export NCCL_IB_DISABLE=1"),
    ),
    Failure(
        "port_in_use",
        "The port is taken",
        "Another run (or a process left behind) listens on the rendezvous port.",
        "Choose another port, or end the old process.",
        certain("the server socket has failed to listen", "eaddrinuse", "address already in use"),
        commands=("torchrun --master_port 29511 SCRIPT", "ss -ltnp | grep 29500"),
    ),
    Failure(
        "zero3_with_quantisation",
        "DeepSpeed ZeRO-3 and this way of loading exclude each other",
        "ZeRO-3 shards weights while loading; device_map, low_cpu_mem_usage and bitsandbytes place them otherwise.",
        "Use ZeRO-2 (or one GPU) for QLoRA, or FSDP with matching dtypes.",
        certain(
            "deepspeed zero-3 is not compatible with",
            "zero3 is incompatible with quantization",
            "is_zero3_init_enabled",
            "partitioned parameter",
            "zero-3 and device_map",
        )
        + matching("zero", r"(?:zero[- ]?3|stage 3).{0,80}(?:not (?:support|compatible)|incompatible)", "likely"),
    ),
    Failure(
        "launched_wrongly",
        "The launch does not fit the machine",
        "More processes were asked for than there are GPUs, or variables of the launcher are missing.",
        "Start through torchrun or accelerate launch with one process a GPU.",
        certain(
            "environment variable rank expected, but not set",
            "environment variable master_addr expected",
            "default process group has not been initialized",
            "duplicate gpu detected",
            "use_libuv was requested",
        ),
        commands=("torchrun --nproc_per_node 1 SCRIPT",),
        follows=True,
    ),
    Failure(
        "deepspeed_config_wrong",
        "DeepSpeed's config does not fit the run",
        "Its file and the trainer's arguments disagree, or the optimiser it asks for cannot be built here.",
        "Set values that the trainer knows to auto in the file, name an optimiser, and match batch sizes and dtypes.",
        certain(
            "please correct the following deepspeed config values",
            "check batch related parameters",
            "deepspeedconfigerror",
            "deepspeedcpuadam",
            "ds_opt_adam",
            "requires an optimizer",
        )
        + matching("deepspeed", r"deepspeed.{0,60}(?:config|json).{0,60}(?:error|invalid|mismatch|wrong)", "likely"),
        commands=("ds_report",),
    ),
)
