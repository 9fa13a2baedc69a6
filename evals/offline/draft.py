"""A call that is being mended: its arguments, the config or settings in them, and the config file that it names."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .hands import Hands
from .session import Call

_SETTINGS = ("settings", "changes")


class Draft:
    """Values by the names that messages give them: an argument, a dotted field of a config, a place in a list."""

    def __init__(self, call: Call, hands: Hands) -> None:
        self._tool = call.tool
        self._hands = hands
        self.arguments: dict[str, Any] = copy.deepcopy(dict(call.arguments))
        self._file: str | None = self.arguments.get("config_path")
        self._of_file = hands.read_config(self._file) if self._file else None
        self._read = copy.deepcopy(self._of_file)

    def call(self) -> Call:
        """The call as it is now; a config file that was changed is written."""
        if self._file and self._of_file is not None and self._of_file != self._read:
            self._hands.write_config(self._file, self._of_file)
        return Call(self._tool, self.arguments)

    def take(self, name: str) -> Any:
        """Remove a value and return it; None where there is none of that name."""
        place = self._place(name)
        return None if place is None else place[0].pop(place[1])

    def has(self, name: str) -> bool:
        """Whether there is a value of that name."""
        return self._place(name) is not None

    def get(self, name: str) -> Any:
        """A value by its name."""
        place = self._place(name)
        return None if place is None else place[0][place[1]]

    def put(self, name: str, value: Any) -> None:
        """Set a value: where there is one, else as an argument, else as a field of the config or the settings."""
        place = self._place(name)
        if place is not None:
            place[0][place[1]] = value
        elif "." not in name:
            self.arguments[name] = value
        else:
            self._put_field(name, value)

    def put_into(self, holder: str, value: Mapping[str, Any]) -> None:
        """Add to an argument that is a mapping, part by part."""
        target = self.arguments.setdefault(holder, {})
        for name, part in value.items():
            if isinstance(part, Mapping):
                target[name] = {**target.get(name, {}), **part}
            else:
                target[name] = part

    def swap(self, wrong: str, right: str) -> bool:
        """Replace a text wherever it stands, also as the end of a path that was resolved; returns whether it was found."""
        holders = [self.arguments, *([self._of_file] if self._of_file else [])]
        found = [_swapped(holder, wrong, right) for holder in holders]
        return any(found)

    def field_of(self, path: str) -> str | None:
        """The dotted field of the config that names this path."""
        for part, values in (self._config() or {}).items():
            for name, value in values.items() if isinstance(values, dict) else ():
                if isinstance(value, str) and _means(value, path):
                    return f"{part}.{name}"
        return None

    def _config(self) -> dict[str, Any] | None:
        given = self.arguments.get("config")
        return given if isinstance(given, dict) else self._of_file

    def _put_field(self, name: str, value: Any) -> None:
        config = self._config()
        if config is not None:
            part, _, last = name.partition(".")
            config.setdefault(part, {})[last] = value
        else:
            holder = "changes" if "changes" in self.arguments else "settings"
            self.arguments.setdefault(holder, {})[name] = value

    def _place(self, name: str) -> tuple[Any, Any] | None:
        """The mapping or list that holds a name, and the key there."""
        for holder in (self.arguments, self._config() or {}):
            found = _walked(holder, name)
            if found is not None:
                return found
        for settings in (self.arguments.get(key) for key in _SETTINGS):
            for key in (name, name.rpartition(".")[2]):
                if isinstance(settings, dict) and key in settings:
                    return settings, key
        return None


def _walked(holder: Any, name: str) -> tuple[Any, Any] | None:
    *parts, last = name.split(".")
    for part in parts:
        holder = holder.get(part) if isinstance(holder, dict) else None
    if isinstance(holder, dict) and last in holder:
        return holder, last
    if isinstance(holder, list) and last.isdigit() and int(last) < len(holder):
        return holder, int(last)
    return None


def _means(value: str, wrong: str) -> bool:
    return value == wrong or ("/" in wrong and Path(wrong).name == Path(value).name and wrong.endswith(value))


def _swapped(holder: Any, wrong: str, right: str) -> bool:
    found = False
    pairs = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for key, value in list(pairs):
        if isinstance(value, dict | list):
            found |= _swapped(value, wrong, right)
        elif isinstance(value, str) and _means(value, wrong):
            holder[key] = right
            found = True
    return found
