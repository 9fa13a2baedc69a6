"""How a script holds its base: BitsAndBytesConfig, switches of from_pretrained, and Unsloth's defaults."""

from .calls import Call, ScriptSource
from .from_script_sections import section_of
from .recipes import Account, Field, Rules, Section, left
from .recipes_values import dtype, truth

_KIND = "quantization.kind"
_FP4 = (
    "left out, bitsandbytes takes fp4, which loses more than nf4; nf4 is taken. For the script's own write "
    "quantization.kind: fp4"
)
_RULES: Rules = {
    "bnb_4bit_use_double_quant": Field("quantization.double_quantization", truth),
    "bnb_4bit_compute_dtype": Field("quantization.compute_dtype", dtype),
    "bnb_4bit_quant_storage": Field("quantization.storage_dtype", lambda value: str(value).rpartition(".")[2]),
    **left(
        "8-bit layers are held with the defaults of bitsandbytes",
        "Nothing.",
        "llm_int8_threshold llm_int8_skip_modules llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight",
    ),
    **left("it says only which library quantises", "Nothing.", "quant_method"),
}


def settle_quantization(
    source: ScriptSource, model: Section, lora: Section, loading: Call | None, *, unsloth: bool
) -> None:
    """Settle the kind, double quantisation and the dtype that is computed in; `loading` is the call that loads the base."""
    account, calls = model.account, source.calls_of("BitsAndBytesConfig")
    if loading is None or (not calls and "quantization_config" in model.unknown_keys()):
        account.undecided.add(_KIND)
        account.notes.append(
            "How the base is quantised is not found in the script: NF4 with double quantisation is taken."
        )
    if calls:
        _settle_config(section_of(account, calls[0]), account)
        if len(calls) > 1:
            account.notes.append(f"A further BitsAndBytesConfig at line {calls[1].line} is not read.")
    _settle_switches(model, account, unsloth=unsloth)
    model.settle("quantization_config")
    _settle_dtypes(model, account)
    lora.settle("task_type")
    if "bias" in lora and lora.get("bias") == "none":
        lora.switch_off("bias")


def _settle_config(options: Section, account: Account) -> None:
    eight = options.is_on("load_in_8bit")
    given = options.get("bnb_4bit_quant_type")
    kind = "int8" if eight else given if given in ("nf4", "fp4") else "nf4"
    for key in ("load_in_8bit", "load_in_4bit"):
        if options.is_on(key):
            options.carry(key, _KIND, kind)
        options.switch_off(key)
    if "load_in_4bit" in options.unknown_keys():
        options.undecide("load_in_4bit", _KIND)
    if account.value(_KIND) in ("nf4", "fp4") or _KIND in account.undecided:
        _settle_four_bits(options, account, given)
    else:
        options.switch_off(*(key for key in options.open_keys() if key.startswith("bnb_4bit_")))
    options.apply(_RULES)
    options.close("an argument of bitsandbytes")


def _settle_four_bits(options: Section, account: Account, given: object) -> None:
    if given in ("nf4", "fp4"):
        options.carry("bnb_4bit_quant_type", _KIND, given)
    elif given is None and "bnb_4bit_quant_type" not in options.unknown_keys():
        options.say(_KIND, account.value(_KIND), "bnb_4bit_quant_type", _FP4)
    if "bnb_4bit_use_double_quant" not in options:
        account.take_default("quantization.double_quantization", False, "the default of bitsandbytes")
    if "bnb_4bit_compute_dtype" not in options and "bnb_4bit_compute_dtype" not in options.unknown_keys():
        why = "left out, bitsandbytes computes in float32, slow and with twice the activations; auto asks the GPU"
        options.say("quantization.compute_dtype", "auto", "bnb_4bit_compute_dtype", why)


def _settle_switches(model: Section, account: Account, *, unsloth: bool) -> None:
    """`load_in_4bit` and `load_in_8bit` of from_pretrained; Unsloth takes 4 bits where nothing is said."""
    for key, kind in (("load_in_8bit", "int8"), ("load_in_4bit", "nf4")):
        if model.is_on(key):
            model.carry(key, _KIND, kind, "" if unsloth or kind == "int8" else _FP4.replace("left out", "so loaded"))
        elif key in model:
            if unsloth and key == "load_in_4bit" and not account.has(_KIND):
                model.carry(key, _KIND, "none")
            else:
                model.switch_off(key)
    if not unsloth:
        account.take_default(_KIND, "none", "the default of from_pretrained")


def _settle_dtypes(model: Section, account: Account) -> None:
    path = "quantization.compute_dtype"
    for key in ("dtype", "torch_dtype"):
        if key not in model:
            continue
        if account.value(path) is not None and account.value(path) != str(model.get(key)).rpartition(".")[2]:
            model.leave(
                key,
                f"what is not quantised is held in the dtype that is computed in, which is {account.value(path)}",
                f"Set {path} if this one was meant.",
            )
        else:
            model.apply({key: Field(path, dtype)})
