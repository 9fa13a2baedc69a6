"""Ratchets of the house style: sizes, annotations, layers, and things that must not appear at all."""

import ast
import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "qlora_tools").rglob("*.py"), *(ROOT / "server").rglob("*.py")])
TEMPLATES = sorted(path for path in (ROOT / "templates").rglob("*") if path.suffix in (".j2", ".py"))

HEAVY = frozenset(
    "torch transformers peft trl datasets bitsandbytes accelerate matplotlib gguf".split()  # noqa: SIM905
)
# Modules that only heavy work imports, and that may therefore import heavy libraries at their top.
HEAVY_MODULES = (
    "engine/",
    "data/collate.py",
    "evaluation/adapter_effect.py",
    "evaluation/adapter_effect_layers.py",
    "evaluation/forgetting.py",
    "evaluation/measuring.py",
    "evaluation/quantisation_cost_grid.py",
    "evaluation/quantisation_cost_losses.py",
    "evaluation/quantisation_cost_weights.py",
    "evaluation/refusals.py",
    "evaluation/token_losses.py",
    "generation/batch.py",
    "generation/cached_rows.py",
    "generation/decoding.py",
    "generation/drawing.py",
    "generation/session.py",
    "merging/agreement.py",
    "merging/arithmetic.py",
    "merging/dequantized.py",
    "merging/mapped_model.py",
    "merging/parity.py",
    "merging/reading.py",
    "merging/rows.py",
    "merging/writing.py",
    "doctor/probe.py",
)

MAX_PARAMETERS = 6
MAX_PUBLIC_PARAMETERS = 12
# A tool's parameters are its arguments, which agents see as a schema, and the context of the call.
MAX_TOOL_PARAMETERS = 12
# Public functions whose keywords are their documentation; one call of each stands in the README.
MANY_PARAMETERS = {
    *("check_evaluation", "evaluate", "export", "generate", "generate_file", "merge"),
    *("create_config", "train", "write_report"),
    "rotate_normed_backward",  # a kernel: what it reads and where it writes
}

# A package may import only from lower ranks, besides itself. `server` and `cli` stand at the top: nobody imports them.
RANKS = {
    "_version": 0,
    "errors": 0,
    "events": 0,
    "paths": 1,
    "results": 0,
    "subprocesses": 0,
    "untrusted": 0,
    "disk": 1,
    "durable": 1,
    "hiding": 2,
    "checkpoints": 2,
    "run_output": 3,
    "going_on": 3,
    "requirements": 1,
    "models": 2,
    "config": 3,
    "data": 4,
    "adapters": 4,
    "guide": 4,
    "memory": 4,
    "progress": 4,
    "report": 4,
    "access": 5,
    "foreign": 5,
    "inspection": 5,
    "engine": 6,
    "planning": 6,
    "doctor": 7,
    "generation": 7,
    "evaluation": 8,
    "merging": 8,
    "scripts": 8,
    "exporting": 9,
    "serving": 10,
    "jobs": 10,
    "demo": 11,
    "worker": 11,
    "server": 12,
    "cli": 13,
    "__main__": 14,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions() -> Iterator[tuple[str, Function]]:
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def lines_of(node: Function) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def imports_of(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and absolute name of each imported module; relative imports are resolved."""
    package = ("qlora_tools", *path.relative_to(ROOT).with_suffix("").parts)
    package = package[1:] if package[1] == "qlora_tools" else package
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def at_top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported; what stands under TYPE_CHECKING does not."""
    for node in body:
        if isinstance(node, Function):
            continue
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from at_top(node.body)
            yield from at_top(node.orelse)
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            yield from at_top(node.body)
            for handler in getattr(node, "handlers", ()):
                yield from at_top(handler.body)
        else:
            yield node


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT).parts
    return relative[0] if relative[0] == "server" else relative[1].removesuffix(".py")


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 50
    assert TEMPLATES


def test_functions_are_short() -> None:
    lengths = sorted(lines_of(node) for _, node in functions())
    assert statistics.median(lengths) <= 10
    assert lengths[int(0.9 * len(lengths))] <= 35
    assert [f"{name}: {lines_of(node)} lines" for name, node in functions() if lines_of(node) > 60] == []


def test_modules_are_at_most_500_lines_and_few_are_over_300() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: size for name, size in sizes.items() if size > 500} == {}
    assert {name for name, size in sizes.items() if size > 300} == set()


