"""Where a script takes its rows from, and which of their tokens it learns."""

import re
from typing import Any

from .calls import Call, ScriptSource, Value
from .from_script_sections import section_of
from .recipes import Account, Section, left
from .recipes_models import is_file, local_path, plain_split
from .recipes_rows import leave_datasets, settle_split

_READERS = ("load_dataset", "load_from_disk", "from_json", "from_csv", "from_parquet", "from_text")
_FILE_KINDS = ("json", "csv", "parquet", "text", "arrow", "pandas")
_HELD_OUT = ("test", "validation", "valid", "eval", "dev")
_ROOT = re.compile(r"[\w.]*?([A-Za-z_]\w*)")
_ITEM = re.compile(r"\[\s*[\"']([\w.-]+)[\"']\s*\]")
_LOSS = "data.loss_on"
_BUILDERS = (
    "map",
    "apply_chat_template",
    "from_dict",
    "from_list",
    "from_pandas",
    "from_generator",
    "get_chat_template",
)


def settle_rows(
    source: ScriptSource, account: Account, call: Call | None, trainer: Section, arguments: Section
) -> None:
    """Settle the calls that read rows, and what the trainer is told about them."""
    handed = call.arguments if call is not None else {}
    readers = source.calls_of(*_READERS)
    train = _behind(source, readers, handed.get("train_dataset")) or next(iter(readers), None)
    if train is not None:
        _settle_reader(account, train, handed.get("train_dataset"))
    if handed.get("eval_dataset") is not None and "data.path" not in account.given:
        _settle_held_out(source, account, handed["eval_dataset"], train)
    for other in readers:
        if other is not train and other.line != getattr(train, "line", None):
            account.notes.append(f"Line {other.line}: {other.last_name} reads further rows, which are not imported.")
    _settle_form(source, account, trainer, arguments)
    trainer.settle(
        *("train_dataset", "eval_dataset", "args", "peft_config", "tokenizer", "processing_class", "model"),
        *("data_collator", "compute_metrics", "preprocess_logits_for_metrics", "optimizers", "quantization_config"),
    )


def _behind(source: ScriptSource, readers: list[Call], value: Value | None) -> Call | None:
    """The reader whose rows `value` is, by the name it was bound to."""
    root = _ROOT.match(value.text) if value is not None else None
    if root is None:
        return None
    bound = [call for call in readers if call.assigned_to == root.group(1)]
    return bound[-1] if bound else None


def _settle_reader(account: Account, call: Call, handed: Value | None) -> None:
    part = section_of(account, call)
    if "data.path" in account.given:
        leave_datasets(part, *part.open_keys(), *part.unknown_keys())
    else:
        _settle_path(part)
        if "name" in part:
            part.carry("name", "data.subset", part.get("name"))
        settle_split(part, "data.split")
        item = _ITEM.search(handed.text) if handed is not None else None
        if item is not None and not account.has("data.split") and item.group(1) not in _HELD_OUT:
            account.take_default("data.split", item.group(1), "the split that the trainer is given")
    part.apply(
        left("rows are read whole and kept in the cache of the libraries", "Nothing.", "streaming num_proc cache_dir")
        | left("rows come from the newest state of a dataset", "Take a copy of the rows.", "revision")
        | left("keys are read from the environment", "Set HF_TOKEN there.", "token use_auth_token")
        | left("code of datasets is never run here", "Take rows in plain files.", "trust_remote_code")
    )
    part.close("an argument of reading rows")


def _settle_path(part: Section) -> None:
    path, files = part.get("path"), part.get("data_files")
    if isinstance(files, dict):
        files = files.get("train", next(iter(files.values()), None))
    file = files[0] if isinstance(files, list) and files else files
    if isinstance(file, str) and (path in _FILE_KINDS or path is None):
        _settle_file(part, file, part.get("data_files"))
        part.settle("path")
    elif isinstance(path, str) and path not in _FILE_KINDS:
        ours = path if is_file(path) else local_path(path)
        part.carry("path", "data.path", ours, "" if ours == path else "written so that it is a directory here")
        if "data_files" in part:
            part.leave("data_files", "a dataset on the Hub is read by its splits", "Set data.subset and data.split.")
    elif "path" in part:
        part.settle("path")
    if "path_or_paths" in part:
        part.carry("path_or_paths", "data.path", local_path(str(part.get("path_or_paths"))))


def _settle_file(part: Section, file: str, files: Any) -> None:
    several = isinstance(files, list) and len(files) > 1
    why = "the first of several files; put them into one directory" if several else ""
    part.carry("data_files", "data.path", local_path(file), why)
    held = next((files[name] for name in _HELD_OUT if isinstance(files, dict) and name in files), None)
    if isinstance(held, str):
        part.account.settings["data.evaluation_path"] = local_path(held)
        part.account.notes.append("The held-out file of data_files is data.evaluation_path.")


