"""Bases that are quantised already, and what must not be done to 4-bit weights."""

from .changes import set_to
from .entry import Failure, certain, likely, matching

FAILURES = (
    Failure(
        "quantised_already",
        "The base is quantised already",
        "GPTQ, AWQ, FP8 or ready-made 4-bit weights cannot be quantised again, and often neither trained nor merged.",
        "Give the original 16-bit model, or (for a GPTQ base) drop the quantisation config and merge into the original.",
        certain(
            "is quantised already",
            "blockwise quantization only supports 16/32-bit floats",
            "does not contain `bitsandbytes__",
            "model is already quantized",
            "already has a `quantization_config` attribute",
            "already has a quantization_config attribute",
            "is already quantized with",
        )
        + matching("quantized with", r"the model is quantized with \w+ but you are passing a \w+ config")
        + matching("gptq", r"cannot merge lora layers when the model is (?:gptq|awq|aqlm|eetq|hqq)")
        + likely("you are trying to load a pre-quantized")
        + matching(
            "auto_gptq",
            r"(?:auto-?gptq|autoawq|gptqmodel|optimum).{0,120}(?:required|not installed|pip install|importerror)",
            "likely",
        ),
        more="quantization",
    ),
    Failure(
        "quantised_model_moved",
        "A quantised model was moved or cast",
        "4-bit and 8-bit weights are packed codes: .to(), .cuda() and .half() would break them.",
        "Remove the call; the model is on its device and in its dtype already.",
        certain(
            "is not supported for `4-bit` or `8-bit` bitsandbytes models",
            "is not supported for `8-bit` bitsandbytes models",
            "calling `cuda()` is not supported for",
        )
        + matching(
            "is not supported for",
            r"`?\.?(?:to|half|float|cuda)`?(?:\(\))? is not supported for .{0,60}(?:4-?bit|8-?bit|quantized)",
        )
        + matching("cannot cast a", r"you cannot cast a (?:bitsandbytes|gptq|\w+) model"),
    ),
    Failure(
        "saving_quantised_model",
        "A 4-bit model cannot be saved like this",
        "save_pretrained on the whole model writes packed codes; what training made is the adapter.",
        "Save the adapter alone, or merge into the 16-bit base.",
        certain(
            "you are calling `save_pretrained` to a 4-bit",
            "you are calling `save_pretrained` to a 8-bit",
            "you are calling `save_pretrained` to an 8-bit",
            "4-bit models is not supported",
        ),
        commands=("qlora merge OUTPUT -o MERGED",),
    ),
    Failure(
        "experts_not_quantised",
        "The experts stayed in 16 bits",
        "bitsandbytes quantises linear layers; experts stored as one three-dimensional tensor are left alone, silently.",
        "Count with `qlora estimate --model`, which knows it; choose a dense model, "
        "or one whose experts are linear layers.",
        matching(
            "expert",
            r"\bexperts?\b.{0,80}(?:not (?:be(?:ing)? )?quanti[sz]ed|(?:un|non-?)quanti[sz]ed|in "
            r"(?:bf16|bfloat16|16.?bit|full precision))",
            "likely",
        )
        + matching("quanti", r"(?:not|n't) quanti[sz]e.{0,60}\b(?:experts?|moe)\b", "likely"),
        more="memory",
    ),
    Failure(
        "quantised_without_adapter",
        "A quantised model cannot be trained without an adapter",
        "4-bit and 8-bit weights take no gradients; only an adapter on top of them can learn.",
        "Attach a LoRA adapter before the trainer is made; qlora-tools always does.",
        certain(
            "you cannot perform fine-tuning on purely quantized models",
            "cannot perform fine-tuning on purely quantized",
            "that quantization method do not support training",
            "that quantization method does not support training",
            "the model you want to train is loaded in 8-bit precision",
            "only tensors of floating point dtype can require gradients",
        )
        + likely("only tensors of floating point and complex dtype can require gradients"),
        set_to(lora__target_modules="all-linear"),
    ),
    Failure(
        "initialisation_not_for_this_base",
        "That start of the adapter does not work on this base",
        "PiSSA and OLoRA change base weights, which packed codes cannot give up; LoftQ needs the original weights.",
        "Use lora.initialization: default.",
        certain(
            "please initialize pissa under float32",
            "pissa moves part of the base weights",
            "loftq corrects the rounding",
            "please initialize olora under float32",
            "loftq needs the original weight",
            "'loftq_config' must be specified",
        )
        + matching("svd", r"svd.{0,80}not implemented for|linalg_svd.{0,40}(?:byte|char|half)"),
        set_to(lora__initialization="default"),
    ),
)
