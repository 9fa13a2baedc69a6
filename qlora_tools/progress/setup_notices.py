"""What makes every step of a run slow, seen before the first one."""

from collections.abc import Mapping

from .notices import Notice

# Frozen weights in a wider dtype than the products use cost a cast a step; a few norms are usual and cost nothing.
_MOST_CAST_SHARE = 0.02


def setup_notices(
    *,
    device: str,
    compute_dtype: str,
    computes_bfloat16: bool,
    frozen_dtypes: Mapping[str, int],
    offloaded_parameters: int,
) -> list[Notice]:
    """What is noticed about a run that is about to begin on `device` (`cuda` or `cpu`).

    `compute_dtype` is that of the matrix products, such as `bfloat16`. `frozen_dtypes` counts the parameters of the base
    that are not quantised, by dtype. `offloaded_parameters` lie outside the device's memory.
    """
    found = [
        _offload(device, offloaded_parameters),
        _compute_dtype(device, compute_dtype, computes_bfloat16),
        _wide_weights(compute_dtype, frozen_dtypes),
    ]
    return [notice for notice in found if notice is not None]


def _offload(device: str, parameters: int) -> Notice | None:
    if device != "cuda" or not parameters:
        return None
    return Notice(
        "offload",
        0,
        f"{parameters:,} parameters lie outside the GPU's memory and are copied to it in every step, which is many times "
        "slower.",
        "Make the run fit: quantization.kind: nf4, a smaller training.max_length_tokens or training.micro_batch_size, "
        "training.gradient_checkpointing: true, or a smaller model. `qlora plan` finds what fits.",
    )


def _compute_dtype(device: str, compute_dtype: str, computes_bfloat16: bool) -> Notice | None:
    if device != "cuda":
        return None
    better = "bfloat16" if computes_bfloat16 else "float16"
    seen = {
        ("float32", True): "Matrix products run in float32, which this GPU computes many times slower than bfloat16",
        ("float32", False): "Matrix products run in float32, which this GPU computes many times slower than float16",
        ("bfloat16", False): "This GPU has no bfloat16 and emulates it, which is slow",
        (
            "float16",
            True,
        ): "Matrix products run in float16 although this GPU has bfloat16: as fast, and it never overflows",
    }.get((compute_dtype, computes_bfloat16))
    if seen is None:
        return None
    step = f"Set quantization.compute_dtype: {better}, or auto."
    return Notice("dtype_mismatch", 0, f"{seen}.", step)


def _wide_weights(compute_dtype: str, frozen_dtypes: Mapping[str, int]) -> Notice | None:
    total, wide = sum(frozen_dtypes.values()), frozen_dtypes.get("float32", 0)
    if compute_dtype == "float32" or not total or wide <= _MOST_CAST_SHARE * total:
        return None
    return Notice(
        "dtype_mismatch",
        0,
        f"{wide:,} of {total:,} parameters of the base that are not quantised are in float32 while products run in "
        f"{compute_dtype}: they take twice the memory and are cast in every step.",
        "Load the base in its 16-bit dtype; set quantization.compute_dtype to the dtype of the weights.",
    )
