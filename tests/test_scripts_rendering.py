"""Every pair of a config's variants renders to a training script that is formatted, linted, whole and free of dead names."""

import ast
import io
import json
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import Environment, UndefinedError, nodes

from qlora_tools.config import parse_config
from qlora_tools.config.schema import RunConfig
from qlora_tools.foreign import lint_script
from qlora_tools.scripts.kinds import Made
from qlora_tools.scripts.literals import Literal, Value
from qlora_tools.scripts.render import made_script, render_script
from qlora_tools.scripts.rendering import TEMPLATES, _environment, render
from qlora_tools.scripts.script_rows import NotPlainError, RowsAtHand, plain_rows, prepared_rows
from qlora_tools.scripts.training import training_inputs

from .families import make_model
from .hostile_text import HOSTILE_NAMES
from .script_rows import ROWS
from .script_runs import RunScript, run_script  # noqa: F401 - the fixture
from .script_variants import HUB_ROWS, Variant, covering_array

TEMPLATE_FOLDER = Path(__file__).parent.parent / "templates"
_RUFF = [sys.executable, "-m", "ruff"]
_RULES = ["--isolated", "--line-length", "120", "--target-version", "py311"]


@dataclass(frozen=True)
class MadeVariant:
    """One config of the array, and its training script."""

    variant: Variant
    config: RunConfig
    made: Made
    script: Path

    def runnable_here(self) -> Path:
        """The script of the same config without what this machine lacks: kernels and trackers."""
        changes = {"model": {"attention_implementation": "sdpa"}, "training": {"tracking": "none"}}
        parts = {name: getattr(self.config, name).model_copy(update=part) for name, part in changes.items()}
        made = made_script(self.config.model_copy(update=parts), kind="train", stem="train")
        path = self.script.with_name("here.py")
        path.write_text(made.text, encoding="utf-8")
        return path

    @property
    def text(self) -> str:
        """The Python of the script, or of the notebook's cells."""
        assert self.made.python is not None
        return self.made.python


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> list[MadeVariant]:
    """Every config of the array, rendered into a folder of its own."""
    root = tmp_path_factory.mktemp("variants")
    make_model("llama", root / "chat")
    make_model("llama", root / "bare", template=False)

    def made(place: int, variant: Variant) -> MadeVariant:
        folder = root / f"v{place}"
        folder.mkdir()
        raw = variant.raw(
            folder, folder / "out", lambda rows: root / ("bare" if rows in ("pairs", "texts") else "chat")
        )
        config = parse_config(raw)
        script = folder / "train.py"
        found = made_script(config, kind=variant.options["script"], stem="train")
        assert found.python is not None
        script.write_text(found.python, encoding="utf-8")
        for name, rows in found.rows.items():
            lines = (json.dumps({"input_ids": row.input_ids, "labels": row.labels}) + "\n" for row in rows)
            (folder / name).write_text("".join(lines))
        return MadeVariant(variant, config, found, script)

    return [made(place, variant) for place, variant in enumerate(covering_array())]


def test_every_variant_is_python_without_dead_names(variants: list[MadeVariant]) -> None:
    for one in variants:
        tree = ast.parse(one.text, feature_version=(3, 11))
        assert dead_names(tree) == [], one.variant.options


