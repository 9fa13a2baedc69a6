"""The calls of somebody's script: which function, with which arguments, at which lines.

Read from the syntax tree alone. Nothing is imported and nothing runs, so what only a run would tell is unknown.
"""

import ast
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from .constants import Constants, Value
from .scopes import Names
from .source import ParsedSource, parse_source

__all__ = ["Call", "ScriptSource", "Value", "read_script"]


@dataclass(frozen=True, eq=False)
class Call:
    """One call. `name` is dotted with import aliases resolved; a method of a variable starts with a dot, and `receiver`
    is the source of the object. `complete` is False where `*` or `**` hand over arguments that the tree does not tell."""

    name: str
    positional: tuple[Value, ...]
    arguments: dict[str, Value]
    line: int
    end_line: int
    assigned_to: str | None
    receiver: str = ""
    complete: bool = True
    node: ast.Call | None = field(default=None, compare=False, repr=False)

    @property
    def last_name(self) -> str:
        """What stands after the last dot."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class ScriptSource:
    """A script or a notebook as it was read. `cells` and `unread` are a notebook's, as in `ParsedSource`."""

    text: str
    tree: ast.Module
    calls: tuple[Call, ...]
    names: Names = field(compare=False, repr=False)
    constants: Constants = field(compare=False, repr=False)
    cells: tuple[int, ...] = ()
    unread: tuple[int, ...] = ()

    def calls_of(self, *last_names: str) -> list[Call]:
        """The calls whose names end in one of these: "LoraConfig", "from_pretrained" or
        "AutoTokenizer.from_pretrained"."""
        lasts = dict.fromkeys(name.rpartition(".")[2] for name in last_names)
        found = [call for last in lasts for call in self._by_last_name.get(last, ())]
        wanted = tuple(f".{name}" for name in last_names)
        kept = [call for call in found if f".{call.name}".endswith(wanted)]
        return sorted(kept, key=lambda call: call.line) if len(lasts) > 1 else kept

    @cached_property
    def _by_last_name(self) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            found[call.last_name].append(call)
        return found

    @cached_property
    def _by_target(self) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            if call.assigned_to is not None:
                found[call.assigned_to].append(call)
        return found

    def call_behind(self, value: Value) -> Call | None:
        """The call that made `value`: it stands there itself, or is the one thing that the name was bound to."""
        return None if value.node is None else self.call_at(value.node)

    def call_at(self, node: ast.expr) -> Call | None:
        """`call_behind` for an expression of the tree."""
        if isinstance(node, ast.Call):
            return self._by_node.get(id(node))
        if isinstance(node, ast.Name):
            bound = self.names.reaching(node)
            return self.call_at(bound[0].value) if len(bound) == 1 and isinstance(bound[0].value, ast.Call) else None
        name = self.constants.value(node).text
        made = self._by_target.get(name, [])
        place = bisect_left(made, node.lineno, key=lambda call: call.line)
        return made[place - 1] if place else None

    @cached_property
    def _by_node(self) -> dict[int, Call]:
        return {id(call.node): call for call in self.calls}


def read_script(text: str, *, name: str) -> ScriptSource:
    """The calls of a Python script or a Jupyter notebook, in the order of their lines.

    Cells of a notebook are put one after another; lines are counted through all of them. Raises `UsageError`, with the
    line, for what is no Python, and for what is too large or nested too deeply to be read.
    """
    parsed = parse_source(text, name=name)
    names = Names(parsed.tree)
    lines = parsed.text.encode("utf-8").split(b"\n")
    constants = Constants(names, lambda node: _segment(lines, node))
    reader = _Reader(parsed, names, constants, lines)
    calls = tuple(sorted(reader.calls(), key=lambda call: (call.line, call.node.col_offset if call.node else 0)))
    return ScriptSource(parsed.text, parsed.tree, calls, names, constants, parsed.cells, parsed.unread)


@dataclass(frozen=True)
class _Reader:
    parsed: ParsedSource
    names: Names
    constants: Constants
    lines: list[bytes]

    def calls(self) -> Iterator[Call]:
        targets = self._targets()
        for node in ast.walk(self.parsed.tree):
            if isinstance(node, ast.Call):
                name, receiver = self._named(node.func)
                yield Call(
                    name,
                    tuple(self.constants.value(item) for item in node.args if not isinstance(item, ast.Starred)),
                    dict(self._arguments(node)),
                    node.lineno,
                    node.end_lineno or node.lineno,
                    targets.get(id(node)),
                    receiver,
                    self._is_complete(node),
                    node,
                )

    def _named(self, function: ast.expr) -> tuple[str, str]:
        dotted = self.names.dotted(function)
        if dotted is not None:
            return dotted, ""
        if isinstance(function, ast.Attribute):
            return self._method(function)
        return "", ""

    def _method(self, function: ast.Attribute) -> tuple[str, str]:
        receiver = _segment(self.lines, function.value)
        # A class that came by `from trl import *`, or that the file itself defines.
        if isinstance(function.value, ast.Name) and function.value.id[:1].isupper():
            return f"{function.value.id}.{function.attr}", ""
        return f".{function.attr}", receiver

    def _arguments(self, node: ast.Call) -> Iterator[tuple[str, Value]]:
        for word in node.keywords:
            if word.arg is not None:
                yield word.arg, self.constants.value(word.value)
            else:
                yield from self._spread(word.value)

    def _spread(self, node: ast.expr) -> Iterator[tuple[str, Value]]:
        """`**options` where the tree tells what is in it; keys with their nodes where it is written out."""
        written = self._dictionary(node)
        if written is not None:
            for key, value in written:
                yield key, self.constants.value(value)

    def _dictionary(self, node: ast.expr) -> list[tuple[str, ast.expr]] | None:
        if isinstance(node, ast.Name):
            bound = self.names.reaching(node)
            if len(bound) != 1 or bound[0].value is None or node.id in self.names.changed:
                return None
            node = bound[0].value
        if isinstance(node, ast.Dict):
            keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
            named = [(key, value) for key, value in zip(keys, node.values, strict=True) if isinstance(key, str)]
            return named if len(named) == len(keys) else None
        if isinstance(node, ast.Call) and self.names.dotted(node.func) == "dict" and not node.args:
            words = [(word.arg, word.value) for word in node.keywords if word.arg is not None]
            return words if len(words) == len(node.keywords) else None
        return None

    def _is_complete(self, node: ast.Call) -> bool:
        spread = [word.value for word in node.keywords if word.arg is None]
        starred = any(isinstance(item, ast.Starred) for item in node.args)
        return not starred and all(self._dictionary(item) is not None for item in spread)

    def _targets(self) -> dict[int, str]:
        """The name, dotted for an attribute, that each call is bound to as a whole."""
        found = {}
        for node in ast.walk(self.parsed.tree):
            if isinstance(node, ast.Assign):
                pairs = [(target, node.value) for target in node.targets]
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                pairs = [(node.target, node.value)]
            else:
                continue
            for target, value in pairs:
                if isinstance(value, ast.Call) and isinstance(target, ast.Name | ast.Attribute):
                    found[id(value)] = _segment(self.lines, target)
        return found


def _segment(lines: list[bytes], node: ast.expr) -> str:
    """The source of a node. Its columns count bytes."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    if first == last:
        return lines[first][node.col_offset : node.end_col_offset].decode("utf-8", "replace")
    parts = [lines[first][node.col_offset :], *lines[first + 1 : last], lines[last][: node.end_col_offset]]
    return b"\n".join(parts).decode("utf-8", "replace")
