"""The datasets of an Axolotl recipe: where rows are, what their type is here, and which of their tokens are learnt."""

from typing import Any

from ..data.formats.turns import CONTENT_KEYS, ROLE_KEYS
from .recipes import Rules, Section, left
from .recipes_models import is_file, local_path, plain_split
from .recipes_rows import leave_datasets, place_of, settle_split

# Axolotl's types of rows: our format, and what is different.
_PROMPT = "the prompt is the instruction in the model's own chat template, without Axolotl's words around it"
_TYPES: dict[str, tuple[str, str]] = {
    "alpaca": ("alpaca", _PROMPT),
    "alpaca_w_system": ("alpaca", _PROMPT),
    "alpaca_chat": ("alpaca", _PROMPT),
    "gpteacher": ("alpaca", _PROMPT),
    "jeopardy": ("question_answer", _PROMPT),
    "explainchoice": ("question_answer", _PROMPT),
    "concisechoice": ("question_answer", _PROMPT),
    "sharegpt": ("sharegpt", ""),
    "chat_template": ("messages", ""),
    "completion": ("text", ""),
}
_CHATS = ("sharegpt", "messages")
_FILE_KINDS = ("json", "csv", "parquet", "text", "arrow")
_ROW_RULES: Rules = {
    **left(
        "rows are rendered with the chat template of the model's own tokenizer",
        "Where that template is another one, put yours into a local copy of the model.",
        "conversation chat_template chat_template_jinja format no_input_format system_prompt system_format prompt_format "
        "input_format input_transform",
    ),
    **left("the kind of a file is told by its suffix", "Nothing.", "ds_type"),
    **left(
        "roles are recognised by their usual names, and whole answers are learnt with the token that ends them",
        "Look at the masks: `qlora data inspect` shows what is learnt.",
        "roles train_on_eos train_on_eot message_field_training message_field_training_detail drop_system_message "
        "field_human field_model field_tools field_thinking template_thinking_key split_thinking eot_tokens",
    ),
    **left(
        "rows are read whole, and from the newest state of a dataset",
        "Take a copy of the rows that you mean.",
        "revision shards_idx preprocess_shards temperature logprobs_field skip",
    ),
}


def settle_datasets(section: Section) -> None:
    """Settle `datasets` and `test_datasets`, and from their types which tokens are learnt."""
    account, listed = section.account, section.get("datasets")
    formats: set[str] = set()
    if "datasets" in section:
        if "data.path" in account.given:
            leave_datasets(section, "datasets")
        else:
            formats = _settle_rows(section, listed if isinstance(listed, list) else [listed])
    _settle_loss(section, formats)
    _settle_test(section)


def _settle_rows(section: Section, listed: list[Any]) -> set[str]:
    formats = set()
    for index, entry in enumerate(listed):
        values = entry if isinstance(entry, dict) else {"path": entry}
        part = Section(section.account, values, form=f"datasets[{index}].{{}}")
        formats.add(_settle_one(part, place_of(index)))
    section.settle("datasets")
    return formats


def _settle_one(part: Section, place: str) -> str:
    """Settle one dataset as the fields under `place` and return its format."""
    _settle_path(part, place)
    found = _settle_type(part, place)
    if "name" in part:
        part.carry("name", f"{place}.subset", part.get("name"))
    settle_split(part, f"{place}.split")
    if "shards" in part:
        shards = part.get("shards")
        if isinstance(shards, int) and shards > 0:
            part.carry("shards", f"{place}.weight", 1 / shards, f"1 of {shards} rows, chosen by the seed")
    part.apply(left("code of datasets is never run here", "Take rows in plain files.", "trust_remote_code"))
    _settle_roles(part)
    part.apply(_ROW_RULES)
    part.close("a setting of an Axolotl dataset")
    return found


def _settle_path(part: Section, place: str) -> None:
    files, path = part.get("data_files"), part.get("path")
    file = files[0] if isinstance(files, list) and len(files) == 1 else files
    if isinstance(file, str) and (path in _FILE_KINDS or path is None):
        part.carry("data_files", f"{place}.path", local_path(file))
        part.settle("path")
    elif "data_files" in part:
        part.leave(
            "data_files",
            "a dataset on the Hub is read by its splits, and one path is one file",
            "Name one file as a path.",
        )
    if isinstance(path, str) and "path" in part:
        ours = path if is_file(path) else local_path(path)
        part.carry("path", f"{place}.path", ours, "" if ours == path else "written so that it is a directory here")


