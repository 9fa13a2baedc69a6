"""Attention kernels: flash-attn, xformers, sdpa."""

from .changes import set_to
from .entry import Failure, certain, matching

FAILURES = (
    Failure(
        "flash_attention_for_another_torch",
        "flash-attn was built for another torch",
        "Its compiled part calls functions of torch that this version does not have.",
        "Build it anew against this torch, or leave it out: sdpa has flash attention inside.",
        matching("undefined symbol", r"flash_?attn[\w.\-/]*\.so: undefined symbol")
        + matching(
            "flash_attn", r"flash_attn\w*.{0,80}(?:undefined symbol|cannot open shared object|dll load failed|glibc_)"
        )
        + matching("undefined symbol", r"undefined symbol.{0,200}flash_?attn", "likely"),
        set_to(model__attention_implementation="sdpa"),
        ("pip uninstall -y flash-attn", "pip install flash-attn --no-build-isolation --no-cache-dir"),
    ),
    Failure(
        "flash_attention_missing",
        "flash-attn is asked for and not installed",
        "attn_implementation names flash_attention_2, and the package is missing or could not be built.",
        "Leave model.attention_implementation at auto: sdpa has flash attention inside and needs no package.",
        certain(
            "flashattention2 has been toggled on, but it cannot be used",
            "flash_attn seems to be not installed",
            "no module named 'flash_attn",
            "flash attention 2 is not available",
            "please install flash_attn",
            "flash-attn is not installed",
            "failed building wheel for flash-attn",
            "flash attention is not installed",
        )
        + matching(
            "flash",
            r"(?:flash[-_ ]?attn|flash ?attention).{0,200}(?:cuda_home environment variable|nvcc was not found"
            r"|metadata-generation-failed|failed to build|no module named 'torch')",
        )
        + matching(
            "flash",
            r"(?:cuda_home environment variable|nvcc was not found|metadata-generation-failed|no "
            r"module named 'torch').{0,300}flash[-_]?attn",
        ),
        set_to(model__attention_implementation="auto"),
        ("pip install flash-attn --no-build-isolation",),
    ),
    Failure(
        "flash_attention_needs_newer_gpu",
        "flash-attn does not run on this GPU",
        "FlashAttention 2 needs compute capability 8.0 (Ampere) or newer.",
        "Use sdpa, which has kernels for older cards.",
        certain(
            "flashattention only supports ampere",
            "flashattention only supports a100 or h100",
            "flash attention only supports ampere",
            "flashattention is not supported on",
        )
        + matching(
            "flash", r"flash-?attention.{0,60}(?:requires|needs|only support).{0,40}(?:ampere|sm80|compute capability)"
        ),
        set_to(model__attention_implementation="sdpa"),
    ),
    Failure(
        "xformers_for_another_torch",
        "xformers does not fit this torch",
        "Its kernels were built for another torch or Python, or it has none for this input.",
        "Install the xformers built for this torch, or remove it.",
        certain(
            "xformers can't load c++/cuda extensions",
            "no operator found for `memory_efficient_attention",
            "xformers was built for",
        ),
        commands=("pip install --upgrade xformers", "pip uninstall -y xformers"),
    ),
    Failure(
        "attention_not_supported",
        "This model lacks that attention kernel",
        "The architecture has no code for sdpa or flash attention, or the name is unknown.",
        "Leave model.attention_implementation at auto, or set eager.",
        certain(
            "does not support an attention implementation through torch.nn.functional.scaled_dot_product_attention",
            "does not support flash attention 2",
            "does not support flash_attention_2",
            "has no attention implementation",
            "which is not supported for attn_implementation",
        )
        + matching(
            "attn_implementation", r"(?:specified|got) `?attn_implementation.{0,80}(?:not supported|only possible|but)"
        ),
        set_to(model__attention_implementation="auto"),
    ),
)