def test_functions_take_at_most_six_parameters() -> None:
    offenders = []
    for name, node in functions():
        taken = [item.arg for item in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([item for item in taken if item not in ("self", "cls")])
        decorators = [ast.unparse(item) for item in node.decorator_list]
        # A kernel on a GPU gets each tensor as an address and a distance between rows.
        if any(item.startswith("triton.jit") for item in decorators):
            continue
        # A command's parameters are its options: click hands each over by name.
        wide = node.name in MANY_PARAMETERS or any(".command(" in item for item in decorators)
        most = MAX_PUBLIC_PARAMETERS if wide else MAX_PARAMETERS
        if node.returns is not None and "Annotated[CallToolResult" in ast.unparse(node.returns):
            most = MAX_TOOL_PARAMETERS
        if count > most:
            offenders.append(f"{name}: {count} parameters")
    assert offenders == []


def test_every_function_is_annotated() -> None:
    bare = []
    for name, node in functions():
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        given += [item for item in (node.args.vararg, node.args.kwarg) if item is not None]
        missing = [item.arg for item in given if item.annotation is None and item.arg not in ("self", "cls")]
        if missing or node.returns is None:
            bare.append(f"{name}: {missing or 'return'}")
    assert bare == []


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"util", "utils", "helper", "helpers", "common", "misc", "manager"}
    named = [path.relative_to(ROOT) for path in SOURCES if drawers & {path.stem, path.parent.name}]
    assert named == []


def test_no_handler_catches_every_exception() -> None:
    broad = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or re.search(r"\b(Base)?Exception\b", ast.unparse(node.type)))
    ]
    assert broad == []


def _unsafe(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        return called in ("eval", "exec", "os.system", "os.popen") or any(
            keyword.arg in ("trust_remote_code", "shell") and ast.unparse(keyword.value) != "False"
            for keyword in node.keywords
        )
    return isinstance(node, ast.Dict) and any(
        ast.unparse(key) == "'trust_remote_code'" and ast.unparse(value) != "False"
        for key, value in zip(node.keys, node.values, strict=True)
        if key is not None
    )


def test_nothing_runs_code_that_comes_with_data_or_models() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if _unsafe(node)
    ]
    pickles = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
    found += [
        f"{path.relative_to(ROOT)}:{line} {module}"
        for path in SOURCES
        for line, module in imports_of(path, parsed(path))
        if module.split(".")[0] in pickles
    ]
    assert found == []


def test_no_template_holds_what_the_sources_may_not() -> None:
    unsafe = re.compile(
        r"trust_remote_code\W*[=:]\s*True|\bpickle\b|(?<![.\w])(eval|exec)\(|os\.system|shell\s*=\s*True"
    )
    texts = {path.name: path.read_text(encoding="utf-8") for path in TEMPLATES}
    assert {name: unsafe.findall(text) for name, text in texts.items() if unsafe.search(text)} == {}


def test_heavy_libraries_are_imported_at_the_top_of_heavy_modules_only() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in SOURCES
        if not str(path.relative_to(ROOT)).removeprefix("qlora_tools/").startswith(HEAVY_MODULES)
        for node in at_top(parsed(path).body)
        for line, module in imports_of(path, node)
        if module.split(".")[0] in HEAVY
    ]
    assert offenders == []


def test_light_modules_import_heavy_modules_inside_functions_only() -> None:
    heavy = tuple(f"qlora_tools.{name.removesuffix('.py').replace('/', '.').rstrip('.')}" for name in HEAVY_MODULES)
    offenders = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in SOURCES
        if not str(path.relative_to(ROOT)).removeprefix("qlora_tools/").startswith(HEAVY_MODULES)
        for node in at_top(parsed(path).body)
        for line, module in imports_of(path, node)
        if module.startswith(heavy)
    ]
    assert offenders == []


def test_every_part_of_the_package_has_a_rank() -> None:
    parts = {part_of(path) for path in SOURCES} - {"__init__"}
    assert parts - RANKS.keys() == set()


# The package's front door names what lies behind it.
@pytest.mark.parametrize(
    "path", [path for path in SOURCES if part_of(path) != "__init__"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_point_to_lower_ranks_only(path: Path) -> None:
    part = part_of(path)
    targets = [
        (line, module.split(".")[1])
        for line, module in imports_of(path, parsed(path))
        if module.startswith("qlora_tools.") and module != "qlora_tools.__version__"
    ]
    wrong = [
        f"line {line}: {part} imports {target}"
        for line, target in targets
        if target != part and RANKS[target] >= RANKS[part]
    ]
    assert wrong == []
