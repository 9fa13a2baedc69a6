"""Memory, optimiser, learning rate, checkpointing, devices and chance."""

from collections.abc import Iterator

from .calls import Call
from .lint_subject import TRL_CONFIGS, Found, Subject, at, each_with, is_absent, is_true, known, written

# Full fine-tuning's rate and what is beyond all recipes; the paper's are 1e-4 to 2e-4 (arXiv 2305.14314, table 9).
_TOO_LOW, _TOO_HIGH = 2e-5, 2e-3
_ADAMW_32_BIT = ("adamw_torch", "adamw_torch_fused", "adamw_anyprecision", "paged_adamw_32bit", "adamw_torch_xla")
_LAUNCHED = ("accelerate.PartialState", "accelerate.Accelerator", "torch.distributed.init_process_group")


def fp32_upcast(subject: Subject) -> Iterator[Found]:
    """`prepare_model_for_kbit_training` turns all that is not quantised into fp32."""
    for call in subject.calls_of("prepare_model_for_kbit_training"):
        if subject.kind == "qlora" or any(_is_quantised(load) for load in subject.loads):
            yield Found(
                call.line,
                call.end_line,
                "prepare_model_for_kbit_training turns embeddings, norms and head into float32",
                "That costs 2 bytes more for each of their parameters, vocabulary x width x 2: 128,256 x 4,096 x 2 x 2 B = "
                "2.10 GB on Llama-3.1-8B (peft/utils/other.py), and logits in fp32.",
                "leave it out: attaching the adapter freezes the base, and gradient_checkpointing=True of the trainer's "
                "arguments checkpoints (with use_reentrant=False no input hook is needed)",
            )
        elif _nothing_is_quantised(subject):
            yield Found(
                call.line,
                call.end_line,
                "prepare_model_for_kbit_training turns a base that is not quantised into float32 as a whole",
                "Every half-precision parameter is cast: 4 bytes for each, twice the memory of the base "
                "(peft/utils/other.py).",
                "leave it out, or load the base in 4 bits with a BitsAndBytesConfig",
            )


def _is_quantised(load: Call) -> bool:
    config = load.arguments.get("quantization_config")
    return config is not None and not (config.known and config.value is None)


def _nothing_is_quantised(subject: Subject) -> bool:
    names = {"quantization_config", "load_in_4bit", "load_in_8bit"}
    plain = all(call.complete and not names & set(call.arguments) for call in subject.loads)
    return bool(subject.loads) and plain and not subject.quantisations


def best_model_without_its_evaluations(subject: Subject) -> Iterator[Found]:
    """`load_best_model_at_end` while models and evaluations come at different times, or one of them never."""
    for call in subject.training_arguments:
        if not is_true(call, "load_best_model_at_end") or not call.complete:
            continue
        evaluated = known(call, "eval_strategy", known(call, "evaluation_strategy"))
        if "eval_strategy" not in call.arguments and "evaluation_strategy" not in call.arguments:
            evaluated = "no"
        saved = known(call, "save_strategy") if "save_strategy" in call.arguments else "steps"
        if isinstance(evaluated, str) and isinstance(saved, str) and evaluated != saved and saved != "best":
            yield Found(
                *at(call, "load_best_model_at_end"),
                f"load_best_model_at_end with evaluation at {evaluated!r} and saving at {saved!r}",
                "TrainingArguments raises ValueError: the best model is chosen among those saved when they were evaluated.",
                'give both the same, such as eval_strategy="steps" and save_strategy="steps"',
                written(call, "load_best_model_at_end"),
            )


def thirty_two_bit_optimiser(subject: Subject) -> Iterator[Found]:
    """AdamW with states in 32 bits."""
    if subject.kind != "qlora":
        return
    for call in subject.training_arguments:
        optimiser = known(call, "optim")
        if optimiser in _ADAMW_32_BIT or is_absent(call, "optim"):
            shown = (
                f"the optimiser is {optimiser}"
                if optimiser
                else "the optimiser is left to its default, adamw_torch_fused"
            )
            yield Found(
                *at(call, "optim"),
                f"{shown}: states in 32 bits",
                "8 bytes for each trainable parameter instead of 2: 336 MB instead of 84 MB for r=16 on all linear layers of "
                "an 8B model; paged ones can leave the GPU for a while when memory is short.",
                "use paged_adamw_8bit where memory is short",
                written(call, "optim") if optimiser else "",
                'optim="paged_adamw_8bit"' if optimiser else None,
            )


