"""How the base is quantised, and in which precision it computes."""

from collections.abc import Iterator

from .calls import Call
from .lint_subject import Found, Subject, at, each_with, is_absent, is_true, known, written

_HALF = {"torch.float16": "fp16", "torch.half": "fp16", "float16": "fp16", "fp16": "fp16"}
_PRECISION = {**_HALF, **dict.fromkeys(("torch.bfloat16", "bfloat16", "bf16"), "bf16")}
_PRECISION |= dict.fromkeys(("torch.float32", "torch.float", "float32", "fp32"), "fp32")


def fp4_by_default(subject: Subject) -> Iterator[Found]:
    """4 bits without a word about which: that is fp4."""
    for call in subject.four_bit:
        if is_absent(call, "bnb_4bit_quant_type"):
            yield Found(
                call.line,
                call.end_line,
                "bnb_4bit_quant_type is left to its default, which is fp4",
                "NF4 fits normally distributed weights better: the QLoRA paper measured MMLU 53.1 with NF4 and double "
                "quantisation against 52.2 with FP4 (arXiv 2305.14314, table 4).",
                'add bnb_4bit_quant_type="nf4"',
                "load_in_4bit=True" if call.arguments["load_in_4bit"].text == "True" else "",
                'load_in_4bit=True, bnb_4bit_quant_type="nf4"'
                if call.arguments["load_in_4bit"].text == "True"
                else None,
            )
        elif known(call, "bnb_4bit_quant_type") == "fp4":
            yield Found(
                *at(call, "bnb_4bit_quant_type"),
                "the base is quantised to fp4",
                "NF4 takes the same memory and loses less: MMLU 53.1 against 52.2 in the QLoRA paper (arXiv 2305.14314).",
                "use nf4",
                written(call, "bnb_4bit_quant_type"),
                'bnb_4bit_quant_type="nf4"',
            )


def no_double_quantisation(subject: Subject) -> Iterator[Found]:
    """The constants of the blocks stay in fp32."""
    for call in subject.four_bit:
        off = known(call, "bnb_4bit_use_double_quant") is False
        if off or is_absent(call, "bnb_4bit_use_double_quant"):
            yield Found(
                *at(call, "bnb_4bit_use_double_quant"),
                "double quantisation is off" if off else "double quantisation is left to its default, which is off",
                "It saves 0.373 bit a parameter, 0.33 GB on a 7B model, at no loss that the paper could measure "
                "(arXiv 2305.14314); it costs a little time in dequantising.",
                "set bnb_4bit_use_double_quant=True where memory is short",
                written(call, "bnb_4bit_use_double_quant") if off else "",
                "bnb_4bit_use_double_quant=True" if off else None,
            )


def fp32_compute_by_default(subject: Subject) -> Iterator[Found]:
    """No compute dtype, which means fp32 products."""
    for call in subject.four_bit:
        if is_absent(call, "bnb_4bit_compute_dtype"):
            yield Found(
                call.line,
                call.end_line,
                "bnb_4bit_compute_dtype is left to its default, which is float32",
                "Every 4-bit layer casts its input to fp32, and outside autocast multiplies in it: slower, and with larger "
                "activations (transformers, BitsAndBytesConfig).",
                "add bnb_4bit_compute_dtype=torch.bfloat16; torch.float16 on cards before Ampere (T4, V100)",
            )


def eight_bit_base(subject: Subject) -> Iterator[Found]:
    """LoRA on an 8-bit base is no QLoRA."""
    for call in subject.quantisations:
        if is_true(call, "load_in_8bit"):
            yield Found(
                *at(call, "load_in_8bit"),
                "the base is loaded in 8 bits",
                "LLM.int8() takes twice the weights' memory of NF4 and is slower in training.",
                "use load_in_4bit=True with nf4 unless 8 bits are meant",
                written(call, "load_in_8bit"),
            )


def both_half_precisions(subject: Subject) -> Iterator[Found]:
    """`fp16` and `bf16` together."""
    for call in subject.training_arguments:
        if is_true(call, "fp16") and is_true(call, "bf16"):
            yield Found(
                *at(call, "fp16"),
                "fp16 and bf16 are both on",
                "TrainingArguments raises ValueError.",
                "keep bf16 on Ampere and later (capability 8.0 and up), fp16 on older cards",
                written(call, "fp16"),
            )


