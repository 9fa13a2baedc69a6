"""Calls of a script as sections of the account, and calls that change a run without being arguments of it."""

from typing import Any

from .calls import Call, ScriptSource
from .recipes import Account, Section
from .recipes_training import SHARED

_POSITIONAL = {
    "from_pretrained": ("pretrained_model_name_or_path",),
    "get_peft_model": ("model",),
    "prepare_model_for_kbit_training": ("model", "use_gradient_checkpointing"),
    "prepare_model_for_int8_training": ("model", "use_gradient_checkpointing"),
    "TrainingArguments": ("output_dir",),
    "SFTConfig": ("output_dir",),
    "SFTTrainer": ("model", "args"),
    "Trainer": ("model", "args"),
    "EarlyStoppingCallback": ("early_stopping_patience", "early_stopping_threshold"),
    "load_dataset": ("path", "name"),
    "load_from_disk": ("path",),
    "from_json": ("path_or_paths",),
    "from_csv": ("path_or_paths",),
    "from_parquet": ("path_or_paths",),
    "from_text": ("path_or_paths",),
}
# Calls beside the trainer that change what is learnt, and what becomes of that here.
_NOTICED = {
    ("select", "filter", "take", "skip"): "takes a part of the rows; here all are read: data.weight takes a share",
    (
        "add_tokens",
        "add_special_tokens",
        "resize_token_embeddings",
    ): "changes the vocabulary, which stays as it is here",
    ("concatenate_datasets", "interleave_datasets"): "mixes rows; here further ones stand in data.more_sources",
    ("add_adapter", "load_adapter"): "handles further adapters, which are not imported",
}


def section_of(account: Account, call: Call | None) -> Section:
    """The arguments of a call as keys, `LoraConfig(r)`; those by position under their names, as far as they are known."""
    if call is None:
        return Section(account, {})
    names = _POSITIONAL.get(call.last_name, ())
    further = tuple(f"argument {number + 1}" for number in range(len(names), len(call.positional)))
    words = dict(zip((*names, *further), call.positional, strict=False)) | call.arguments
    if not call.complete:
        account.notes.append(
            f"Line {call.line}: {call.last_name} takes arguments by * or ** that only running the script would tell."
        )
    known: dict[str, Any] = {key: value.value for key, value in words.items() if value.known}
    unknown = {key: value.text for key, value in words.items() if not value.known}
    return Section(account, known, form=f"{call.last_name}({{}})", line=call.line, unknown=unknown)


def settle_callbacks(source: ScriptSource, trainer: Section) -> None:
    """Early stopping is a callback there and a field here; other callbacks are left."""
    found = source.calls_of("EarlyStoppingCallback")
    for call in found[:1]:
        section = section_of(trainer.account, call)
        section.apply({"early_stopping_patience": SHARED["early_stopping_patience"]})
        section.close("an argument of early stopping")
    if found:
        trainer.settle("callbacks")


def note_what_else(source: ScriptSource, account: Account) -> None:
    """Notes on calls that change what is learnt and have no field."""
    for names, what in _NOTICED.items():
        calls = source.calls_of(*names)
        if calls:
            lines = ", ".join(dict.fromkeys(f"{call.last_name} at line {call.line}" for call in calls))
            account.notes.append(f"The script {what} ({lines}).")