def optimiser_that_is_gone(subject: Subject) -> Iterator[Found]:
    """`adamw_hf`."""
    for call in subject.training_arguments:
        if known(call, "optim") == "adamw_hf":
            yield Found(
                *at(call, "optim"),
                "there is no optimiser adamw_hf any more",
                "TrainingArguments raises ValueError (gone in transformers 5).",
                "use adamw_torch_fused, or paged_adamw_8bit for QLoRA",
                written(call, "optim"),
                'optim="paged_adamw_8bit"',
            )


def learning_rate_out_of_range(subject: Subject) -> Iterator[Found]:
    """The rate of full fine-tuning, or one at which adapters diverge."""
    if subject.kind not in ("qlora", "lora") or not (subject.sft_trainers or subject.plain_trainers):
        return
    for call in subject.training_arguments:
        rate = known(call, "learning_rate")
        if isinstance(rate, int | float) and rate > _TOO_HIGH:
            yield _rate_found(call, f"learning_rate is {rate:g}", "Adapters mostly diverge above 2e-3.")
        elif isinstance(rate, int | float) and 0 < rate <= _TOO_LOW and call.last_name not in TRL_CONFIGS[1:]:
            yield _rate_found(call, f"learning_rate is {rate:g}, a rate of full fine-tuning", _WHY_LOW)
        elif is_absent(call, "learning_rate"):
            default = "2e-5" if call.last_name == "SFTConfig" else "5e-5"
            if call.last_name not in TRL_CONFIGS[1:]:
                yield _rate_found(call, f"learning_rate is left to its default, {default}", _WHY_LOW)


_WHY_LOW = (
    "The adapter starts at zero and is all that learns: about ten times the rate of full fine-tuning is needed; the QLoRA "
    "paper used 2e-4 up to 13B and 1e-4 above (arXiv 2305.14314)."
)


def _rate_found(call: Call, what: str, why: str) -> Found:
    given = "learning_rate" in call.arguments
    text = written(call, "learning_rate") if given else ""
    return Found(
        *at(call, "learning_rate"), what, why, "start with 2e-4", text, "learning_rate=2e-4" if given else None
    )


def batch_size_that_moves(subject: Subject) -> Iterator[Found]:
    """`auto_find_batch_size`."""
    for call in subject.training_arguments:
        if is_true(call, "auto_find_batch_size"):
            yield Found(
                *at(call, "auto_find_batch_size"),
                "auto_find_batch_size changes the effective batch in silence",
                "After running out of memory accelerate starts again with a smaller micro-batch and the same accumulation: "
                "fewer rows a step at the same learning rate (accelerate issue 1934).",
                "choose the micro-batch and gradient_accumulation_steps yourself",
                written(call, "auto_find_batch_size"),
                "auto_find_batch_size=False",
            )


def reentrant_checkpointing(subject: Subject) -> Iterator[Found]:
    """`use_reentrant=True`."""
    calls = [*subject.training_arguments, *subject.calls_of("gradient_checkpointing_enable")]
    for call, value in each_with(calls, "gradient_checkpointing_kwargs"):
        if value.known and isinstance(value.value, dict) and value.value.get("use_reentrant") is True:
            yield Found(
                *at(call, "gradient_checkpointing_kwargs"),
                "gradient checkpointing is reentrant",
                "With a frozen base it needs a hook that gives the inputs a gradient, or no adapter learns, and it fails "
                "under DDP; PyTorch recommends the other way, which is the default of transformers 5.",
                "use the other",
                written(call, "gradient_checkpointing_kwargs"),
                'gradient_checkpointing_kwargs={"use_reentrant": False}',
            )