def dead_names(tree: ast.Module) -> list[str]:
    """Names that a script binds and never reads; a method is read by its library."""
    found = list(ast.walk(tree))
    methods = {item for node in found if isinstance(node, ast.ClassDef) for item in node.body}
    names = [node for node in found if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    bound |= {node.name for node in found if isinstance(node, ast.FunctionDef | ast.ClassDef) and node not in methods}
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    return sorted(bound - read)


def test_every_variant_is_formatted_and_clean_under_ruff(variants: list[MadeVariant]) -> None:
    files = [str(one.script) for one in variants]
    for command in (
        ["format", "--check", *_RULES],
        ["check", "--select", "E,F,W,I,UP,B,C4,SIM,RET,PIE", "--output-format", "concise", *_RULES],
    ):
        ended = subprocess.run([*_RUFF, *command, *files], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


# A part of the array; all of it renders, and the others are linted and dry-run in the slow tier.
_FIRST = 12


@pytest.mark.parametrize(
    ("first", "last"), [(0, _FIRST), pytest.param(_FIRST, None, marks=pytest.mark.slow)], ids=["first", "others"]
)
def test_variants_are_free_of_what_the_lint_finds_in_scripts(
    first: int, last: int | None, variants: list[MadeVariant]
) -> None:
    for one in variants[first:last]:
        found = {item.rule for item in lint_script(one.text).findings if item.severity != "note"}
        assert found <= ({"fp4"} if one.config.quantization.kind == "fp4" else set()), one.variant.options


@pytest.mark.process
@pytest.mark.parametrize(
    ("first", "last"), [(0, _FIRST), pytest.param(_FIRST, None, marks=pytest.mark.slow)], ids=["first", "others"]
)
def test_variants_pass_a_dry_run(
    first: int,
    last: int | None,
    variants: list[MadeVariant],
    run_script: RunScript,  # noqa: F811
) -> None:
    local = [
        one for one in variants if one.variant.options["model"] == "local" and one.config.data.path != "owner/rows"
    ]
    for one in local[first:last]:
        ended = run_script(one.runnable_here(), "--dry-run")
        assert ended.code == 0, (one.variant.options, ended.output)
        assert "Dry run: " in ended.output


@dataclass(frozen=True)
class Inputs:
    """Choices and values of a training script."""

    choices: dict[str, Any]
    values: dict[str, Value]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Inputs]:
    """Of scripts that print every text there is: columns, paths, splits, revisions, names of modules, chat templates."""
    folder = tmp_path_factory.mktemp("inputs")
    make_model("llama", folder / "model", template=False)
    make_model("llama", folder / "chat")
    raws = (
        {"lora": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "data": ROWS["questions"](folder)},
        {"data": ROWS["texts"](folder)},
        {"model": {"name": str(folder / "chat")}, "data": ROWS["sharegpt"](folder)},
        {"model": {"name": str(folder / "chat")}, "data": ROWS["alpaca"](folder) | {"evaluation_fraction": 0.2}},
        {"model": {"name": str(folder / "chat")}, "data": ROWS["chats"](folder)},
        {"data": ROWS["mixed"](folder) | {"evaluation_fraction": 0.2}},
        {"data": ROWS["pairs"](folder) | {"evaluation_path": str(folder / "pairs.jsonl")}},
        {
            "model": {"name": "owner/name", "revision": "main"},
            "data": {**HUB_ROWS["hub subset"], "evaluation_split": "validation"},
        },
    )
    return [
        _inputs({"model": {"name": str(folder / "model")}, **raw, "output": {"directory": "./run"}}) for raw in raws
    ]


def _inputs(raw: dict[str, Any]) -> Inputs:
    config = parse_config(raw)
    here = RowsAtHand.find(config)
    try:
        rows = plain_rows(config, here)
    except NotPlainError:
        rows = prepared_rows(config, here, stem="train", reason="several sources")
    found = training_inputs(config, rows)
    return Inputs(dict(found.choices), dict(found.values))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_text_becomes_anything_but_a_constant(data: st.DataObject, inputs: list[Inputs]) -> None:
    texts = st.one_of(st.text(max_size=60), st.text(alphabet=_NASTY, max_size=12))
    require_constants(data.draw(st.sampled_from(inputs)), lambda: data.draw(texts))


def test_no_hostile_text_becomes_anything_but_a_constant(inputs: list[Inputs]) -> None:
    texts = cycle(HOSTILE)
    for one in inputs:
        for _ in range(2):
            require_constants(one, lambda: next(texts))


_NASTY = "\"'\\{}%#\n\r\t\x00\x85\u2028\u2029\u202e\ue000\ue001\ud800🙂 a"
HOSTILE = (
    *HOSTILE_NAMES,
    '"""',
    "\\",
    '\\"',
    "'" + '"',
    "{{",
    "}}",
    "%}",
    "{#",
    "#}",
    "{% raw %}",
    "\ue000<lora\ue001",
    "\ue000=lora\ue001",
    "\ue000>\ue001",
    "\u2028import os\u2029",
    "\x85",
    "\x0c",
    "\ud800",
    "N{BULLET}",
    "\\N{BULLET}",
    "\\u0041",
    "f'{1}'",
    "# /// script",
    "# %% Title",
    "\n# %% Title\n",
    "%pip install x",
    "!ls",
)


def require_constants(one: Inputs, draw: Callable[[], str]) -> None:
    """A script with drawn texts differs from one with neutral ones in these constants alone, comments included."""
    texts: dict[str, str] = {}

    def neutral(value: Value) -> Value:
        if isinstance(value, list):
            return [neutral(item) for item in value]
        if not isinstance(value, str):
            return value
        texts[f"neutral {len(texts)}"] = draw()
        return f"neutral {len(texts) - 1}"

    def hostile(value: Value) -> Value:
        if isinstance(value, list):
            return [hostile(item) for item in value]
        return texts[value] if isinstance(value, str) else value

    plain_values = {name: neutral(value) for name, value in one.values.items()}
    plain = render("train", one.choices, plain_values).text
    drawn = render("train", one.choices, {name: hostile(value) for name, value in plain_values.items()}).text
    drawn.encode()
    require_same_but_for(texts, ast.parse(plain), ast.parse(drawn))
    assert comments(plain) == comments(drawn)


def require_same_but_for(texts: dict[str, str], plain: Any, drawn: Any) -> None:
    """Walk two syntax trees side by side: all is equal, but constants of `texts` are what they stand for."""
    assert type(plain) is type(drawn)
    if isinstance(plain, ast.Constant):
        assert drawn.value == texts.get(plain.value, plain.value)
        assert type(drawn.value) is type(plain.value)
    elif isinstance(plain, ast.AST):
        for (name, one), (other_name, other) in zip(ast.iter_fields(plain), ast.iter_fields(drawn), strict=True):
            assert name == other_name
            require_same_but_for(texts, one, other)
    elif isinstance(plain, list):
        assert len(plain) == len(drawn)
        for one, other in zip(plain, drawn, strict=True):
            require_same_but_for(texts, one, other)
    else:
        assert plain == drawn


def comments(text: str) -> list[str]:
    """The comments of a script."""
    return [
        token.string for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT
    ]


@pytest.mark.process
def test_a_run_in_a_hostile_folder_with_hostile_columns_reads_the_right_rows(
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    run_script: RunScript,  # noqa: F811
) -> None:
    folder = tmp_path / 'it\'s "quoted" {{ 7*7 }} {% raw %} # $(touch x) \\n'
    folder.mkdir()
    question, answer = 'frage" """ {{ 1 }}', "antwort' + open('x') #"
    rows = [{question: f"say number {i}", answer: f"number {i} it is"} for i in range(8)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": str(path), "format": "question_answer", "columns": {"question": question, "answer": answer}}
    raw = {"model": {"name": str(tiny_model("llama"))}, "data": data, "output": {"directory": str(folder / "out")}}
    result = render_script(parse_config(raw), output=folder / "train.py")
    assert result.files == []
    ended = run_script(folder / "train.py", "--dry-run")
    assert ended.code == 0, ended.output
    assert "8 rows; 0 were longer" in ended.output
    assert "this is learnt: 'number 0 it is<|eot_id|>'" in ended.output


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ choice }}", TypeError),
        ("{{ 'text' }}", TypeError),
        ("{{ value ~ 'text' }}", TypeError),
        ("{{ value | upper }}", TypeError),
        ("{% if value %}{% endif %}", TypeError),
        ("{% if not value %}{% endif %}", TypeError),
        ("{% for letter in value %}{% endfor %}", TypeError),
        ("{{ value.value }}", TypeError),
        ("{{ missing }}", TypeError),
        ("{% if missing %}{% endif %}", UndefinedError),
        ("{{ of(missing) }}", TypeError),
    ],
)
def test_a_template_that_prints_a_choice_or_branches_on_a_value_is_refused(
    template: str, error: type[Exception]
) -> None:
    made = _environment("python").from_string(template)
    with pytest.raises(error):
        made.render(choice="text", value=Literal("text"))


