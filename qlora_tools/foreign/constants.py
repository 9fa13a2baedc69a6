"""What an expression of a script is worth, as far as the syntax tree alone tells.

Known are literals, names that are bound to one of them, fields of classes and options of argparse with their defaults,
f-strings and sums of these, and dtypes of torch. Anything else is unknown, and stays so in whatever is built of it.
"""

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .scopes import Binding, Names

_MOST_LEVELS = 60
_MOST_ITEMS = 2_000
_MOST_CHARACTERS = 100_000
_LARGEST_NUMBER = 10**15

_DTYPES = frozenset(
    "float32 float float16 half bfloat16 float64 uint8 int8 float8_e4m3fn".split()  # noqa: SIM905
)
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"float": float, "int": int, "str": str, "bool": bool}


@dataclass(frozen=True)
class Value:
    """One argument. `text` is its source; `value` means something only where `known` (a dtype is `"torch.float16"`)."""

    known: bool
    value: Any = None
    text: str = ""
    node: ast.expr | None = field(default=None, compare=False, repr=False)


class Constants:
    """Folds the expressions of one script; each node once."""

    def __init__(self, names: Names, text_of: Callable[[ast.expr], str]) -> None:
        self._names = names
        self._text_of = text_of
        self._known: dict[int, tuple[bool, Any]] = {}
        self._level = 0

    def value(self, node: ast.expr) -> Value:
        """What `node` is worth where it stands."""
        known, worth = self._fold(node)
        return Value(known, worth if known else None, self._text_of(node), node)

    def _fold(self, node: ast.expr) -> tuple[bool, Any]:
        if id(node) in self._known:
            return self._known[id(node)]
        self._known[id(node)] = (False, None)  # what refers to itself is unknown
        if self._level >= _MOST_LEVELS:
            return False, None
        self._level += 1
        folded = _FOLDS.get(type(node), Constants._unknown)(self, node)
        self._level -= 1
        self._known[id(node)] = folded if folded[0] and _is_small(folded[1]) else (False, None)
        return self._known[id(node)]

    def _unknown(self, node: Any) -> tuple[bool, Any]:
        return False, None

    def _constant(self, node: ast.Constant) -> tuple[bool, Any]:
        return node.value is not Ellipsis and not isinstance(node.value, bytes | complex), node.value

    def _name(self, node: ast.Name) -> tuple[bool, Any]:
        imported = self._names.imports.get(node.id)
        if imported is not None:
            return _dtype(imported)
        known, worth = self._one_of(self._names.reaching(node))
        whole = not isinstance(worth, list | dict) or node.id not in self._names.changed
        return known and whole, worth

    def _one_of(self, bindings: Sequence[Binding]) -> tuple[bool, Any]:
        """Known where whatever may be bound is known and the same."""
        folded = [(False, None) if bound.value is None else self._fold(bound.value) for bound in bindings]
        same = bool(folded) and all(known and _same(worth, folded[0][1]) for known, worth in folded)
        return folded[0] if same else (False, None)

    def _attribute(self, node: ast.Attribute) -> tuple[bool, Any]:
        dotted = self._names.dotted(node)
        if dotted is not None and dotted.startswith(("torch.", "peft.TaskType.")):
            return _dtype(dotted)
        return self._one_of(self._names.fields_named(node))

    def _joined(self, node: ast.JoinedStr) -> tuple[bool, Any]:
        parts = [self._fold(part) for part in node.values]
        return all(known for known, _ in parts), "".join(str(worth) for _, worth in parts)

    def _formatted(self, node: ast.FormattedValue) -> tuple[bool, Any]:
        known, worth = self._fold(node.value)
        return known and node.format_spec is None and node.conversion == -1, worth

    def _sequence(self, node: ast.List | ast.Tuple) -> tuple[bool, Any]:
        items = [self._fold(item) for item in node.elts]
        worth = [item for _, item in items]
        return all(known for known, _ in items), tuple(worth) if isinstance(node, ast.Tuple) else worth

    def _dictionary(self, node: ast.Dict) -> tuple[bool, Any]:
        if any(key is None for key in node.keys):
            return False, None
        keys = [self._fold(key) for key in node.keys if key is not None]
        values = [self._fold(item) for item in node.values]
        if not all(known for known, _ in (*keys, *values)) or not all(_is_plain(key) for _, key in keys):
            return False, None
        return True, {key: worth for (_, key), (_, worth) in zip(keys, values, strict=True)}

    def _unary(self, node: ast.UnaryOp) -> tuple[bool, Any]:
        known, worth = self._fold(node.operand)
        if known and isinstance(node.op, ast.Not):
            return True, not worth
        if not known or not isinstance(node.op, ast.USub) or not _is_number(worth):
            return False, None
        return True, -worth

    def _binary(self, node: ast.BinOp) -> tuple[bool, Any]:
        (first, left), (second, right) = self._fold(node.left), self._fold(node.right)
        if not first or not second:
            return False, None
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        both_text = isinstance(left, str) and isinstance(right, str) and isinstance(node.op, ast.Add)
        action = _ARITHMETIC.get(type(node.op))
        if action is None or not (both_text or (_is_number(left) and _is_number(right))):
            return False, None
        zero = isinstance(node.op, ast.Div | ast.FloorDiv) and not right
        return (False, None) if zero else (True, action(left, right))

    def _subscript(self, node: ast.Subscript) -> tuple[bool, Any]:
        (known, holder), (named, key) = self._fold(node.value), self._fold(node.slice)
        if not known or not named or not _is_plain(key):
            return False, None
        if isinstance(holder, dict):
            return key in holder, holder.get(key)
        inside = isinstance(holder, list | tuple) and type(key) is int and -len(holder) <= key < len(holder)
        return inside, holder[key] if inside else None

    def _call(self, node: ast.Call) -> tuple[bool, Any]:
        called = self._names.dotted(node.func)
        if called == "getattr" and len(node.args) == 2 and self._names.dotted(node.args[0]) == "torch":
            named, dtype = self._fold(node.args[1])
            return _dtype(f"torch.{dtype}") if named else (False, None)
        if called == "dict" and not node.args and all(item.arg for item in node.keywords):
            parts = {str(item.arg): self._fold(item.value) for item in node.keywords}
            return all(known for known, _ in parts.values()), {name: worth for name, (_, worth) in parts.items()}
        given = [self._fold(item) for item in node.args]
        if node.keywords or not all(known for known, _ in given):
            return False, None
        return _converted(called, [worth for _, worth in given])


