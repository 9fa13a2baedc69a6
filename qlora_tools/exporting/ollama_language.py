"""The part of Go's text/template that exported templates use: writing strings in it, and running it as Ollama does.

What is written here is run by the real engine in tests/test_export_ollama.py; the evaluator lets an export compare its
template with the trained one without an Ollama at hand. See https://pkg.go.dev/text/template.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\(|\)|:=|=|,|[$\w.]+')
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\\": "\\\\", '"': "\\x22", "{": "\\x7b", "}": "\\x7d"}
_UNESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))")
_SHORT = {"n": "\n", "t": "\t", "\\": "\\"}


def go_string(text: str) -> str:
    """`text` as a Go string of printable ASCII without quotes and braces inside: it ends neither itself nor its action."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    number = ord(character)
    if 0x20 <= number < 0x7F:
        return character
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def _string_value(token: str) -> str:
    def value(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        return chr(int(code, 16)) if code else _SHORT[match[4]]

    return _UNESCAPED.sub(value, token[1:-1])


@dataclass
class _Node:
    """Text, or an action with what stands inside of it: the first branch, and the one behind `else`."""

    action: str
    text: str = ""
    inside: list["_Node"] = field(default_factory=list)
    otherwise: list["_Node"] = field(default_factory=list)


def run_template(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """The text that Ollama makes of a conversation with this template.

    As there, neighbours of the same role are joined, and `.System` holds all system texts. Raises `ValueError` for what is
    not of the part of the language that exported templates use.
    """
    pieces = list(_pieces(template))
    nodes = _parsed(pieces)
    if pieces:
        raise ValueError("an end too many")
    system = "\n\n".join(turn["content"] for turn in messages if turn["role"] == "system")
    written: list[str] = []
    _Run({"System": system, "Messages": _collated(messages)}, written).nodes(nodes, {})
    return "".join(written)


def _collated(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    turns: list[dict[str, str]] = []
    for message in messages:
        if turns and turns[-1]["Role"] == message["role"]:
            turns[-1]["Content"] += "\n\n" + message["content"] if message["content"] else ""
        else:
            turns.append({"Role": message["role"], "Content": message["content"]})
    return turns


def _pieces(template: str) -> Iterator[_Node]:
    place, trims = 0, False
    for match in _ACTION.finditer(template):
        text = template[place : match.start()]
        text = text.lstrip(" \t\r\n") if trims else text
        yield _Node("", text.rstrip(" \t\r\n") if match[1] else text)
        yield _Node(match[2])
        place, trims = match.end(), bool(match[3])
    text = template[place:]
    yield _Node("", text.lstrip(" \t\r\n") if trims else text)


def _parsed(pieces: list[_Node]) -> list[_Node]:
    """Nodes up to an `else` or `end`, which is left in place."""
    nodes = []
    while pieces and not re.match(r"else\b|end$", pieces[0].action):
        node = pieces.pop(0)
        nodes.append(node)
        if re.match(r"(if|range)\b", node.action):
            node.inside = _parsed(pieces)
            _close(node, pieces)
    return nodes


def _close(node: _Node, pieces: list[_Node]) -> None:
    closing = pieces.pop(0).action
    if closing == "else":
        node.otherwise = _parsed(pieces)
        closing = pieces.pop(0).action
    elif closing.startswith("else if "):
        chained = _Node(closing.removeprefix("else "))
        chained.inside = _parsed(pieces)
        node.otherwise = [chained]
        _close(chained, pieces)
        return
    if closing != "end":
        raise ValueError(f"end expected, not {closing[:40]!r}")


@dataclass
class _Run:
    root: Mapping[str, Any]
    written: list[str]

    def nodes(self, nodes: Sequence[_Node], scope: dict[str, Any]) -> None:
        for node in nodes:
            if not node.action:
                self.written.append(node.text)
            elif node.action.startswith("if "):
                chosen = node.inside if self.value(node.action[3:], scope) else node.otherwise
                self.nodes(chosen, scope)
            elif node.action.startswith("range "):
                self.loop(node, scope)
            elif re.match(r"\$\w+\s*:?=", node.action):
                name, expression = re.split(r"\s*:?=\s*", node.action, maxsplit=1)
                scope[name] = self.value(expression, scope)
            else:
                self.written.append(str(self.value(node.action, scope)))

    def loop(self, node: _Node, scope: dict[str, Any]) -> None:
        index, item, expression = re.fullmatch(r"range (\$\w+), (\$\w+) := (.*)", node.action, re.DOTALL).groups()  # type: ignore[union-attr]
        for number, turn in enumerate(self.value(expression, scope)):
            scope[index], scope[item] = number, turn
            self.nodes(node.inside, scope)

    def value(self, expression: str, scope: Mapping[str, Any]) -> Any:
        tokens = _TOKEN.findall(expression)
        found = self.call(tokens, scope)
        if tokens:
            raise ValueError(f"not understood: {expression[:60]!r}")
        return found

    def call(self, tokens: list[str], scope: Mapping[str, Any]) -> Any:
        """A function with its arguments, or one value; takes what it reads from `tokens`."""
        if tokens[0] not in _FUNCTIONS:
            return self.operand(tokens, scope)
        function, arguments = _FUNCTIONS[tokens.pop(0)], []
        while tokens and tokens[0] != ")":
            arguments.append(self.operand(tokens, scope))
        return function(*arguments)

    def operand(self, tokens: list[str], scope: Mapping[str, Any]) -> Any:
        word = tokens.pop(0)
        if word == "(":
            found = self.call(tokens, scope)
            tokens.pop(0)
            return found
        if word[0] == '"':
            return _string_value(word)
        if word.isdecimal():
            return int(word)
        name, *fields = word.split(".")
        found = scope[name] if name not in ("", "$") else self.root
        for part in fields:
            found = found[part]
        return found


_FUNCTIONS: dict[str, Any] = {
    "eq": lambda first, second: first == second,
    "ne": lambda first, second: first != second,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "len": len,
    "slice": lambda values, begin: values[begin:],
}
