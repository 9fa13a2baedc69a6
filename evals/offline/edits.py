"""One problem that an error tells, and the edit of the call that it asks for. Nothing here knows any task."""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from .draft import Draft
from .hands import Hands
from .words import chosen

_NUMBERS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_FIELD = r"(?P<field>[a-z_]+(?:\.[a-z_0-9]+)*)"


@dataclass(frozen=True)
class Known:
    """What the agent knows beside the message: the wish in words, what the person gave, and the tool's arguments."""

    wish: str
    facts: Mapping[str, Any]
    properties: Mapping[str, Mapping[str, Any]]
    hands: Hands


Edit = Callable[[Draft, re.Match[str], Known], bool]


def edit(draft: Draft, problem: str, known: Known) -> bool:
    """Change the draft as the problem asks; returns whether its words told how."""
    found = ((rule, re.search(pattern, problem, re.DOTALL)) for pattern, rule in _EDITS)
    return any(rule(draft, match, known) for rule, match in found if match)


def _rename_argument(draft: Draft, match: re.Match[str], known: Known) -> bool:
    draft.arguments[match["right"]] = draft.arguments.pop(match["wrong"])
    return True


def _move_into(draft: Draft, match: re.Match[str], known: Known) -> bool:
    value = draft.arguments.pop(match["wrong"])
    draft.put_into(match["holder"], _filled(ast.literal_eval(match["example"]), value))
    return True


def _filled(example: Any, value: Any) -> Any:
    return {name: _filled(part, value) for name, part in example.items()} if isinstance(example, dict) else value


def _move_field(draft: Draft, match: re.Match[str], known: Known) -> bool:
    if not draft.has(match["field"]):
        return False
    value = draft.take(match["field"])
    # What stands there already was meant more plainly.
    if not draft.has(match["right"]):
        draft.put(match["right"], value)
    return True


def _choose(draft: Draft, match: re.Match[str], known: Known) -> bool:
    options = re.findall(r"'([^']*)'", match["options"])
    name = match["field"]
    described = str(known.properties.get(name.partition(".")[0], {}).get("description", ""))
    draft.put(name, chosen(options, draft.get(name), known.wish, described))
    return bool(options)


def _clamp(draft: Draft, match: re.Match[str], known: Known) -> bool:
    bound = float(match["bound"])
    draft.put(match["field"], int(bound) if bound.is_integer() else bound)
    return True


