"""Tensors and arguments of the wrong shape or kind, told by general messages;
more special entries come before these."""

from .changes import set_to
from .entry import Failure, certain, likely, matching, possible

FAILURES = (
    Failure(
        "weights_do_not_fit",
        "The weights do not fit the model's class",
        "Names or shapes in the files differ from what config.json or the class asks for.",
        "Load with the class and version that wrote the files; check that config.json belongs to them.",
        likely(
            "size mismatch for",
            "in loading state_dict for",
            "unexpected key(s) in state_dict",
            "missing key(s) in state_dict",
            "ignore_mismatched_sizes",
            "trying to set a tensor of shape",
            "_incompatiblekeys",
        ),
        follows=True,
    ),
    Failure(
        "shapes_differ",
        "Two tensors have sizes that do not go together",
        "A mask, a position or a label is longer than its row, a patched attention "
        "does not fit this version, or weights are "
        "packed.",
        "Look at the first line of the traceback that is not a library's; try attention sdpa or eager, and packing off.",
        matching("size of tensor", r"size of tensor a \(\d+\) must match", "likely")
        + likely(
            "shapes cannot be multiplied",
            "the expanded size of the tensor",
            "bad in-place call",
            "is invalid for input of size",
        )
        + likely(
            "inhomogeneous shape",
            "shape mismatch",
            "einops.einopserror",
            "dimension out of range",
            "same number of dimensions",
        )
        + possible("not enough values to unpack", "too many values to unpack"),
        set_to(model__attention_implementation="auto", training__packing="off"),
        follows=True,
    ),
    Failure(
        "masked_labels_decoded",
        "Masked labels were decoded",
        "-100 marks labels that are not learnt and is no token: decoding it overflows.",
        "Replace -100 by the pad token before decoding.",
        certain(
            "can't convert negative int to unsigned",
            "out of range integral type conversion attempted",
            "piece id is out of range",
        ),
        more="data",
    ),
    Failure(
        "padded_on_the_wrong_side",
        "Prompts were padded on the wrong side",
        "A decoder continues at the end of the row; padding there makes it answer to padding.",
        "Set tokenizer.padding_side to left for generation, right for training.",
        certain(
            "right-padding was detected",
            "batched generation with padding_side='right'",
            "padding_side='left'` when initializing",
        ),
        more="data",
    ),
    Failure(
        "cuda_in_forked_process",
        "CUDA was used before a process was forked",
        "A forked worker cannot use the GPU of its parent.",
        "Do not touch the GPU before workers start; use no data workers, or the start method spawn.",
        certain("cannot re-initialize cuda in forked subprocess", "cuda has been initialized before launching"),
    ),
    Failure(
        "checkpointing_not_supported",
        "This model has no gradient checkpointing",
        "Its class does not say how to recompute its layers.",
        "Turn checkpointing off and lower the micro-batch.",
        certain("does not support gradient checkpointing"),
        set_to(training__gradient_checkpointing=False),
    ),
    Failure(
        "mixed_precision_not_here",
        "Mixed precision does not work on this device",
        "fp16 with a gradient scaler needs a CUDA GPU, and fp16 and bf16 exclude each other.",
        "Leave quantization.compute_dtype at auto; in a script set only one of fp16 and bf16, none on a CPU.",
        certain(
            "can only be used on cuda devices",
            "mixed precision requires a gpu",
            "at most one of fp16 and bf16 can be true",
            "fp16 mixed precision requires",
            "bf16 mixed precision requires",
        ),
        set_to(quantization__compute_dtype="auto"),
    ),
    Failure(
        "merge_failed",
        "The merge failed",
        "Names or shapes of adapter and base do not pair up: a base in 4 bits, a vision model, or another version.",
        "Merge with `qlora merge` into the 16-bit base that adapter_config.json names.",
        certain("saving lora finetune failed")
        + likely(
            "bad in-place call",
            "size of tensor",
            "runtimeerror",
            near=("save_pretrained_merged", "merge_and_unload", "merge_lora"),
        )
        + matching("merg", r"(?:fail\w*|error|crash\w*|unable|cannot|can'?t).{0,60}\bmerg(?:e|ing)\b", "possible"),
        commands=("qlora merge OUTPUT -o MERGED",),
    ),
    Failure(
        "new_tokens_untrained",
        "Added tokens were never trained",
        "New rows of the embedding start at random, and LoRA on linear layers leaves them so.",
        "Train embedding and head with the adapter (they cost memory), or use tokens the model has.",
        certain("untrained tokens", "embed_tokens & lm_head not trainable")
        + matching(
            "token",
            r"(?:new|added|special) tokens?.{0,60}(?:not (?:trained|learn|recogni[sz]ed)|random|no effect)",
            "possible",
        ),
        set_to(lora__modules_to_save=["embed_tokens", "lm_head"]),
    ),
    Failure(
        "adapter_from_newer_peft",
        "The adapter was written by a newer peft",
        "Its adapter_config.json has fields that the installed peft does not know.",
        "Upgrade peft, or delete the unknown fields where they hold defaults.",
        matching(
            "unexpected keyword argument",
            r"(?:lora|peft|ia3|prompt\w*|prefix\w*|ada\w*)config(?:\.(?:__)?init(?:__)?)?\(\) got an unexpected "
            r"keyword argument",
        )
        + certain("this could indicate that you are using a newer version of peft", "keyerror: <pefttype"),
        commands=("pip install --upgrade peft",),
    ),
    Failure(
        "image_tokens_do_not_match",
        "Images and their marks in the text do not pair up",
        "Rows were cut in the middle of an image's tokens, lack a mark for an image, or the processor is of another version.",
        "Lengthen rows or make images smaller, give one mark an image, and update transformers. "
        "qlora-tools trains on text only.",
        matching("image", r"image (?:features|tokens?) .{0,60}(?:do not|don'?t|does not) match")
        + matching("image", r"(?:number|count) of (?:images?|image tokens?|<image>).{0,80}(?:match|differ|mismatch)")
        + certain("mismatch in `image` token count", "mismatch between image tokens"),
    ),
)
