"""Which names of a script mean what: imports, bindings by scope and line, fields of classes, options of argparse."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from .fields import default_of_field, default_of_option, name_of_option

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
# Of one name. A name that is bound more often than this is no setting.
_MOST_BINDINGS = 40
_CHANGES = frozenset("append extend insert remove update pop setdefault clear sort reverse add".split())  # noqa: SIM905
_NOWHERE = 1_000_000  # the place of a parameter that is given by its name only
# What stands in these may or may not have run when a later line is reached.
_MAYBE = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Match, ast.IfExp)


@dataclass(eq=False)
class Scope:
    """A module, a function or the body of a class."""

    node: ast.AST
    parent: "Scope | None" = None
    bindings: dict[str, list["Binding"]] = field(default_factory=lambda: defaultdict(list))

    @property
    def is_class(self) -> bool:
        """Names in the body of a class are not seen by its methods."""
        return isinstance(self.node, ast.ClassDef)


@dataclass(frozen=True)
class Binding:
    """One place that binds a name. `value` is None where what it binds is no expression (a loop, a `def`)."""

    line: int
    value: ast.expr | None
    certain: bool
    parameter: "Parameter | None" = None


@dataclass(frozen=True)
class Parameter:
    """A parameter of `function`; its binding holds the default, which whoever starts the script without more gets."""

    function: str
    name: str
    place: int


@dataclass(frozen=True)
class Field:
    """A name with a default that objects of `owner` have: of a class, or of what argparse returns (owner "")."""

    owner: str
    default: ast.expr | None


class Names:
    """What the names of one tree mean. Reading it takes one pass over the nodes, without recursion."""

    def __init__(self, tree: ast.Module) -> None:
        self.imports: dict[str, str] = {}
        self.scope_of: dict[int, Scope] = {}
        self.module = Scope(tree)
        # Names whose object is changed in place: what they were bound to is then not what they hold.
        self.changed: set[str] = set()
        self._fields: dict[str, list[Field]] = defaultdict(list)
        self._called: dict[str, list[ast.Call]] = defaultdict(list)
        for node, scope, certain in _walk(tree, self.module):
            self.scope_of[id(node)] = scope
            self._enter(node, scope, certain)

    def dotted(self, node: ast.AST) -> str | None:
        """`peft.LoraConfig` for what was imported under any name, `open` for a bare name; None for anything else."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        head = self.imports.get(node.id)
        if head is None and parts:
            return None
        return ".".join([head or node.id, *reversed(parts)])

    def reaching(self, node: ast.Name) -> list[Binding]:
        """The bindings that may hold where `node` is read; empty where nothing is known of the name."""
        start = scope = self.scope_of.get(id(node), self.module)
        while True:
            if node.id in scope.bindings and (not scope.is_class or scope is start):
                found = scope.bindings[node.id]
                found = _last(found, node.lineno) if scope is start else found
                if len(found) > _MOST_BINDINGS:
                    return [Binding(node.lineno, None, certain=False)]
                return [self._as_called(bound) for bound in found]
            if scope.parent is None:
                return []
            scope = scope.parent

    def fields_named(self, node: ast.Attribute) -> list[Binding]:
        """What `args.name` may be: defaults of the fields of that name, or what the one call of the class was given."""
        if not isinstance(node.value, ast.Name) or node.value.id in self.imports or node.value.id == "self":
            return []
        owners = self._owners(node.value)
        found = [item for item in self._fields.get(node.attr, ()) if owners is None or item.owner in owners]
        return [Binding(0, self._given(item, node.attr), certain=False) for item in found]

    def _as_called(self, bound: Binding) -> Binding:
        """A parameter as the one call of its function binds it; unknown where several calls may."""
        taken = bound.parameter
        calls = self._called.get(taken.function, []) if taken else []
        if taken is None or not calls:
            return bound
        if len(calls) > 1 or _hands_over_unseen(calls[0]):
            return Binding(bound.line, None, bound.certain)
        words = {word.arg: word.value for word in calls[0].keywords}
        by_place = 0 <= taken.place < len(calls[0].args)
        given = calls[0].args[taken.place] if by_place else words.get(taken.name, bound.value)
        return Binding(bound.line, given, bound.certain)

    def _owners(self, holder: ast.Name) -> set[str] | None:
        """The classes that `holder` may be of; None where that is not told."""
        if any(holder.id in {item.owner for item in items} for items in self._fields.values()):
            return {holder.id}
        calls = [bound.value for bound in self.reaching(holder) if isinstance(bound.value, ast.Call)]
        names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        return names or None

    def _given(self, item: Field, name: str) -> ast.expr | None:
        given = [word.value for call in self._called.get(item.owner, ()) for word in call.keywords if word.arg == name]
        if not given:
            return item.default
        return given[0] if len(given) == len(self._called[item.owner]) == 1 else None

    def _enter(self, node: ast.AST, scope: Scope, certain: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.ClassDef):
            self._class(node)
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.value, ast.Name):
            if isinstance(node.ctx, ast.Store | ast.Del) or (isinstance(node, ast.Attribute) and node.attr in _CHANGES):
                self.changed.add(node.value.id)
        elif isinstance(node, ast.arguments):
            for name, binding in _parameters(node, scope):
                scope.bindings[name].append(binding)
        for name, binding in _bound_by(node, certain):
            scope.bindings[name].append(binding)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                self.imports[alias.asname or alias.name] = f"{'.' * node.level}{node.module or ''}.{alias.name}"
            elif alias.asname:
                self.imports[alias.asname] = alias.name
            else:
                top = alias.name.partition(".")[0]
                self.imports[top] = top

    def _class(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                self._fields[statement.target.id].append(Field(node.name, default_of_field(statement.value)))
            elif isinstance(statement, ast.Assign):
                for target in statement.targets:
                    if isinstance(target, ast.Name):
                        self._fields[target.id].append(Field(node.name, statement.value))

    def _call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            self._called[node.func.id].append(node)
        if isinstance(node.func, ast.Attribute):
            self._called[f".{node.func.attr}"].append(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            option = name_of_option(node)
            if option:
                self._fields[option].append(Field("", default_of_option(node)))


def _walk(tree: ast.Module, module: Scope) -> Iterator[tuple[ast.AST, Scope, bool]]:
    """Every node in the order of the source, with its scope and whether a later line of the scope is sure to come after."""
    left: list[tuple[ast.AST, Scope, bool]] = [(tree, module, True)]
    while left:
        node, scope, certain = left.pop()
        yield node, scope, certain
        inner = scope
        if isinstance(node, _Function | ast.ClassDef):
            inner = Scope(node, scope)
            certain = True
        certain = certain and (not isinstance(node, _MAYBE) or _is_main_guard(node))
        left += [(child, inner, certain) for child in reversed(list(ast.iter_child_nodes(node)))]


def _hands_over_unseen(call: ast.Call) -> bool:
    return any(isinstance(item, ast.Starred) for item in call.args) or any(word.arg is None for word in call.keywords)


def _is_main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and _names_main(node.test.left)


def _names_main(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "__name__"


def _last(bindings: list[Binding], line: int) -> list[Binding]:
    """Those before `line` that a later certain one does not hide. A function's own parameters stand before its first line."""
    found: list[Binding] = []
    for bound in reversed(bindings):
        if bound.line < line:
            found.append(bound)
            if bound.certain or len(found) > _MOST_BINDINGS:
                break
    return found


def _bound_by(node: ast.AST, certain: bool) -> Iterator[tuple[str, Binding]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _targets(target, node.value, certain)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield from _targets(node.target, node.value, certain)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, Binding(node.lineno, None, certain)
    else:
        yield from _bound_without_value(node, certain)


def _bound_without_value(node: ast.AST, certain: bool) -> Iterator[tuple[str, Binding]]:
    if isinstance(node, ast.AugAssign):
        yield from _targets(node.target, None, certain)
    elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        yield from _targets(node.target, None, False)
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield from _targets(node.optional_vars, None, certain)


def _targets(target: ast.expr, value: ast.expr | None, certain: bool) -> Iterator[tuple[str, Binding]]:
    left = [(target, value)]
    while left:
        node, worth = left.pop()
        if isinstance(node, ast.Name):
            # The last line of a statement: what it reads itself stands before.
            line = (worth.end_lineno if worth is not None else node.end_lineno) or node.lineno
            yield node.id, Binding(line, worth, certain)
        elif isinstance(node, ast.Starred):
            left.append((node.value, None))
        elif isinstance(node, ast.List | ast.Tuple):
            left += zip(node.elts, _values_for(node.elts, worth), strict=True)


def _values_for(targets: list[ast.expr], value: ast.expr | None) -> list[ast.expr | None]:
    if isinstance(value, ast.List | ast.Tuple) and len(value.elts) == len(targets):
        return list(value.elts)
    return [None] * len(targets)


def _parameters(node: ast.arguments, scope: Scope) -> Iterator[tuple[str, Binding]]:
    name, before = _how_called(scope)
    plain = [*node.posonlyargs, *node.args]
    defaults = [None] * (len(plain) - len(node.defaults)) + list(node.defaults)
    taken = zip((*plain, *node.kwonlyargs), (*defaults, *node.kw_defaults), strict=True)
    for place, (item, default) in enumerate(taken):
        position = place - before if place < len(plain) else _NOWHERE
        yield item.arg, Binding(item.lineno - 1, default, True, Parameter(name, item.arg, position))
    for rest in (node.vararg, node.kwarg):
        if rest is not None:
            yield rest.arg, Binding(rest.lineno - 1, None, True)


def _how_called(scope: Scope) -> tuple[str, int]:
    """How calls name a function, and how many of its parameters they leave out: methods are called on objects."""
    function, holder = scope.node, scope.parent.node if scope.parent else None
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return "", 0
    if not isinstance(holder, ast.ClassDef):
        return function.name, 0
    return (holder.name, 1) if function.name == "__init__" else (f".{function.name}", 1)
