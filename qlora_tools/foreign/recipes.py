"""The account of an import: what becomes of every value of somebody else's recipe. Nothing is dropped in silence."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..hiding import hidden_secrets
from ..results import CarriedValue, LeftValue, MissingValue
from ..untrusted import visible_text
from .recipes_fields import default_of, invalid, unfit_to_show
from .recipes_reading import shown_value

_OFF: tuple[Any, ...] = (False, "none", "no", "off", "false", "False", [], {}, 0)
_LONGEST_NAME = 120
_LEFT_OUT = "(left out)"
_ONLY_RUNNING = "only running the script would tell its value"
_GIVEN = "you gave another value at the import, which goes before the recipe's"


class NotCarriedError(Exception):
    """A value of a recipe has no counterpart here: why, and what to do. Never leaves the import."""

    def __init__(self, why: str, what_to_do: str) -> None:
        super().__init__(why)
        self.why, self.what_to_do = why, what_to_do


@dataclass(frozen=True)
class Converted:
    """Our value of a foreign one, and what is different about it, if anything is."""

    value: Any
    why: str = ""


@dataclass(frozen=True)
class Field:
    """A foreign key that is a field here, by way of a conversion that may raise `NotCarriedError`."""

    path: str
    convert: Callable[[Any], Any]


@dataclass(frozen=True)
class Left:
    """A foreign key that is known and has no counterpart here."""

    why: str
    what_to_do: str


Rules = Mapping[str, Field | Left]


def left(why: str, what_to_do: str, names: str) -> dict[str, Left]:
    """The same words for each of the `names`, which stand between blanks."""
    return dict.fromkeys(names.split(), Left(why, what_to_do))


@dataclass
class Account:
    """Our settings by dotted field, and what was carried, changed and left. `given` goes before whatever a recipe says.

    `undecided` are fields whose values the recipe has but the import cannot tell: no default of a tool stands for those.
    """

    tool: str
    given: Mapping[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    carried: list[CarriedValue] = field(default_factory=list)
    changed: list[CarriedValue] = field(default_factory=list)
    left: list[LeftValue] = field(default_factory=list)
    missing: list[MissingValue] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    off: list[str] = field(default_factory=list)
    undecided: set[str] = field(default_factory=set)
    empty: list[str] = field(default_factory=list)

    def has(self, path: str) -> bool:
        """Whether the field is decided: by what was given, or by the recipe."""
        return path in self.given or path in self.settings

    def value(self, path: str) -> Any:
        """The field as it is decided so far, None where it is not."""
        return self.given.get(path, self.settings.get(path))

    def take_default(self, path: str, value: Any, of: str) -> None:
        """Take the default of the foreign tool for a field that the recipe leaves out, so that the run stays the same."""
        if self.has(path) or path in self.undecided:
            return
        ours = default_of(path)
        if ours != value:
            self.settings[path] = value
            self.missing.append(MissingValue(field=path, taken=value, our_default=ours, of=of))

    def imply(self, path: str, value: Any, *, name: str, shown: str, why: str) -> None:
        """Set what the foreign tool does without being told, said as a change."""
        if not self.has(path) and path not in self.undecided:
            self.settings[path] = value
            self.changed.append(CarriedValue(name=name, value=shown, field=path, our_value=value, why=why))

    def drop(self, path: str, why: str) -> None:
        """Take a carried field out again, since it does not agree with another."""
        del self.settings[path]
        for entries in (self.carried, self.changed):
            for entry in [entry for entry in entries if entry.field == path]:
                entries.remove(entry)
                what_to_do = f"Set {path} once the fields agree, if you need it."
                self.left.append(
                    LeftValue(name=entry.name, value=entry.value, line=entry.line, why=why, what_to_do=what_to_do)
                )
        self.missing = [entry for entry in self.missing if entry.field != path]


class Section:
    """The keys of one mapping or call of a recipe. Each is settled once; `close` leaves those that nobody settled.

    `form` is how a key is named to the user, such as "LoraConfig({})". `unknown` holds keys whose values only a run of the
    script would tell, with their source.
    """

    def __init__(
        self,
        account: Account,
        values: Mapping[Any, Any],
        *,
        form: str = "{}",
        line: int | None = None,
        unknown: Mapping[str, str] | None = None,
    ) -> None:
        self.account, self._form, self._line = account, form, line
        named_values = {str(key): value for key, value in values.items()}
        self._values = {key: value for key, value in named_values.items() if value is not None and value != ""}
        account.empty += [self.name(key) for key in named_values if key not in self._values]
        self._unknown = dict(unknown or {})

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def open_keys(self) -> list[str]:
        """The keys that are not settled yet."""
        return list(self._values)

    def get(self, key: str) -> Any:
        """The value of an unsettled key, None where there is none."""
        return self._values.get(key)

    def unknown_keys(self) -> frozenset[str]:
        """Keys whose values only a run of the script would tell."""
        return frozenset(self._unknown)

    def name(self, key: str) -> str:
        """How the key is named to the user."""
        # Not format(): a form may hold names of the recipe, and those may hold braces.
        return self._form.replace("{}", hidden_secrets(visible_text(" ".join(key.split())))[:_LONGEST_NAME])

    def is_on(self, key: str) -> bool:
        """Whether a switch is there and on."""
        return key in self._values and self._values[key] not in _OFF

    def settle(self, *keys: str) -> None:
        """Take keys out whose meaning stands elsewhere in the account."""
        for key in keys:
            self._values.pop(key, None)
            self._unknown.pop(key, None)

    def switch_off(self, *keys: str) -> None:
        """Settle switches that are off, as far as they are there."""
        self.account.off += [self.name(key) for key in keys if key in self]
        self.settle(*keys)

    def carry(self, key: str, path: str, ours: Any, why: str = "") -> None:
        """Settle a key as our field. What is invalid here, given by the user, or decided by another key, is said."""
        value = self._values.pop(key)
        shown = shown_value(key, value)
        account = self.account
        if path in account.given:
            entry = self._entry(key, shown, path, account.given[path], "" if account.given[path] == ours else _GIVEN)
        elif path in account.settings and account.settings[path] != ours:
            why = f"{path} is {account.settings[path]!r} by another value of the recipe"
            return self._leave(key, shown, why, f"Set {path} yourself if this one was meant.")
        else:
            problem = unfit_to_show(ours) or invalid(path, ours)
            if problem:
                return self._leave(key, shown, f"{path} does not take it: {problem}", f"Set {path} yourself.")
            account.settings[path] = ours
            entry = self._entry(key, shown, path, ours, why)
        (account.changed if entry.why else account.carried).append(entry)
        return None

    def say(self, path: str, ours: Any, key: str, why: str) -> None:
        """Set what the tool does where a key is left out, which is said as a change."""
        self.account.settings.setdefault(path, ours)
        ours = self.account.value(path)
        entry = CarriedValue(name=self.name(key), value=_LEFT_OUT, line=self._line, field=path, our_value=ours, why=why)
        self.account.changed.append(entry)

    def leave(self, key: str, why: str, what_to_do: str) -> None:
        """Settle a key as not carried."""
        value = self._values.pop(key) if key in self._values else self._unknown.pop(key)
        self._leave(key, shown_value(key, value), why, what_to_do)

    def leave_or_off(self, key: str, rule: Left) -> None:
        """Settle a known key without a counterpart: a switch that is off loses nothing."""
        if self._values[key] in _OFF:
            self.switch_off(key)
        else:
            self.leave(key, rule.why, rule.what_to_do)

    def apply(self, rules: Rules) -> None:
        """Settle the keys that have a rule."""
        for key in self.open_keys():
            rule = rules.get(key)
            if isinstance(rule, Left):
                self.leave_or_off(key, rule)
            elif rule is not None:
                self._convert(key, rule)
        for key in sorted(self._unknown.keys() & rules.keys()):
            rule = rules[key]
            if isinstance(rule, Left):
                self.leave(key, rule.why, rule.what_to_do)
            else:
                self.undecide(key, rule.path)

    def undecide(self, key: str, path: str) -> None:
        """Settle a key whose value only a run of the script would tell: what was given stands, or our default."""
        account = self.account
        account.undecided.add(path)
        if path in account.given:
            shown = shown_value(key, self._unknown.pop(key))
            account.changed.append(self._entry(key, shown, path, account.given[path], _GIVEN))
        else:
            self.leave(key, _ONLY_RUNNING, f"Set {path}; without it our default stands ({default_of(path)}).")

    def close(self, what: str) -> None:
        """Leave whatever is not settled: keys that this import does not know as `what`."""
        for key in self.open_keys():
            self.leave(
                key, f"this import does not know it as {what}", "Look it up there; set our field if there is one."
            )
        for key in list(self._unknown):
            self.leave(key, _ONLY_RUNNING, "Find out what it is; set our field if there is one.")

    def _convert(self, key: str, rule: Field) -> None:
        try:
            ours = rule.convert(self._values[key])
        except NotCarriedError as error:
            self.leave(key, error.why, error.what_to_do)
            return
        converted = ours if isinstance(ours, Converted) else Converted(ours)
        self.carry(key, rule.path, converted.value, converted.why)

    def _entry(self, key: str, shown: str, path: str, ours: Any, why: str) -> CarriedValue:
        return CarriedValue(name=self.name(key), value=shown, line=self._line, field=path, our_value=ours, why=why)

    def _leave(self, key: str, shown: str, why: str, what_to_do: str) -> None:
        harmless = what_to_do.startswith("Nothing")
        entry = LeftValue(
            name=self.name(key), value=shown, line=self._line, why=why, what_to_do=what_to_do, harmless=harmless
        )
        self.account.left.append(entry)


def named(keys: Iterable[str]) -> str:
    """Names for a sentence, without repeats."""
    return ", ".join(dict.fromkeys(keys))