def _settle_held_out(source: ScriptSource, account: Account, value: Value, train: Call | None) -> None:
    """Held-out rows: a part that is split off, another split, or another file."""
    if value.known and value.value is None:
        return
    item, other = _ITEM.search(value.text), _behind(source, source.calls_of(*_READERS), value)
    parted = source.calls_of("train_test_split")
    section = Section(
        account, {"eval_dataset": value.text}, form="trainer({})", line=value.node.lineno if value.node else None
    )
    if "data.evaluation_path" in account.settings:
        section.settle("eval_dataset")
    elif parted:
        _settle_share(section, parted[0])
    elif other is not None and other is not train:
        _settle_other(section, other)
    elif item is not None:
        section.carry("eval_dataset", "data.evaluation_split", item.group(1))
    section.apply(
        left(
            "only running the script would tell which rows they are",
            "Set data.evaluation_path, data.evaluation_split or data.evaluation_fraction.",
            "eval_dataset",
        )
    )


def _settle_share(section: Section, call: Call) -> None:
    size = call.arguments.get("test_size") or next(iter(call.positional), None)
    if size is not None and size.known and isinstance(size.value, float) and 0 < size.value < 1:
        section.carry(
            "eval_dataset",
            "data.evaluation_fraction",
            size.value,
            f"split off at line {call.line}; here the seed chooses",
        )


def _settle_other(section: Section, call: Call) -> None:
    path = next(iter(call.positional), None) or call.arguments.get("path")
    split = call.arguments.get("split")
    files = call.arguments.get("data_files")
    if files is not None and files.known and isinstance(files.value, str):
        section.carry("eval_dataset", "data.evaluation_path", local_path(files.value))
    elif path is not None and path.known and isinstance(path.value, str) and path.value not in _FILE_KINDS:
        if path.value != section.account.value("data.path"):
            section.account.settings["data.evaluation_path"] = local_path(path.value)
        name = plain_split(split.value)[0] if split is not None and split.known else ""
        if name:
            section.carry("eval_dataset", "data.evaluation_split", name)
        else:
            section.carry("eval_dataset", "data.evaluation_path", local_path(path.value))


def _settle_form(source: ScriptSource, account: Account, trainer: Section, arguments: Section) -> None:
    """The column of texts, where the rows have it themselves and no code builds it."""
    built = [call for call in source.calls_of(*_BUILDERS) if call.name.startswith(".") or call.last_name != "map"]
    formatted = "formatting_func" in trainer or "formatting_func" in trainer.unknown_keys()
    if built or formatted:
        lines = ", ".join(dict.fromkeys(str(call.line) for call in built)) or "the trainer's formatting_func"
        account.notes.append(
            f"The script builds its texts by code (line {lines}), which is not run here: rows are read in their own columns "
            "and rendered with the model's chat template. `qlora data inspect` shows them; the prompt may differ."
        )
    trainer.settle("formatting_func")
    for section in (trainer, arguments):
        key = "dataset_text_field"
        if key not in section:
            continue
        if built or formatted or "data.path" in account.given:
            section.leave(
                key,
                "the script's own code or other rows stand in its place",
                "Set data.format and data.columns if need be.",
            )
        else:
            section.carry(key, "data.columns", {"text": str(section.get(key))})
            account.settings.setdefault("data.format", "text")


def settle_length(source: ScriptSource, account: Account, trainer: Call | None) -> None:
    """Where the plain Trainer trains, the script's own call of the tokenizer cuts the rows."""
    path = "training.max_length_tokens"
    if trainer is None or trainer.last_name != "Trainer" or account.has(path):
        return
    for call in source.calls:
        length = call.arguments.get("max_length")
        if "truncation" in call.arguments and length is not None and isinstance(length.value, int):
            name = f"{call.last_name or 'tokenizer'}(max_length)"
            account.imply(
                path, length.value, name=name, shown=length.text, why=f"the call at line {call.line} cuts there"
            )


def settle_loss(source: ScriptSource, account: Account, arguments: Section) -> None:
    """Answers only where the script says so; TRL learns all tokens of texts and chats."""
    switches = (("assistant_only_loss", "assistant"), ("completion_only_loss", "completions"))
    for key, ours in switches:
        if arguments.is_on(key):
            arguments.carry(key, _LOSS, ours)
        arguments.switch_off(key)
    answers = source.calls_of("train_on_responses_only")
    collators = source.calls_of("DataCollatorForCompletionOnlyLM")
    for call in (answers + collators)[:1]:
        ours = "assistant" if answers or "instruction_template" in call.arguments else "completions"
        shown = "finds answers by marks in the text; here they are found by rendering"
        account.imply(_LOSS, ours, name=f"{call.last_name}(...)", shown=f"line {call.line}", why=shown)
    if "data.path" in account.given:
        return
    account.take_default(_LOSS, "all", "what the trainer learns of texts and chats if it is told nothing")
