"""The adapter: where it sits, how strong it is, how it is attached, saved and merged."""

import ast
from collections.abc import Iterator

from .calls import Call
from .lint_subject import Found, Subject, at, each_with, is_absent, is_true, known, written

# Names of attention's projections in the common families; what is not among them is no reason for a word.
_ATTENTION = frozenset(
    (
        *("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj", "Wqkv", "c_attn", "attn.c_attn"),
        *("query_key_value", "query", "key", "value", "q", "k", "v", "o"),
    )
)
# r=8 with alpha 64, and r=64 with alpha 16 as in the paper, are still recipes that people mean.
_STRONGEST, _WEAKEST = 8.0, 0.25


def targets_that_miss_layers(subject: Subject) -> Iterator[Found]:
    """Adapters on attention only."""
    if subject.kind != "qlora":
        return
    for call in subject.adapters:
        targets = known(call, "target_modules")
        if isinstance(targets, list | tuple) and targets and all(str(item) in _ATTENTION for item in targets):
            what, given = f"the adapter sits on {', '.join(map(str, targets))} only", written(call, "target_modules")
        elif is_absent(call, "target_modules") and is_absent(call, "target_parameters"):
            what, given = "target_modules is left to PEFT's default: query and value of attention for most models", ""
        else:
            continue
        yield Found(
            *at(call, "target_modules"),
            what,
            "The QLoRA paper needed adapters on all linear layers to reach full fine-tuning (arXiv 2305.14314, "
            "figure 2); they cost little memory.",
            'use target_modules="all-linear"',
            given,
            'target_modules="all-linear"' if given else None,
        )


def strength_of_adapter(subject: Subject) -> Iterator[Found]:
    """alpha / r far from what anybody uses."""
    for call in subject.adapters:
        rank, alpha = known(call, "r"), known(call, "lora_alpha")
        if alpha is None and is_absent(call, "lora_alpha"):
            alpha = 8
        rank = 8 if rank is None and is_absent(call, "r") else rank
        if not _is_number(rank) or not _is_number(alpha) or rank <= 0 or known(call, "use_rslora", False) is not False:
            continue
        if not _WEAKEST <= alpha / rank <= _STRONGEST:
            yield Found(
                *at(call, "lora_alpha"),
                f"alpha / r is {alpha} / {rank} = {alpha / rank:g}",
                "That is the factor before the adapter's output; recipes lie between 0.25 and 8, and far outside the "
                "learning rate is in effect another one.",
                f"start with lora_alpha={2 * rank}",
                written(call, "lora_alpha") if "lora_alpha" in call.arguments else "",
                f"lora_alpha={2 * rank}" if "lora_alpha" in call.arguments else None,
            )


def trained_biases(subject: Subject) -> Iterator[Found]:
    """`bias="all"`."""
    for call in subject.adapters:
        if known(call, "bias") in ("all", "lora_only"):
            yield Found(
                *at(call, "bias"),
                f"bias={known(call, 'bias')!r} trains biases of the base",
                "The base then no longer answers as before with the adapter switched off (peft, LoraConfig), and many "
                "servers refuse such adapters.",
                "train no biases",
                written(call, "bias"),
                'bias="none"',
            )


def frozen_adapter(subject: Subject) -> Iterator[Found]:
    """Adapters that are made or loaded for inference and then trained."""
    if not subject.trains:
        return
    for call in subject.adapters:
        if is_true(call, "inference_mode"):
            yield Found(
                *at(call, "inference_mode"),
                "inference_mode=True freezes the adapter",
                "Nothing is trained: the optimiser finds no parameter with a gradient.",
                "leave it out",
                written(call, "inference_mode"),
                "inference_mode=False",
            )
    trained = {call.arguments["model"].text for call in _trainers(subject) if "model" in call.arguments}
    for call in subject.calls_of("PeftModel.from_pretrained"):
        if call.assigned_to in trained and is_absent(call, "is_trainable") and not _later_trainer_uses(subject, call):
            yield Found(
                call.line,
                call.end_line,
                "an adapter is loaded frozen and then trained",
                "PeftModel.from_pretrained loads for inference: without is_trainable=True no parameter has a gradient.",
                "add is_trainable=True",
            )


def _later_trainer_uses(subject: Subject, call: Call) -> bool:
    """Whether every trainer was made before, so that the loaded adapter is only asked."""
    return all(trainer.line < call.line for trainer in _trainers(subject))


def adapter_attached_twice(subject: Subject) -> Iterator[Found]:
    """`get_peft_model`, and then `peft_config` for the trainer."""
    for call in subject.sft_trainers:
        given = call.arguments.get("model") or (call.positional[0] if call.positional else None)
        made = subject.source.call_behind(given) if given else None
        config = call.arguments.get("peft_config")
        on = config is not None and not (config.known and config.value is None)
        if on and made is not None and made.name == "peft.get_peft_model":
            yield Found(
                *at(call, "peft_config"),
                f"the model has an adapter already (line {made.line})",
                "SFTTrainer raises ValueError for a PeftModel together with peft_config (trl 1.15 and later).",
                "leave out get_peft_model, or peft_config here",
                written(call, "peft_config"),
                "",
            )


