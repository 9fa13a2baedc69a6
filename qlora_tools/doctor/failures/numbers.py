"""Losses and dtypes: NaN, overflow, products of unlike dtypes, and what metrics show."""

from .changes import set_to, steadier
from .entry import Failure, certain, likely, matching, possible

_LIKE_DTYPES = "have (?:the )?same dtype"

FAILURES = (
    Failure(
        "unscaling_fp16_gradients",
        "The gradient scaler met fp16 weights",
        "Mixed precision in fp16 needs trainable weights in fp32; here the adapter "
        "(or the whole model) was loaded in fp16.",
        "Train in bf16 where the GPU has it; else keep the adapter in fp32. qlora-tools does so by itself.",
        certain("attempting to unscale fp16 gradients", "attemting to unscale fp16"),
        set_to(quantization__compute_dtype="auto"),
        more="dtypes",
    ),
    Failure(
        "loss_not_finite",
        "The loss or a gradient became NaN or infinite",
        "Numbers overflowed: fp16 on a model made for bf16, a learning rate too high, or rows without a token to learn.",
        "Use bf16 (float32 on a GPU without it), halve the learning rate, and look "
        "with `qlora data inspect` for rows whose "
        "answer is cut off or masked.",
        certain(
            "no adapter was written",
            "computes nan or infinity before any training",
            "current loss scale already at minimum",
            "the total norm of order 2.0 for gradients",
        )
        + matching("loss is", r"\b(?:the )?loss is (?:nan|inf|-inf)\b")
        + matching("grad_norm", r"grad_norm['\" ]{0,3}[:=为]? ?(?:is )?(?:always |becomes |总是)?(?:nan|inf)\b")
        + matching("hold nan", r"trained tensors hold nan or infinity")
        + matching("loss", r"\bloss['\" ]{0,3}[:=] ?['\"]?(?:nan|inf|-inf)\b")
        + matching("loss", r"\bloss\b.{0,40}\b(?:nan|inf)\b", "likely")
        + matching("nan", r"\bnan\b.{0,60}\b(?:loss|grad|gradient)", "likely")
        + possible("gradient overflow. skipping step", "overflow! rank", "[deepspeed] overflow"),
        steadier,
        more="hyperparameters",
    ),
    Failure(
        "nan_while_generating",
        "Generation met NaN or infinite scores",
        "The model's logits are not finite: fp16 overflow, an adapter that "
        "diverged, or weights that were loaded wrongly.",
        "Load in bf16 or float32; if the base alone does it too, its weights are damaged, else the adapter diverged.",
        certain("probability tensor contains either", "nan or inf found in input tensor")
        + likely("probtensor contains", "assertion `probability tensor"),
        set_to(quantization__compute_dtype="auto"),
        more="dtypes",
    ),
    Failure(
        "dtypes_differ",
        "Two tensors of unlike dtypes were multiplied",
        "Adapter, head or attention are in fp32 while the rest computes in bf16 or "
        "fp16: often prepare_model_for_kbit_training "
        "without autocast, or generation inside a training run.",
        "Run generation under torch.autocast, or cast adapter and head to the compute dtype. Leave "
        "quantization.compute_dtype at auto.",
        matching(
            "dtype", rf"(?:mat1 and mat2|m1 and m2|self and mat2|mat_a|query, key, and value).{{0,30}}{_LIKE_DTYPES}"
        )
        + matching("to have the same dtype", r"expected .{0,60} to have the same dtype")
        + matching(
            "scalar type", r"expected (?:a |tensor .{0,40})?(?:scalar type|object of scalar type) \w+ but (?:found|got)"
        )
        + matching("input type", r"input type \(?[\w.]+\)? and (?:weight|bias) type \(?[\w.]+\)? should be the same")
        + matching("source and destination dtypes", r"index put requires the source and destination dtypes match")
        + certain(
            "flashattention only support fp16 and bf16",
            "flash attention only supports fp16, bf16",
            "only supports fp16, bf16, fp8_e4m3",
            "value cannot be converted to type at::half without overflow",
            "value cannot be converted to type c10::half without overflow",
            "inputs and the weights are not of the same dtype",
        )
        + matching("!=", r"got: (?:c10::)?(?:float|half|bfloat16|double|long int|char) != (?:c ?10::)?\w+"),
        set_to(quantization__compute_dtype="auto"),
        more="dtypes",
    ),
    Failure(
        "bfloat16_not_supported",
        "This GPU has no bf16",
        "bf16 needs compute capability 8.0 (Ampere) or newer; T4, V100 and GTX cards have fp16 only.",
        "Leave quantization.compute_dtype at auto, which uses float16 there, or set "
        "it to float32 where the loss overflows.",
        certain(
            "bfloat16 is only supported on gpus with compute capability",
            "your setup doesn't support bf16",
            "your device doesn't support bf16",
            "bf16 is not supported on this device",
            "current cuda device does not support bfloat16",
            "does not support bfloat16",
            "bf16 requires pt",
            "bf16 mixed precision requires pytorch",
            "feature '.bf16' requires",
            "target sm_80 or higher",
            "requires ampere or a newer gpu",
        )
        + matching("for 'bfloat16'", r"not implemented for 'bfloat16'")
        + matching("bf16", r"bf16.{0,80}(?:ampere|compute capability)"),
        set_to(quantization__compute_dtype="float16", quantization__storage_dtype="uint8"),
        more="dtypes",
    ),
    Failure(
        "half_on_cpu",
        "fp16 on a CPU",
        "PyTorch has no fp16 kernels for many CPU operations: the model is in half precision and not on the GPU.",
        "Put the model on the GPU; on a CPU load it in float32.",
        matching("for 'half'", r"not implemented for 'half'"),
        set_to(quantization__compute_dtype="auto"),
        more="dtypes",
    ),
    Failure(
        "slow_by_compute_dtype",
        "4-bit layers compute in float32",
        "bnb_4bit_compute_dtype was left at its default, float32, while inputs are in "
        "16 bits: every product takes the slow "
        "path.",
        "Set bnb_4bit_compute_dtype to bfloat16 (float16 on older GPUs); quantization.compute_dtype: auto does it.",
        certain(
            "this will lead to slow inference",
            "bnb_4bit_compute_dtype=torch.float32",
            "bnb_4bit_compute_type=torch.float32",
        ),
        set_to(quantization__compute_dtype="auto"),
        more="dtypes",
    ),
)
