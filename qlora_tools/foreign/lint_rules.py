"""The table of rules. A new rule is a function from a `Subject` to what it found, a row here, and a row in its test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from . import (
    rules_adapter,
    rules_endings,
    rules_quantisation,
    rules_rows,
    rules_safety,
    rules_stale,
    rules_text,
    rules_training,
)
from .lint_installed import unknown_arguments
from .lint_subject import Found, Subject

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Rule:
    """`severity` holds unless what is found brings its own."""

    name: str
    severity: Severity
    find: Callable[[Subject], Iterator[Found]]


RULES: tuple[Rule, ...] = (
    Rule("removed-argument", "error", rules_stale.removed_arguments),
    Rule("removed-loading-argument", "error", rules_stale.removed_loading_arguments),
    Rule("stale-attribute", "warning", rules_stale.attributes_nobody_reads),
    Rule("removed-name", "error", rules_stale.names_that_are_gone),
    Rule("removed-token-argument", "warning", rules_stale.removed_token_argument),
    Rule("unknown-argument", "error", unknown_arguments),
    Rule("renamed-dtype", "note", rules_stale.renamed_dtype),
    Rule("fp4", "warning", rules_quantisation.fp4_by_default),
    Rule("no-double-quantisation", "note", rules_quantisation.no_double_quantisation),
    Rule("fp32-compute", "warning", rules_quantisation.fp32_compute_by_default),
    Rule("eight-bit-base", "note", rules_quantisation.eight_bit_base),
    Rule("not-quantised", "warning", rules_quantisation.unquantised_double),
    Rule("fp16-and-bf16", "error", rules_quantisation.both_half_precisions),
    Rule("compute-dtype", "warning", rules_quantisation.compute_dtype_and_autocast_differ),
    Rule("weights-dtype", "warning", rules_quantisation.compute_dtype_and_weights_differ),
    Rule("trl-fp16", "error", rules_quantisation.trl_fp16_on_quantised_base),
    Rule("bf16-emulation", "note", rules_quantisation.bf16_asked_with_emulation),
    Rule("fp32-upcast", "warning", rules_training.fp32_upcast),
    Rule("optimiser-32-bit", "note", rules_training.thirty_two_bit_optimiser),
    Rule("optimiser-gone", "error", rules_training.optimiser_that_is_gone),
    Rule("learning-rate", "warning", rules_training.learning_rate_out_of_range),
    Rule("best-model", "error", rules_training.best_model_without_its_evaluations),
    Rule("auto-find-batch-size", "warning", rules_training.batch_size_that_moves),
    Rule("reentrant", "note", rules_training.reentrant_checkpointing),
    Rule("no-checkpointing", "note", rules_training.no_checkpointing),
    Rule("cache-in-training", "note", rules_training.cache_in_training),
    Rule("device-map", "note", rules_training.device_map_in_training),
    Rule("no-seed", "note", rules_training.chance_without_seed),
    Rule("adapter-targets", "note", rules_adapter.targets_that_miss_layers),
    Rule("adapter-strength", "warning", rules_adapter.strength_of_adapter),
    Rule("adapter-bias", "warning", rules_adapter.trained_biases),
    Rule("adapter-frozen", "error", rules_adapter.frozen_adapter),
    Rule("adapter-twice", "error", rules_adapter.adapter_attached_twice),
    Rule("adapter-initialisation", "error", rules_adapter.initialisation_of_quantised_base),
    Rule("adapter-on-head", "error", rules_adapter.head_as_target),
    Rule("embeddings-trained", "note", rules_adapter.whole_embeddings_trained),
    Rule("merge-in-4-bit", "warning", rules_adapter.merge_into_four_bits),
    Rule("adapter-order", "error", rules_adapter.adapter_named_first),
    Rule("pad-is-eos", "error", rules_endings.padding_with_eos),
    Rule("no-eos", "warning", rules_endings.text_without_end),
    Rule("whole-prompt-loss", "note", rules_text.whole_prompt_loss),
    Rule("mask-without-completions", "warning", rules_text.mask_without_completions),
    Rule("masked-language-model", "error", rules_text.masked_language_model),
    Rule("padding-learnt", "warning", rules_rows.padding_that_is_learnt),
    Rule("formatting-list", "error", rules_rows.formatting_in_batches),
    Rule("rows-cut", "note", rules_text.rows_cut_by_default),
    Rule("packing", "warning", rules_text.packing_that_cuts),
    Rule("remote-code", "warning", rules_safety.code_of_models),
    Rule("pickle", "warning", rules_safety.pickles),
    Rule("pickled-weights", "warning", rules_safety.pickled_weights),
    Rule("made-up-code", "warning", rules_safety.text_that_becomes_code),
    Rule("secret", "error", rules_safety.secrets_in_source),
)