def initialisation_of_quantised_base(subject: Subject) -> Iterator[Found]:
    """PiSSA and OLoRA change the base's weights, which 4 bits cannot."""
    if subject.kind != "qlora":
        return
    for call in subject.adapters:
        worth = known(call, "init_lora_weights")
        if isinstance(worth, str) and worth.startswith("pissa"):
            yield Found(
                *at(call, "init_lora_weights"),
                f"init_lora_weights={worth!r} on a 4-bit base",
                "PiSSA takes its part out of the base's weights: PEFT raises TypeError for quantised ones.",
                "use the default here; for a start that knows the quantisation error, replace_lora_weights_loftq",
                written(call, "init_lora_weights"),
                "init_lora_weights=True",
            )


def head_as_target(subject: Subject) -> Iterator[Found]:
    """An adapter on `lm_head`."""
    for call in subject.adapters if subject.sft_trainers and not subject.is_unsloths else ():
        targets = known(call, "target_modules")
        if isinstance(targets, list | tuple) and "lm_head" in targets:
            yield Found(
                *at(call, "target_modules"),
                "lm_head is among the target modules",
                "SFTTrainer multiplies by the head's weight itself and never sees an adapter there: trl 1.16 raises "
                "ValueError.",
                "take lm_head out of target_modules",
                written(call, "target_modules"),
                f"target_modules={[item for item in targets if item != 'lm_head']!r}",
            )


def whole_embeddings_trained(subject: Subject) -> Iterator[Found]:
    """`modules_to_save` with embeddings or head."""
    for call, value in each_with(subject.adapters, "modules_to_save"):
        saved = value.value if value.known and isinstance(value.value, list | tuple) else ()
        named = [
            str(item) for item in saved if str(item) in ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")
        ]
        if named:
            yield Found(
                *at(call, "modules_to_save"),
                f"{' and '.join(named)} {'are' if len(named) > 1 else 'is'} trained as a whole",
                "Each is vocabulary x width parameters with gradient and optimiser states: 525 M on Llama-3.1-8B, twelve "
                "times an adapter of r=16, and some servers take no such adapter.",
                "for a few new tokens use trainable_token_indices; otherwise leave it out",
                written(call, "modules_to_save"),
            )


def merge_into_four_bits(subject: Subject) -> Iterator[Found]:
    """`merge_and_unload` of an adapter whose base is quantised."""
    for call in subject.source.calls_of("merge_and_unload", "merge_adapter"):
        base = _base_of(subject, call)
        if base is not None and base in subject.loads_in_four_bits:
            yield Found(
                call.line,
                call.end_line,
                f"the adapter is merged into a base in 4 bits (loaded in line {base.line})",
                "PEFT rounds the sum to 16 levels again, in which a small adapter is lost, and warns of it "
                "(peft/tuners/lora/bnb.py); the result stays quantised.",
                "load the base again in 16 bits, attach the adapter with PeftModel.from_pretrained and merge there",
            )


def adapter_named_first(subject: Subject) -> Iterator[Found]:
    """`PeftModel.from_pretrained(directory)`: the base model comes first."""
    for call in subject.calls_of("PeftModel.from_pretrained", "PeftModelForCausalLM.from_pretrained"):
        first = call.positional[0] if call.positional else call.arguments.get("model")
        if first is not None and first.known and isinstance(first.value, str):
            yield Found(
                call.line,
                call.end_line,
                "PeftModel.from_pretrained is given a name where the loaded base belongs",
                "The order is (base model, adapter); a text has no modules, and the call raises AttributeError.",
                "pass the loaded base first, or use AutoPeftModelForCausalLM.from_pretrained(adapter)",
            )


def _base_of(subject: Subject, merge: Call) -> Call | None:
    """The call that loaded the base behind the receiver of `merge`, as far as assignments tell."""
    node = merge.node.func if merge.node else None
    holder = node.value if isinstance(node, ast.Attribute) else None
    for _ in range(8):
        if holder is None:
            return None
        if isinstance(holder, ast.Attribute) and holder.attr == "model" and not _is_self(holder.value):
            holder = holder.value  # trainer.model
        made = subject.source.call_at(holder)
        if made is None or made in subject.loads:
            return made
        holder = _comes_from(made)
    return None


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _comes_from(call: Call) -> ast.expr | None:
    passes = ("get_peft_model", "prepare_model_for_kbit_training", "SFTTrainer", "Trainer", "merge_and_unload")
    if call.last_name in passes or call.name.endswith("PeftModel.from_pretrained"):
        first = call.arguments.get("model") or (call.positional[0] if call.positional else None)
        return first.node if first else None
    return None


def _trainers(subject: Subject) -> list[Call]:
    return [*subject.trl_trainers, *subject.plain_trainers]


def _is_number(worth: object) -> bool:
    return isinstance(worth, int | float) and not isinstance(worth, bool)
