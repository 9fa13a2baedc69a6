"""What the loss counts: the prompt's share, rows that are cut or run into one another."""

import ast
from collections.abc import Iterator

from .calls import Call
from .lint_subject import Found, Subject, at, is_absent, is_true, known, written

_MASKS_PROMPT = ("DataCollatorForCompletionOnlyLM", "train_on_responses_only", "DataCollatorForSeq2Seq")


def whole_prompt_loss(subject: Subject) -> Iterator[Found]:
    """Prompts that are learnt as if they were answers."""
    if subject.source.calls_of(*_MASKS_PROMPT):
        return
    for call in subject.calls_of("DataCollatorForLanguageModeling"):
        if not call.name.startswith("trl.") and known(call, "mlm") is False:
            yield Found(
                call.line,
                call.end_line,
                "the loss is taken over the whole row, prompt included",
                "DataCollatorForLanguageModeling masks nothing but padding: the model learns to write questions as well, and "
                "the loss says little about answers.",
                "for instructions give SFTTrainer rows with prompt and completion; for plain text it is right",
            )
    masks = any(is_true(call, name) for call in subject.training_arguments for name in _MASKING_FLAGS)
    for call in subject.sft_trainers if not masks and not _names_completions(subject) else ():
        text = "formatting_func" in call.arguments or "dataset_text_field" in call.arguments or _text_field(subject)
        if text and is_absent(call, "data_collator"):
            yield Found(
                call.line,
                call.end_line,
                "rows are one text: the loss is taken over the prompt too",
                "SFTTrainer masks prompts only of rows with prompt and completion, or with assistant_only_loss=True for "
                "chats (trl, SFTConfig).",
                "for instructions give prompt and completion apart; for plain text it is right",
            )


_MASKING_FLAGS = ("completion_only_loss", "assistant_only_loss")


def mask_without_completions(subject: Subject) -> Iterator[Found]:
    """`completion_only_loss=True` for rows of one text, in which nothing says where the completion starts."""
    formatted = any("formatting_func" in call.arguments for call in subject.sft_trainers)
    for call in subject.training_arguments if subject.sft_trainers else ():
        if not is_true(call, "completion_only_loss") or _names_completions(subject):
            continue
        if formatted or "dataset_text_field" in call.arguments:
            yield Found(
                *at(call, "completion_only_loss"),
                "completion_only_loss=True, and rows are one text",
                "SFTTrainer raises ValueError with a formatting_func, and with a text column leaves the mask out without a "
                "word: the loss is taken over the prompt too (trl 1.16, sft_trainer.py).",
                "give rows with prompt and completion, or messages and assistant_only_loss=True",
                written(call, "completion_only_loss"),
            )


def _text_field(subject: Subject) -> bool:
    return any("dataset_text_field" in call.arguments for call in subject.training_arguments)


def _names_completions(subject: Subject) -> bool:
    names = {"completion", "completions", "labels", "assistant_masks", "chosen"}
    return any(isinstance(node, ast.Constant) and node.value in names for node in ast.walk(subject.source.tree))


def masked_language_model(subject: Subject) -> Iterator[Found]:
    """`mlm` left to its default, which trains to fill in masks."""
    for call in subject.calls_of("transformers.DataCollatorForLanguageModeling"):
        masks = (is_absent(call, "mlm") and len(call.positional) < 2) or is_true(call, "mlm")
        if masks and any("CausalLM" in load.name for load in subject.loads):
            yield Found(
                *at(call, "mlm"),
                "DataCollatorForLanguageModeling masks words, which a causal model cannot learn",
                "mlm is True by default: tokens are replaced by a mask token; tokenizers without one raise ValueError.",
                "add mlm=False",
                written(call, "mlm") if "mlm" in call.arguments else "",
                "mlm=False" if "mlm" in call.arguments else None,
            )


def rows_cut_by_default(subject: Subject) -> Iterator[Found]:
    """`max_length` left to its default of 1024."""
    if not subject.sft_trainers or subject.is_unsloths:
        return
    handled = any({"max_seq_length", "data_collator"} & set(call.arguments) for call in subject.sft_trainers)
    for call in subject.calls_of("SFTConfig"):
        given = {"max_length", "max_seq_length", "dataset_kwargs"} & set(call.arguments)
        if call.complete and not given and not handled and not subject.assigned_to("max_length"):
            yield Found(
                call.line,
                call.end_line,
                "max_length is left to its default, 1024 tokens",
                "What is longer is cut without a word, mostly the end of the answer with its EOS (trl, SFTConfig).",
                "set max_length to what your rows need",
            )


def packing_that_cuts(subject: Subject) -> Iterator[Found]:
    """Packing by cutting one long text."""
    for call in subject.calls_of("SFTConfig"):
        if is_true(call, "packing") and known(call, "packing_strategy") == "wrapped":
            yield Found(
                *at(call, "packing_strategy"),
                "rows are packed by cutting one long text",
                "Rows are cut where the block ends and see the rows before them in the same block (trl, packing_strategy).",
                "use bfd, which keeps rows whole and apart",
                written(call, "packing_strategy"),
                'packing_strategy="bfd"',
            )
        elif is_true(call, "packing"):
            yield from _packing_without_flash(subject, call)


def _packing_without_flash(subject: Subject, call: Call) -> Iterator[Found]:
    chosen = [known(load, "attn_implementation") for load in subject.loads if "attn_implementation" in load.arguments]
    if chosen and all(name in ("eager", "sdpa") for name in chosen):
        yield Found(
            *at(call, "packing"),
            f"packing with attn_implementation={chosen[0]!r}",
            "trl 1.15 warns that rows in one block may see one another: only flash attention is known to keep them apart; "
            "what transformers makes of the positions depends on the model.",
            'use attn_implementation="flash_attention_2" where it is installed, or compare a packed with an unpacked loss',
            written(call, "packing"),
            severity="note",
        )
