"""LLaMA-Factory's names of datasets: what they mean stands in its dataset_info.json."""

from collections.abc import Mapping
from typing import Any

from .recipes import NotCarriedError, Section, left
from .recipes_models import is_file, local_path
from .recipes_reading import shown_value
from .recipes_rows import leave_datasets, place_of, settle_split
from .recipes_values import names

_ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
_ONLINE = "ONLINE"


def settle_datasets(section: Section, info: Mapping[str, Any] | None) -> None:
    """Settle the training rows and the held-out rows. A name without an entry in `info` is left."""
    folder = str(section.get("dataset_dir") or "data")
    if "data.path" in section.account.given:
        leave_datasets(section, "dataset", "dataset_dir", "eval_dataset")
        return
    listed = _listed(section, "dataset")
    if "dataset_dir" in section:
        section.account.notes.append("dataset_dir is where the files of the datasets are.")
        section.settle("dataset_dir")
    if listed and folder == _ONLINE:
        for index, hub_id in enumerate(listed):
            _settle_whole(section, "dataset", hub_id, f"{place_of(index)}.path", last=index == len(listed) - 1)
    elif listed:
        _settle_named(section, listed, folder, info)
    held = _listed(section, "eval_dataset")
    if held:
        entry = info.get(held[0]) if info else None
        if isinstance(entry, dict) and isinstance(_place_in(entry, folder), str):
            section.carry("eval_dataset", "data.evaluation_path", _place_in(entry, folder), _first_of(held))
        else:
            section.leave("eval_dataset", *_unknown(folder))


def _listed(section: Section, key: str) -> tuple[str, ...]:
    try:
        return names(section.get(key)) if key in section else ()
    except NotCarriedError as error:
        section.leave(key, error.why, error.what_to_do)
        return ()


def _settle_whole(section: Section, key: str, value: str, path: str, *, last: bool) -> None:
    """Carry one of several names that stand under one key."""
    part = Section(section.account, {value: value}, form=f"{key}: {{}}")
    part.carry(value, path, value)
    if last:
        section.settle(key)


def _settle_named(section: Section, listed: tuple[str, ...], folder: str, info: Mapping[str, Any] | None) -> None:
    known = [found for found in listed if isinstance((info or {}).get(found), dict)]
    for found in listed:
        if found not in known:
            part = Section(section.account, {found: found}, form="dataset: {}")
            part.leave(found, *_unknown(folder))
    for index, found in enumerate(known):
        _settle_entry(section, found, (info or {})[found], folder, place_of(index))
    section.settle("dataset")


def _unknown(folder: str) -> tuple[str, str]:
    return (
        f"it is a name of LLaMA-Factory's dataset_info.json (in {folder}), which was not given or does not have it",
        "Give the file (--dataset-info), or the rows themselves (--data PATH).",
    )


def _settle_entry(section: Section, found: str, entry: dict[Any, Any], folder: str, place: str) -> None:
    part = Section(section.account, entry, form=f"dataset: {shown_value('', found)}.{{}}")
    for key in ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name"):
        if key not in part:
            continue
        if f"{place}.path" in section.account.settings:
            part.leave(key, "it names a copy of the same rows", "Nothing.")
        elif key in ("file_name", "hf_hub_url"):
            part.carry(key, f"{place}.path", _place_in(entry, folder))
    _settle_format(part, place)
    if "subset" in part:
        part.carry("subset", f"{place}.subset", part.get("subset"))
    settle_split(part, f"{place}.split")
    part.apply(
        left("roles are recognised by their usual names", "`qlora data inspect` shows how turns are read.", "tags")
        | left("rows are all read; nothing caps their number", "Take fewer with data.weight.", "num_samples")
        | left(
            "rows come from local files and the Hugging Face Hub",
            "Download them.",
            "ms_hub_url om_hub_url cloud_file_name",
        )
        | left("code of datasets is never run here", "Take rows in plain files.", "script_url")
        | left("a file is read, not a folder in a dataset", "Name the file.", "folder")
        | left("preferences train on the chosen answer alone", "Set data.format: preference.", "ranking")
    )
    part.close("a key of dataset_info.json")


def _place_in(entry: Mapping[Any, Any], folder: str) -> Any:
    """Where the rows are: the file in the folder of datasets, or the Hub."""
    file, hub = entry.get("file_name"), entry.get("hf_hub_url")
    if isinstance(hub, str):
        return hub
    if not isinstance(file, str):
        return None
    path = local_path(f"{folder.rstrip('/')}/{file}")
    return path if is_file(path) or path.startswith(("/", "./", "../", "~")) else f"./{path}"


def _settle_format(part: Section, place: str) -> None:
    columns = part.get("columns")
    columns = {str(key): str(value) for key, value in columns.items() if value} if isinstance(columns, dict) else {}
    if part.get("formatting") == "sharegpt":
        tags = part.get("tags")
        from_roles = isinstance(tags, dict) and tags.get("role_tag") == "role"
        slot, found = ("messages", "messages") if from_roles else ("conversations", "sharegpt")
        part.carry("formatting", f"{place}.format", found)
        ours = {slot: columns["messages"]} if "messages" in columns else {}
        ours |= {name: columns[name] for name in ("system", "tools") if name in columns}
    else:
        if "formatting" in part:
            part.carry("formatting", f"{place}.format", "alpaca")
        ours = {_ALPACA[name]: path for name, path in columns.items() if name in _ALPACA}
    if "columns" in part and ours:
        part.carry("columns", f"{place}.columns", ours)


def _first_of(held: tuple[str, ...]) -> str:
    return "the first of several; put their rows into one file" if len(held) > 1 else ""