def _as_number(draft: Draft, match: re.Match[str], known: Known) -> bool:
    said = str(draft.get(match["field"])).strip().lower()
    digits = re.search(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", said)
    if digits:
        number = float(digits[0])
        draft.put(match["field"], int(number) if match["kind"] == "integer" else number)
    elif said in _NUMBERS:
        draft.put(match["field"], _NUMBERS[said])
    else:
        # No number at all: the default is the better guess.
        draft.take(match["field"])
    return True


def _as_list(draft: Draft, match: re.Match[str], known: Known) -> bool:
    draft.put(match["field"], [draft.get(match["field"])])
    return True


def _nearest(draft: Draft, match: re.Match[str], known: Known) -> bool:
    return draft.swap(match["wrong"], match["right"].strip())


def _meant(draft: Draft, match: re.Match[str], known: Known) -> bool:
    return draft.swap(match["wrong"], match["right"])


def _copy_in(draft: Draft, match: re.Match[str], known: Known) -> bool:
    return draft.swap(match["path"], known.hands.copy_in(match["path"]))


def _another(draft: Draft, match: re.Match[str], known: Known) -> bool:
    taken = draft.get(match["field"])
    if not isinstance(taken, str):
        return False
    draft.put(match["field"], f"{taken}-2")
    return True


def _from_facts(draft: Draft, match: re.Match[str], known: Known) -> bool:
    needed = [name for name in known.facts if re.search(rf"\b{name}\b", match["needed"]) and not draft.has(name)]
    for name in needed:
        draft.arguments[name] = known.facts[name]
    return bool(needed)


def _set_fields(draft: Draft, match: re.Match[str], known: Known) -> bool:
    for pair in re.split(r" and (?=[a-z]+\.[a-z_]+: )", match["pairs"]):
        name, _, value = pair.partition(": ")
        draft.put(name, yaml.safe_load(value))
    return True


def _one_of_two(draft: Draft, match: re.Match[str], known: Known) -> bool:
    return draft.take(match["second"]) is not None


def _only_one(draft: Draft, match: re.Match[str], known: Known) -> bool:
    """Of arguments that exclude one another, the one that the person gave."""
    names = re.findall(r"\w+", match["names"].replace(" and ", " "))
    right = next((name for name in names if name in known.facts), None)
    if right is None:
        return False
    for name in names:
        draft.take(name)
    draft.arguments[right] = known.facts[right]
    return True


def _leave_out(draft: Draft, match: re.Match[str], known: Known) -> bool:
    return draft.take(match["field"]) is not None


def _leave_out_all(draft: Draft, match: re.Match[str], known: Known) -> bool:
    taken = [draft.take(name) for name in match["fields"].split(", ")]
    return None not in taken


def _close_bracket(draft: Draft, match: re.Match[str], known: Known) -> bool:
    """The parser names the place where it noticed, which is behind the line that was left open."""
    closing = [mark for mark in re.findall(r"'(.)'", match["expected"]) if mark in "}])"]
    if not closing:
        return False
    known.hands.insert(match["file"], closing[0], int(match["line"]) - 1)
    return True


_EDITS: tuple[tuple[str, Edit], ...] = (
    (r"'(?P<wrong>\w+)' \(did you mean (?P<right>\w+)\?\)", _rename_argument),
    (
        r"'(?P<wrong>\w+)' \(a field of the run config: put it into (?P<holder>\w+), as (?P<example>\{.*\})\)",
        _move_into,
    ),
    (rf"^{_FIELD}: there is no such field; did you mean (?P<right>[\w.]+)\?", _move_field),
    (r"No setting is called '(?P<field>[\w.]+)'; did you mean (?P<right>[\w.]+)", _move_field),
    (rf"^{_FIELD}:? should be (?P<options>'.*?)(?: \(is|; given was)", _choose),
    (rf"^{_FIELD}:? should be (?:less|greater) than or equal to (?P<bound>[\d.]+)", _clamp),
    (rf"^{_FIELD}:? should be a valid (?P<kind>integer|number)", _as_number),
    (rf"^{_FIELD}:? should be a valid list", _as_list),
    (rf"^{_FIELD}: was .* it cannot change", _leave_out),
    (r"If that is meant, set (?P<pairs>[a-z]+\.[a-z_]+: [^;]+);", _set_fields),
    (r"^(?P<fields>[\w, ]+) has no meaning for .* Leave it out", _leave_out_all),
    (r"'(?P<path>[^']+)' lies outside; .* Copy it into the workspace", _copy_in),
    (r"'(?P<wrong>[^']+)'.*?[Nn]earest: (?P<right>[^,;.]+(?:\.[^,; ][^,;.]*)*)", _nearest),
    (r"(?P<wrong>/[^\s:]+?)[.:]?\s.*Did you mean (?P<right>\S+)\?", _meant),
    (r"'(?P<wrong>[^']+)'.*Did you mean (?P<right>\S+)(?: or .*)?\?", _meant),
    (
        r"^The config (?P<file>\S+) is not valid.*: line (?P<line>\d+), .*: expected (?P<expected>.*), but",
        _close_bracket,
    ),
    (r"Choose another (?P<field>[a-z_]+\.[a-z_]+)", _another),
    (r"^Exactly one of (?P<first>\w+) and (?P<second>\w+) is needed", _one_of_two),
    (r"^\d of (?P<names>[\w, ]+) were given(?: \([\w, ]+\))?; exactly one is allowed", _only_one),
    (r"(?P<needed>.*(?:\bneeds\b|is required).*)", _from_facts),
)
