"""Reading an answer as a model would, without understanding it: problems, choices, and calls that are named."""

import ast
import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

_LISTED = "\n  - "
_FIELD = r"[a-z_]+(?:\.[a-z_0-9]+)*"
_KEY = re.compile(rf"({_FIELD})(?:: | should | is required)")
_CLOSE = 0.6
# Said in place of a value: `prompts=[held-out prompts]`.
_IN_WORDS = re.compile(r"\[[a-z][a-z -]+\]")


def problems_of(text: str) -> list[str]:
    """The things that an error says are wrong, one by one."""
    message = message_of(text)
    if _LISTED in message:
        return message.split(_LISTED)[1:]
    tool = re.match(r"[a-z_]+: ", message)
    if tool is not None:
        return re.split(rf"; (?={_FIELD} (?:should|is required))", message[tool.end() :].rstrip("."))
    return re.split(r"; (?=')", message) if " does not take " in message else [message]


def message_of(text: str) -> str:
    """What failed, without what to do."""
    return text.partition("\nNext: ")[0].removeprefix("Error: ")


def next_of(text: str) -> str:
    """What to do next."""
    return text.partition("Next: ")[2]


def key_of(problem: str) -> str:
    """By what the same problem is known when it comes back with another value: its field, else its first words."""
    found = _KEY.match(problem)
    return found[1] if found else " ".join(problem.split()[:4])


def chosen(options: Sequence[str], given: Any, wish: str, described: str) -> str:
    """The option nearest to what was given; without one, that whose description has most words of the wish."""
    near = difflib.get_close_matches(str(given), options, n=1, cutoff=_CLOSE)
    if near:
        return near[0]
    holding = [option for option in options if str(given) in option.split("_")]
    if holding:
        return holding[0]
    words = set(re.findall(r"[a-z]{4,}", wish.lower()))
    return max(options, key=lambda option: len(words & set(re.findall(r"[a-z]{4,}", _clause(described, option)))))


def calls_in(text: str, tools: Collection[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Each call that a text names, with its arguments; Ellipsis stands for what is left out, None for all of them."""
    for found in re.finditer(rf"\b({'|'.join(tools)})\(", text):
        expression = _IN_WORDS.sub("...", text[found.start() : _end(text, found.end())])
        try:
            call = ast.parse(expression, mode="eval").body
        except SyntaxError:
            continue
        if not isinstance(call, ast.Call):
            continue
        yield found[1], None if call.args else {item.arg: _value(item.value) for item in call.keywords if item.arg}


def hinted_tools(text: str) -> list[str]:
    """The tools of `(as tools: ...)`."""
    found = re.search(r"\(as tools: ([^\n]+)\)", text)
    return re.findall(r"[a-z]+_[a-z]+", found[1]) if found else []


def options_in(text: str, names: Collection[str]) -> dict[str, str]:
    """Arguments that a text writes as options of a command: `--gpu "RTX A6000"`."""
    found = re.findall(r"--([a-z-]+)[ =](?:\"([^\"]+)\"|([\w./-]*[\w/-]))", text)
    return {name.replace("-", "_"): quoted or plain for name, quoted, plain in found if name.replace("-", "_") in names}


def is_left_out(value: Any) -> bool:
    """Whether a value is a placeholder."""
    return value is ... or (isinstance(value, set | list) and ... in value)


def found_at(value: Any, place: str) -> Any:
    """What lies at a dotted place of nested mappings and lists; None where nothing does."""
    for part in place.split(".") if place else ():
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _clause(described: str, option: str) -> str:
    """What a description says of one option: `stop: end with a checkpoint.`"""
    return described.lower().partition(f"{option}: ")[2].partition(". ")[0]


def _end(text: str, start: int) -> int:
    """Behind the parenthesis that closes the one before `start`."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return len(text)


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ...
