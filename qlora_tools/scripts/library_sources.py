"""The source of installed libraries as syntax trees: where a name is defined, and which arguments a callable takes.

Nothing is imported and nothing runs: importing torch takes seconds, and what a library exports lazily shows in its source
as well.
"""

import ast
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Of hundreds of packages with models, those that a script takes names from.
_STARS = {"transformers.models": ("auto",)}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Definition:
    """Where a name is defined: the module, and the statement; None for what is compiled, or is a module itself."""

    module: str
    node: ast.stmt | None


class LibrarySources:
    """Reads the libraries that lie on `path` (default: `sys.path`), each module once."""

    def __init__(self, path: Sequence[str] | None = None) -> None:
        self._path = None if path is None else list(path)
        self._folders: dict[str, Path | None] = {}
        self._trees: dict[str, ast.Module | None] = {}

    def version(self, library: str) -> str:
        """The installed version, `unknown` where the library does not tell."""
        found = importlib.metadata.distributions(name=library, path=sys.path if self._path is None else self._path)
        return next((distribution.version for distribution in found), "unknown")

    def folder(self, library: str) -> Path | None:
        """Where the package lies; None where it is not installed."""
        if library not in self._folders:
            spec = importlib.machinery.PathFinder.find_spec(library, self._path)
            if spec is None and self._path is None:
                spec = importlib.util.find_spec(library)
            places = None if spec is None else spec.submodule_search_locations
            self._folders[library] = Path(next(iter(places))) if places else None
        return self._folders[library]

    def find(self, module: str, name: str) -> Definition | None:
        """Where `name` of `module` is defined, through whatever hands it on. None where it is not."""
        tree = self._tree(module)
        if tree is None:
            return None
        for node in reversed([*_statements(tree.body)]):  # of overloads the last is the function
            if name in _bound(node):
                return Definition(module, node)
        return self._handed_on(module, name, tree) or self._submodule(f"{module}.{name}")

    def arguments(self, definition: Definition) -> tuple[frozenset[str], bool]:
        """The names of the arguments of a function or class, and whether it may take others too (`**kwargs`)."""
        node = definition.node
        if isinstance(node, _Function):
            return frozenset(_parameters(node)), node.args.kwarg is not None
        if not isinstance(node, ast.ClassDef):
            return frozenset(), True
        return self._of_class(definition.module, node)

    def method(self, definition: Definition, name: str) -> tuple[frozenset[str], bool]:
        """As `arguments`, of a method: those that each class takes of which the class is made; none where none has it."""
        if not isinstance(definition.node, ast.ClassDef):
            return frozenset(), True
        found = [
            item
            for _, node in self._with_bases(definition.module, definition.node)
            for item in node.body
            if isinstance(item, _Function) and item.name == name
        ]
        names = frozenset(argument for item in found for argument in _parameters(item))
        return names, not found or found[0].args.kwarg is not None

    def _of_class(self, module: str, node: ast.ClassDef) -> tuple[frozenset[str], bool]:
        names: set[str] = set()
        is_open = True
        for _, part in self._with_bases(module, node):
            init = next((item for item in part.body if isinstance(item, _Function) and item.name == "__init__"), None)
            if init is not None:
                names.update(_parameters(init))
                if init.args.kwarg is None:
                    return frozenset(names), False  # nothing is handed on to the classes below
            elif _is_dataclass(part):
                is_open = False
                names.update(name for item in part.body if isinstance(item, ast.AnnAssign) for name in _bound(item))
        return frozenset(names), is_open

    def _with_bases(self, module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
        yield module, node
        for base in node.bases:
            name = base.value if isinstance(base, ast.Subscript) else base
            found = self.find(module, name.id) if isinstance(name, ast.Name) else None
            if found is not None and isinstance(found.node, ast.ClassDef) and found.node is not node:
                yield from self._with_bases(found.module, found.node)

    def _handed_on(self, module: str, name: str, tree: ast.Module) -> Definition | None:
        imports = [node for node in _statements(tree.body) if isinstance(node, ast.ImportFrom)]
        for node in imports:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    source = self._absolute(module, node)
                    return self.find(source, alias.name) or self._submodule(f"{source}.{alias.name}")
        stars = [self._absolute(module, node) for node in imports if node.names[0].name == "*"]
        allowed = _STARS.get(module)
        chosen = [source for source in stars if allowed is None or source.rpartition(".")[2] in allowed]
        return next((found for source in chosen if (found := self.find(source, name)) is not None), None)

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        inside = parts if self._is_package(module) else parts[:-1]
        base = inside[: len(inside) - node.level + 1]
        return ".".join([*base, *([node.module] if node.module else [])])

    def _submodule(self, module: str) -> Definition | None:
        return Definition(module, None) if self._file(module) is not None else None

    def _is_package(self, module: str) -> bool:
        file = self._file(module)
        return file is not None and file.name == "__init__.py"

    def _file(self, module: str) -> Path | None:
        library, _, rest = module.partition(".")
        folder = self.folder(library)
        if folder is None:
            return None
        below = folder.joinpath(*rest.split(".")) if rest else folder
        return next((file for file in (below / "__init__.py", below.with_suffix(".py")) if file.is_file()), None)

    def _tree(self, module: str) -> ast.Module | None:
        if module not in self._trees:
            file = self._file(module)
            self._trees[module] = None if file is None else ast.parse(file.read_bytes())
        return self._trees[module]


@cache
def installed_sources() -> LibrarySources:
    """The libraries of this process."""
    return LibrarySources()


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """What stands in a module, below conditions too; those of `TYPE_CHECKING` tell what is exported lazily."""
    for node in body:
        yield node
        for name in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from _statements(getattr(node, name, []))
        for handler in node.handlers if isinstance(node, ast.Try) else []:
            yield from _statements(handler.body)


def _bound(node: ast.stmt) -> tuple[str, ...]:
    if isinstance(node, _Function | ast.ClassDef):
        return (node.name,)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return tuple(target.id for target in targets if isinstance(target, ast.Name))


def _parameters(node: _Function) -> Iterator[str]:
    """Names of parameters, and of those that the body takes out of `**kwargs`."""
    taken = node.args
    yield from (item.arg for item in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs))
    if taken.kwarg is None:
        return
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in ("pop", "get"):
            key = call.args[0] if call.args else None
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value


def _is_dataclass(node: ast.ClassDef) -> bool:
    names = [item.func if isinstance(item, ast.Call) else item for item in node.decorator_list]
    return any(isinstance(name, ast.Name) and name.id == "dataclass" for name in names)
