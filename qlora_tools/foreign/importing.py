"""Other people's recipes as RunConfigs: Axolotl, LLaMA-Factory, and Python scripts or notebooks.

They are read by their text alone: nothing is imported, run or fetched.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from ..config import RunConfig, dump_config, parse_config
from ..config.overrides import field_path
from ..errors import ConfigError, UsageError
from ..results import ImportedConfig
from .axolotl import read_axolotl
from .from_script import read_script_recipe
from .llamafactory import read_llamafactory
from .recipes import Account, named
from .recipes_reading import read_recipe

RecipeKind = Literal["auto", "script", "axolotl", "llamafactory"]
_TOOLS = {"axolotl": "Axolotl", "llamafactory": "LLaMA-Factory", "script": "the script"}
_OUR_PARTS = ("model", "data", "output")
_MORE_SOURCES = re.compile(r"data\.more_sources\[(\d+)\]\.(\w+)")
_ASKED = {
    "model.name": "model.name=OWNER/NAME",
    "data.path": "--data PATH",
    "output.directory": "--output DIRECTORY",
}
# Names of foreign keys that would have told it.
_NAMED = {
    "model.name": re.compile(r"from_pretrained\((?:pretrained_model|model_name)|^base_model$|^model_name_or_path$"),
    "data.path": re.compile(r"^(?:datasets?\b|load_dataset|load_from_disk|from_(?:json|csv|parquet|text)\()"),
    "output.directory": re.compile(r"output_dir"),
}
_WHAT = {
    "model.name": "the base model",
    "data.path": "where the rows are",
    "output.directory": "where the results go",
}


def import_config(
    text: str,
    *,
    name: str,
    kind: RecipeKind = "auto",
    output: str | None = None,
    settings: Mapping[str, Any] | None = None,
    dataset_info: str | None = None,
) -> ImportedConfig:
    """Read a foreign recipe into a RunConfig, with an account of every value that it holds.

    `name` is what the text is called, such as its file's name. `output` is the `output.directory`, and `settings` are
    dotted fields that go before the recipe's (`{"data.path": "rows.jsonl"}`). `dataset_info` is the text of LLaMA-Factory's
    `dataset_info.json`, which says what its names of datasets mean. What a recipe leaves to its tool is taken as that
    tool's default, so that the run stays the same.

    Raises `UsageError` where the text is no recipe, where it is no supervised fine-tuning with LoRA or QLoRA, and where it
    does not say which model, rows or output directory, and `ConfigError` for settings that are wrong.
    """
    if kind not in get_args(RecipeKind):
        raise UsageError(
            f"{kind!r} is no kind of recipe.", next_step=f"Choose one of {', '.join(get_args(RecipeKind))}."
        )
    given = {field_path(path): value for path, value in (settings or {}).items()}
    given |= {} if output is None else {"output.directory": output}
    found, values = _recognised(text, name, kind)
    account = Account(_TOOLS[found], given)
    if found == "axolotl":
        read_axolotl(values, account, name=name)
    elif found == "llamafactory":
        info = read_recipe(dataset_info, name="dataset_info.json") if dataset_info is not None else None
        read_llamafactory(values, account, name=name, dataset_info=info)
    else:
        read_script_recipe(text, account, name=name)
    return _finished(account, found, name)


def _recognised(
    text: str, name: str, kind: RecipeKind
) -> tuple[Literal["script", "axolotl", "llamafactory"], dict[str, Any]]:
    """What the text is, and its values where it is YAML or JSON."""
    if kind == "script" or (kind == "auto" and name.lower().endswith((".py", ".ipynb"))):
        return "script", {}
    if kind == "auto" and _is_script(text):
        return "script", {}
    values = read_recipe(text, name=name)
    if kind != "auto":
        return kind, values
    if "base_model" in values:
        return "axolotl", values
    if "model_name_or_path" in values:
        return "llamafactory", values
    if "cells" in values and "nbformat" in values:
        return "script", {}
    if all(isinstance(values.get(part), dict) for part in _OUR_PARTS):
        raise UsageError(f"{name} is a config of qlora already.", next_step="Check it: qlora config validate FILE.")
    raise UsageError(
        f"{name} has neither base_model (Axolotl) nor model_name_or_path (LLaMA-Factory), and is no script.",
        next_step="Say what it is with the kind axolotl, llamafactory or script; a recipe has to name its base model.",
    )


def _is_script(text: str) -> bool:
    return re.search(r"^\s*(?:import|from)\s+[\w.]+", text, re.MULTILINE) is not None and not text.lstrip().startswith(
        "{"
    )


def _finished(account: Account, kind: Literal["script", "axolotl", "llamafactory"], name: str) -> ImportedConfig:
    _require_names(account, name)
    config = _agreed(account)
    return ImportedConfig(
        name=name,
        kind=kind,
        config=config.model_dump(mode="json"),
        config_yaml=dump_config(config),
        carried=account.carried,
        changed=account.changed,
        not_carried=account.left,
        missing=account.missing,
        notes=[*account.notes, *_silent(account)],
        next_step=_next_step(account),
    )


def _require_names(account: Account, name: str) -> None:
    missing = [path for path in _ASKED if not account.has(path)]
    if not missing:
        return
    about = [entry for entry in account.left if any(_NAMED[path].search(entry.name) for path in missing)]
    reasons = [f"{entry.name} = {entry.value}: {entry.why}" for entry in about]
    because = f" Found, but not carried: {'; '.join(reasons[:5])}." if reasons else ""
    info = " A dataset_info.json is given with --dataset-info." if "dataset_info" in because else ""
    raise UsageError(
        f"The recipe {name} does not say {' and '.join(_WHAT[path] for path in missing)}.{because}",
        next_step=f"Give it: {' '.join(_ASKED[path] for path in missing)}.{info}",
    )


def _agreed(account: Account) -> RunConfig:
    """The config; what the recipe says but does not agree with the rest here is taken out, one problem at a time."""
    while True:
        try:
            return parse_config(_nested({**account.settings, **account.given}), source=f"that {account.tool} gives")
        except ConfigError as error:
            carried = next((item for item in error.problems if item.field in account.settings), None)
            if carried is None or carried.field in account.given:
                raise
            account.drop(carried.field, carried.message)


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    more: dict[int, dict[str, Any]] = {}
    for part_name in RunConfig.model_fields:
        for path, value in settings.items():
            found = _MORE_SOURCES.fullmatch(path)
            if found and part_name == "data":
                more.setdefault(int(found.group(1)), {})[found.group(2)] = value
            elif not found and path.startswith(f"{part_name}."):
                parts.setdefault(part_name, {})[path.partition(".")[2]] = value
    if more:
        parts["data"]["more_sources"] = [more[index] for index in sorted(more)]
    return parts


def _silent(account: Account) -> list[str]:
    notes = []
    if account.off:
        notes.append(f"Switched off there and not used here: {named(account.off)}.")
    if account.empty:
        notes.append(f"Without a value: {named(account.empty)}.")
    return notes


def _next_step(account: Account) -> str:
    check = "then `qlora data inspect --config run.yaml` looks at the rows"
    left = [entry for entry in account.left if not entry.harmless]
    if left:
        return f"Read what was not carried ({len(left)} that may matter), save config_yaml as run.yaml, {check}."
    return f"Save config_yaml as run.yaml, {check}."