def no_checkpointing(subject: Subject) -> Iterator[Found]:
    """QLoRA that keeps all activations."""
    if subject.kind != "qlora" or subject.is_unsloths or _checkpoints_by_hand(subject):
        return
    for call in subject.training_arguments:
        off = known(call, "gradient_checkpointing") is False
        absent = is_absent(call, "gradient_checkpointing") and is_absent(call, "activation_checkpointing")
        if off or (absent and call.last_name not in TRL_CONFIGS):
            yield Found(
                *at(call, "gradient_checkpointing"),
                "gradient checkpointing is off"
                if off
                else "gradient checkpointing is left to its default, which is off",
                "All activations stay in memory: 51 instead of 9.4 GiB for 4 rows of 2,048 tokens on an 8B model in NF4 "
                "(measured on an H100); without it a step is about a third faster.",
                "set gradient_checkpointing=True unless it fits without",
                written(call, "gradient_checkpointing") if off else "",
                "gradient_checkpointing=True" if off else None,
            )


def _checkpoints_by_hand(subject: Subject) -> bool:
    prepared = subject.calls_of("prepare_model_for_kbit_training")
    on = [call for call in prepared if known(call, "use_gradient_checkpointing", True) is not False]
    names = ("gradient_checkpointing_enable", "activation_checkpointing_enable", "enable_input_require_grads")
    return bool(on or subject.source.calls_of(*names) or subject.assigned_to("gradient_checkpointing"))


def cache_in_training(subject: Subject) -> Iterator[Found]:
    """The cache of keys and values in a loop of one's own; trainers turn it off since transformers 5."""
    enabled = subject.source.calls_of("gradient_checkpointing_enable")
    off = any(item.value.known and item.value.value is False for item in subject.assigned_to("use_cache"))
    given = [known(call, "use_cache") for call in subject.source.calls if "use_cache" in call.arguments]
    trainers = subject.trl_trainers or subject.plain_trainers
    if enabled and subject.trains and not trainers and not off and False not in given:
        yield Found(
            enabled[0].line,
            enabled[0].end_line,
            "the cache of keys and values stays on in training",
            "It is of no use with gradient checkpointing, which turns it off with a warning at every start.",
            "set model.config.use_cache = False before training",
        )


def device_map_in_training(subject: Subject) -> Iterator[Found]:
    """`device_map="auto"` spreads one model over all GPUs."""
    if not subject.trains:
        return
    several = bool(subject.calls_of(*_LAUNCHED)) or any(
        name in call.arguments and known(call, name, "") not in (None, "")
        for call in subject.training_arguments
        for name in ("deepspeed", "fsdp", "ddp_find_unused_parameters")
    )
    for call in subject.loads:
        if known(call, "device_map") == "auto":
            yield Found(
                *at(call, "device_map"),
                'device_map="auto" in training',
                "With several GPUs one model is spread over them and they work in turn; started by torchrun or accelerate "
                "every process does so, and accelerate refuses to train it. With one GPU it is the same as {'': 0}.",
                "put the whole model on the process's own GPU",
                written(call, "device_map"),
                'device_map={"": int(os.environ.get("LOCAL_RANK", 0))}',
                severity="warning" if several else "note",
            )


def chance_without_seed(subject: Subject) -> Iterator[Found]:
    """An adapter that is drawn, or rows that are split, before anything is seeded."""
    if subject.calls_of("set_seed", "manual_seed", "seed_everything", "enable_full_determinism"):
        return
    for call in subject.calls_of("peft.get_peft_model"):
        yield Found(
            call.line,
            call.end_line,
            "the adapter is drawn before anything is seeded",
            "The trainer sets its seed when it is made, which is later: no two runs start from the same adapter.",
            "call transformers.set_seed(42) first",
        )
    for call in subject.source.calls_of("train_test_split"):
        if call.complete and not {"seed", "shuffle", "random_state", "generator"} & set(call.arguments):
            yield Found(
                call.line,
                call.end_line,
                "rows are split without a seed",
                "Every start holds out other rows: a resumed run is evaluated on rows that it learnt.",
                "add seed=42",
            )