# After the class, since it names its methods.
_FOLDS: dict[type[ast.expr], Callable[[Constants, Any], tuple[bool, Any]]] = {
    ast.Constant: Constants._constant,
    ast.Name: Constants._name,
    ast.Attribute: Constants._attribute,
    ast.JoinedStr: Constants._joined,
    ast.FormattedValue: Constants._formatted,
    ast.List: Constants._sequence,
    ast.Tuple: Constants._sequence,
    ast.Dict: Constants._dictionary,
    ast.UnaryOp: Constants._unary,
    ast.BinOp: Constants._binary,
    ast.Subscript: Constants._subscript,
    ast.Call: Constants._call,
}


def _dtype(dotted: str) -> tuple[bool, Any]:
    head, _, last = dotted.rpartition(".")
    if head == "peft.TaskType":
        return True, last
    return head == "torch" and last in _DTYPES, dotted


def _converted(called: str | None, given: list[Any]) -> tuple[bool, Any]:
    if called not in _CONVERSIONS or len(given) != 1 or not _is_plain(given[0]):
        return False, None
    try:
        return True, _CONVERSIONS[called](given[0])
    except (ValueError, TypeError, OverflowError):
        return False, None


def _power(left: Any, right: Any) -> tuple[bool, Any]:
    if not _is_number(left) or not _is_number(right) or abs(right) > 64 or not 0 < abs(left) <= _LARGEST_NUMBER:
        return False, None
    try:
        worth = left**right
    except OverflowError:
        return False, None
    return not isinstance(worth, complex), worth


def _is_number(worth: Any) -> bool:
    return isinstance(worth, int | float) and not isinstance(worth, bool) and abs(worth) <= _LARGEST_NUMBER


def _is_plain(worth: Any) -> bool:
    return worth is None or isinstance(worth, str | int | float | bool)


def _same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)


def _is_small(worth: Any) -> bool:
    """Values may refer to one another: a few lines can name a list of any size."""
    left, items = [worth], 0
    while left:
        items += 1
        if items > _MOST_ITEMS:
            return False
        part = left.pop()
        if isinstance(part, str) and len(part) > _MOST_CHARACTERS:
            return False
        left += part if isinstance(part, list | tuple) else [*part, *part.values()] if isinstance(part, dict) else []
    return True