def test_templates_branch_on_choices_and_print_values(inputs: list[Inputs]) -> None:
    choices = {name for one in inputs for name in one.choices}
    values = {name for one in inputs for name in one.values}
    for tree in trees_of("train.py.j2"):
        for branch in tree.find_all((nodes.If, nodes.CondExpr)):
            asked = {name.name for name in branch.test.find_all(nodes.Name)} | (
                {branch.test.name} if isinstance(branch.test, nodes.Name) else set()
            )
            assert asked <= choices
        for output in tree.find_all(nodes.Output):
            for printed in output.nodes:
                if isinstance(printed, nodes.Name):
                    assert printed.name in {*values, "end"}
                elif isinstance(printed, nodes.Call):
                    assert printed.node.name in ("of", "begin")
                else:
                    assert isinstance(printed, nodes.TemplateData)
        assert next(tree.find_all((nodes.For, nodes.Assign, nodes.Macro, nodes.Filter)), None) is None


def trees_of(name: str) -> Iterator[nodes.Template]:
    """The syntax tree of a template and of all that it includes."""
    tree = Environment(autoescape=False).parse((TEMPLATE_FOLDER / name).read_text(encoding="utf-8"))
    yield tree
    for included in tree.find_all(nodes.Include):
        assert isinstance(included.template, nodes.Const)
        yield from trees_of(included.template.value)


def test_every_template_of_a_script_is_on_the_list_and_no_other_is_rendered() -> None:
    there = {path.name for path in TEMPLATE_FOLDER.glob("*.py.j2") if not path.name.startswith("_")}
    assert there == {template for template, language in TEMPLATES.values() if language == "python"}
    parts = {path.name for path in TEMPLATE_FOLDER.glob("_*.py.j2")}
    texts = "".join(path.read_text(encoding="utf-8") for path in TEMPLATE_FOLDER.glob("*.py.j2"))
    assert {name for name in parts if f'{{% include "{name}" %}}' not in texts} == set()
    with pytest.raises(KeyError):
        render("../train", {}, {})


def test_no_template_prints_a_value_into_a_comment_or_runs_code_of_a_model() -> None:
    for path in TEMPLATE_FOLDER.glob("*.py.j2"):
        text = path.read_text(encoding="utf-8")
        assert "trust_remote_code" not in text
        for line in text.splitlines():
            before, mark, behind = line.partition("#")
            if mark and '"' not in before:
                assert "{{" not in behind.replace("{{ of(", ""), line
