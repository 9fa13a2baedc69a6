"""Datasets of recipes as the data part of a config: the first is `data` itself, the others are `data.more_sources`."""

from .recipes import Section
from .recipes_models import plain_split

_REPLACED = "you gave the rows yourself, so those of the recipe are not read"
_COLUMNS = "Set data.format and data.columns where your rows need them; `qlora data inspect` says so."


def place_of(index: int) -> str:
    """The dotted place of the fields of a dataset by its number."""
    return "data" if index == 0 else f"data.more_sources[{index - 1}]"


def leave_datasets(section: Section, *keys: str) -> None:
    """Settle the datasets of a recipe whose rows the user replaces."""
    for key in keys:
        if key in section or key in section.unknown_keys():
            section.leave(key, _REPLACED, _COLUMNS)


def settle_split(section: Section, path: str) -> None:
    """The split; a slice of one (`train[:10%]`) cannot be read."""
    if "split" not in section:
        return
    split, part = plain_split(section.get("split"))
    if not split:
        section.leave("split", "it is not the name of one split", f"Set {path}.")
    elif part:
        why = f"the whole split is read; the slice {part} is not offered: take weight for a share of the rows"
        section.carry("split", path, split, why)
    else:
        section.carry("split", path, split)