def compute_dtype_and_autocast_differ(subject: Subject) -> Iterator[Found]:
    """4-bit products in one half precision, the trainer's autocast in the other."""
    configs = [call for call in subject.four_bit if call.complete]
    if len(configs) != 1 or len(subject.training_arguments) != 1:
        return
    config, arguments = configs[0], subject.training_arguments[0]
    precision, flag = _precision(config, "bnb_4bit_compute_dtype"), _flag(arguments)
    if precision == "fp16" and flag == "bf16":
        place, given, fix = (
            at(config, "bnb_4bit_compute_dtype"),
            written(config, "bnb_4bit_compute_dtype"),
            _BF16_COMPUTE,
        )
    elif precision == "bf16" and flag == "fp16":
        place, given, fix = at(arguments, "fp16"), written(arguments, "fp16"), "bf16=True"
    else:
        return
    yield Found(
        *place,
        f"the 4-bit layers compute in {precision} (line {config.line}), the trainer runs in {flag} (line {arguments.line})",
        "Every 4-bit layer casts what comes in and goes out, and values that fit bf16 overflow in fp16, which ends at "
        "65,504.",
        "use bf16 for both; on cards before Ampere fp16 for both",
        given,
        fix,
    )


_BF16_COMPUTE = "bnb_4bit_compute_dtype=torch.bfloat16"
_TORCH = {"fp16": "float16", "bf16": "bfloat16"}


def compute_dtype_and_weights_differ(subject: Subject) -> Iterator[Found]:
    """What is not quantised in one half precision, the products in the other."""
    for call in subject.loads_in_four_bits:
        given = call.arguments.get("quantization_config")
        config = subject.source.call_behind(given) if given else None
        name = "dtype" if "dtype" in call.arguments else "torch_dtype"
        weights, compute = _precision(call, name), config and _precision(config, "bnb_4bit_compute_dtype")
        if weights in ("fp16", "bf16") and compute in ("fp16", "bf16") and weights != compute:
            yield Found(
                *at(call, name),
                f"the model is loaded in {weights}, its 4-bit layers compute in {compute}",
                "Embeddings, norms and head hand over one precision and the 4-bit layers another: casts in every layer, and "
                "overflows where fp16 is one of them.",
                f"use {compute} for both",
                written(call, name),
                f"dtype=torch.{_TORCH[compute]}",
            )


def trl_fp16_on_quantised_base(subject: Subject) -> Iterator[Found]:
    """TRL turns the adapters into bf16, whose gradients the scaler of fp16 cannot take."""
    if not subject.sft_trainers or subject.is_unsloths or not (subject.loads_in_four_bits or subject.four_bit):
        return
    for call in subject.training_arguments:
        if is_true(call, "fp16"):
            yield Found(
                *at(call, "fp16"),
                "SFTTrainer with fp16=True on a quantised base",
                "TRL turns the adapters of a quantised model into bf16, and the gradient scaler of fp16 has no kernel for "
                "bf16 gradients: the first step raises NotImplementedError (trl issue 4901; trl 1.15 and 1.16).",
                "bf16=True on Ampere and later; on a T4 or V100 put the trainable parameters back to float32 after the "
                "trainer is made: p.data = p.data.float() for each p of trainer.model.parameters() with p.requires_grad",
                written(call, "fp16"),
                "bf16=True",
            )


def bf16_asked_with_emulation(subject: Subject) -> Iterator[Found]:
    """`is_bf16_supported()` says yes on cards that only emulate bf16."""
    for call in subject.calls_of("torch.cuda.is_bf16_supported"):
        if not call.arguments and not call.positional and call.complete:
            yield Found(
                call.line,
                call.end_line,
                "torch.cuda.is_bf16_supported() counts emulation",
                "It is True on a T4, where bf16 is emulated and slow; TrainingArguments asks the same question.",
                "ask without emulation",
                "is_bf16_supported()",
                "is_bf16_supported(including_emulation=False)",
            )


def unquantised_double(subject: Subject) -> Iterator[Found]:
    """Settings of 4 bits without the 4 bits."""
    for call, value in each_with(subject.quantisations, "load_in_4bit"):
        if value.known and value.value is False and not is_true(call, "load_in_8bit") and call.complete:
            yield Found(
                *at(call, "load_in_4bit"),
                "BitsAndBytesConfig with load_in_4bit=False quantises nothing",
                "The base stays in 16 bits: four times the memory of QLoRA.",
                "set load_in_4bit=True",
                written(call, "load_in_4bit"),
                "load_in_4bit=True",
            )


def _precision(call: Call, name: str) -> str | None:
    worth = known(call, name)
    return _PRECISION.get(worth) if isinstance(worth, str) else None


def _flag(call: Call) -> str | None:
    """The half precision that the trainer's autocast surely runs in."""
    if not call.complete:
        return None
    for name in ("fp16", "bf16"):
        if is_true(call, name):
            return name
    # SFTConfig of trl chooses bf16 where neither is given.
    return "bf16" if call.last_name == "SFTConfig" and not {"fp16", "bf16"} & set(call.arguments) else None