def _settle_type(part: Section, place: str) -> str:
    kind = part.get("type")
    if isinstance(kind, dict):
        return _settle_own_type(part, place, kind)
    base = str(kind or "").split(".")[0].split(":")[0]
    found, why = _TYPES.get(base, ("auto", ""))
    if str(kind).endswith("load_qa"):
        found = "question_answer"
    if kind is None:
        return found
    if found == "auto":
        part.leave(
            "type",
            "there is no such type of rows here; the format is recognised by columns and content",
            "Look at the rows: `qlora data inspect` shows how they are read.",
        )
        return found
    mapping = _message_keys(part)
    if found == "messages" and mapping.get("role") == "from":
        found = "sharegpt"
    part.carry("type", f"{place}.format", found, why)
    _settle_columns(part, place, found, mapping)
    return found


def _message_keys(part: Section) -> dict[str, str]:
    given = part.get("message_property_mappings")
    mapping = {str(key): str(value) for key, value in given.items()} if isinstance(given, dict) else {}
    for key in ("role", "content"):
        old = part.get(f"message_field_{key}")
        if isinstance(old, str):
            mapping.setdefault(key, old)
    return mapping


def _settle_columns(part: Section, place: str, found: str, mapping: dict[str, str]) -> None:
    if found in _CHATS and "field_messages" in part:
        slot = "messages" if found == "messages" else "conversations"
        part.carry("field_messages", f"{place}.columns", {slot: str(part.get("field_messages"))})
    if found == "text" and "field" in part:
        part.carry("field", f"{place}.columns", {"text": str(part.get("field"))})
    for key in ("message_property_mappings", "message_field_role", "message_field_content"):
        if key not in part:
            continue
        if mapping.get("role", "role") in ROLE_KEYS and mapping.get("content", "content") in CONTENT_KEYS:
            part.carry(key, f"{place}.format", found)
        else:
            part.leave(
                key,
                "the keys of a turn are recognised by their usual names, and these are not among them",
                "Rename them in the rows; `qlora data inspect` proposes how.",
            )


def _settle_own_type(part: Section, place: str, kind: dict[Any, Any]) -> str:
    """A type that the recipe defines itself: columns of an instruction, an input and an answer, and a prompt."""
    own = Section(part.account, kind, form=part.name("type") + ".{}")
    slots = {
        "field_instruction": "instruction",
        "field_input": "input",
        "field_output": "output",
        "field_system": "system",
    }
    columns = {slot: str(own.get(key)) for key, slot in slots.items() if isinstance(own.get(key), str)}
    for key in slots:
        if key in own and "output" in columns and "instruction" in columns:
            own.carry(key, f"{place}.columns", columns)
    if "output" in columns and "instruction" in columns:
        part.account.settings.setdefault(f"{place}.format", "alpaca")
    own.apply(_ROW_RULES)
    own.close("a part of a type of rows")
    part.settle("type")
    return "alpaca"


def _settle_roles(part: Section) -> None:
    roles = part.get("roles_to_train")
    if roles is None:
        return
    if isinstance(roles, list) and roles and all(role in ("assistant", "gpt", "model", "bot") for role in roles):
        part.carry("roles_to_train", "data.loss_on", "assistant")
    else:
        part.leave("roles_to_train", "answers of the assistant are learnt, or everything", "Set data.loss_on.")


def _settle_loss(section: Section, formats: set[str]) -> None:
    """Answers, or everything; Axolotl learns every answer of a chat."""
    path = "data.loss_on"
    usual = "assistant" if formats & set(_CHATS) else "all" if formats == {"text"} else "completions"
    if section.is_on("train_on_inputs"):
        if section.account.settings.get(path) == "assistant":
            section.leave("train_on_inputs", "roles_to_train says that answers are learnt", f"Set {path}.")
        else:
            section.carry("train_on_inputs", path, "all")
    elif "train_on_inputs" in section:
        section.carry("train_on_inputs", path, section.account.settings.get(path, usual))
    section.account.take_default(path, usual, "Axolotl's default for this type of rows")


def _settle_test(section: Section) -> None:
    tests = section.get("test_datasets")
    if not isinstance(tests, list) or not tests or not isinstance(tests[0], dict):
        return
    part = Section(section.account, tests[0], form="test_datasets[0].{}")
    path, split = part.get("path"), plain_split(part.get("split"))[0]
    files = part.get("data_files")
    file = files[0] if isinstance(files, list) and files else files
    if isinstance(file, str):
        part.carry("data_files", "data.evaluation_path", local_path(file))
        part.settle("path", "split")
    elif isinstance(path, str):
        part.carry("path", "data.evaluation_path", path if is_file(path) else local_path(path))
        if split and not is_file(path):
            part.carry("split", "data.evaluation_split", split)
    why = "held-out rows are read as the training rows are"
    part.apply(left(why, "Nothing where they have the same columns.", " ".join(part.open_keys())))
    section.settle("test_datasets")
    if len(tests) > 1:
        section.account.notes.append(f"Of {len(tests)} test datasets the first is taken; put their rows into one file.")
