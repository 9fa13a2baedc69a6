"""The light install works, and importing the package costs milliseconds: heavy libraries come with heavy work only."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import qlora_tools

PACKAGE = Path(qlora_tools.__file__).parent
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate", "matplotlib", "gguf")
LIGHT = (
    "qlora_tools",
    "qlora_tools.cli.main",
    "qlora_tools.config",
    "qlora_tools.memory",
    "qlora_tools.planning",
    "qlora_tools.doctor",
    "qlora_tools.jobs",
    "qlora_tools.jobs.runner",
    "qlora_tools.progress.watch",
    "qlora_tools.evaluation",
    "qlora_tools.exporting",
    "qlora_tools.generation",
    "qlora_tools.merging",
    "qlora_tools.server",
    "qlora_tools.serving",
)


def run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


@pytest.mark.parametrize("module", LIGHT)
def test_importing_a_light_module_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(name for name in {HEAVY!r} if name in sys.modules)))"
    assert json.loads(run_python(code)) == []


def test_every_command_shows_its_help_without_a_heavy_library() -> None:
    code = (
        "import sys, json\n"
        "from qlora_tools.cli.main import qlora\n"
        "context = qlora.make_context('qlora', [], resilient_parsing=True)\n"
        "helps = {name: qlora.get_command(context, name).get_help(context) for name in qlora.list_commands(context)}\n"
        f"print(json.dumps([sorted(helps), [name for name in {HEAVY!r} if name in sys.modules]]))\n"
    )
    commands, heavy = json.loads(run_python(code))
    assert {"config", "doctor", "generate", "merge", "train"} <= set(commands)
    assert heavy == []


def test_all_lists_exactly_the_names_that_have_a_home() -> None:
    assert sorted(qlora_tools.__all__) == qlora_tools.__all__
    assert set(qlora_tools.__all__) == {*qlora_tools._HOMES, "__version__"}
    checked = next(
        node for node in _tree(PACKAGE / "__init__.py").body if isinstance(node, ast.If) and _is_typing(node)
    )
    names = {alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(qlora_tools._HOMES)


def _is_typing(node: ast.If) -> bool:
    return ast.unparse(node.test) == "TYPE_CHECKING"


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(set(qlora_tools._HOMES) - {"train"}))
def test_a_light_public_name_resolves_and_is_documented(name: str) -> None:
    found = getattr(qlora_tools, name)
    home = importlib.import_module(f"qlora_tools.{qlora_tools._HOMES[name]}")
    assert found is getattr(home, name)
    assert len(inspect.getdoc(found) or "") > 30


def test_train_is_documented_where_it_is_defined() -> None:
    defined = [node for node in _tree(PACKAGE / "engine" / "train.py").body if isinstance(node, ast.FunctionDef)]
    train = next(node for node in defined if node.name == "train")
    assert len(ast.get_docstring(train) or "") > 30


@pytest.mark.process
def test_every_public_name_resolves_in_a_fresh_process() -> None:
    code = (
        "import json, inspect, qlora_tools\n"
        "found = {name: getattr(qlora_tools, name) for name in qlora_tools.__all__}\n"
        "print(json.dumps([name for name, value in found.items() if callable(value) and not inspect.getdoc(value)]))\n"
    )
    assert json.loads(run_python(code)) == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        _ = qlora_tools.quantise
