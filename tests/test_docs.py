"""The documents name what exists: commands, options, fields and snippets are held against the code."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel
from rich.console import Console

import qlora_tools
from qlora_tools import results
from qlora_tools.cli.main import qlora
from qlora_tools.config import RunConfig, load_config, parse_config
from qlora_tools.config.files import parse_config_text
from qlora_tools.data.dataset import read_dataset
from qlora_tools.data.formats.detect import detect_mapping, to_example
from qlora_tools.inspection import inspect_dataset
from qlora_tools.models.catalogue import CATALOGUE
from qlora_tools.report.dataset_table import print_dataset_report

ROOT = Path(__file__).parent.parent
TEXTS = ("README.md", "SKILL.md", "AGENTS.md", "docs/commands.md")
GUIDES = tuple(
    sorted(f"qlora_tools/guide/topics/{path.name}" for path in (ROOT / "qlora_tools/guide/topics").glob("*.md"))
)
FOLDERS = (".ci", "benchmarks", "docs", "examples", "qlora_tools", "scripts", "server", "templates", "tests")
TEXT_SUFFIXES = {
    "",
    ".css",
    ".html",
    ".j2",
    ".json",
    ".jsonl",
    ".md",
    ".py",
    ".sh",
    ".svg",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}
SKILL_KEYS = {"name", "description", "license", "compatibility", "metadata", "allowed-tools"}
PARTS = "model|data|lora|quantization|training|output"


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def commands() -> dict[str, click.Command]:
    """Every command by its full name, such as `config validate`; groups too."""
    return dict(_below(qlora, ""))


def _below(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from _below(command, f"{prefix}{name} ")


def options_of(command: click.Command) -> set[str]:
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


def snippets(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(name), flags=re.MULTILINE | re.DOTALL)


def command_lines(name: str) -> list[str]:
    """What stands after `qlora` in code spans, in indented lines and in shell blocks."""
    text = text_of(name)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    indented = re.findall(r"^    (qlora .*)$", prose, flags=re.MULTILINE)
    shell = [line for block in snippets(name, "bash") for line in block.splitlines()]
    found = (
        re.match(r"(?:.* )?(?:\.venv/bin/)?qlora (?P<rest>[a-z-].*)$", line) for line in (*spans, *indented, *shell)
    )
    return [match["rest"] for match in found if match]


def problem_of(line: str) -> str | None:
    words = shlex.split(re.split(r" [>|] ", line)[0].replace("[", "").replace("]", ""))
    if words[0].startswith("-"):
        return None if words[0] in {*options_of(qlora), "--help", "-h"} else f"no option {words[0]}"
    if words[0] not in commands():
        return f"no command {words[0]}"
    name = words.pop(0)
    if isinstance(commands()[name], click.Group) and words and not words[0].startswith("-"):
        name = f"{name} {words.pop(0)}"
        if name not in commands():
            return f"no command {name}"
    known = {*options_of(commands()[name]), "--help", "-h"}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]
    return f"{name} has no option {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize("name", [*TEXTS, *GUIDES])
def test_every_command_line_in_a_document_exists(name: str) -> None:
    problems = {line: problem_of(line) for line in command_lines(name)}
    assert {line: problem for line, problem in problems.items() if problem} == {}


def test_command_lines_are_found_and_wrong_ones_are_seen() -> None:
    assert len(command_lines("README.md")) >= 10
    assert len(command_lines("SKILL.md")) >= 10
    assert len(command_lines("docs/commands.md")) >= 10
    assert problem_of("estimates --model x") == "no command estimates"
    assert problem_of("config compare a b") == "no command config compare"
    assert problem_of("train run.yaml --now") == "train has no option --now"
    assert problem_of('generate out -p "--now"') == "generate has no option --now"
    assert problem_of("merge out -o DIR --no-check --json") is None


@cache
def sections() -> dict[str, str]:
    """The sections of docs/commands.md by command."""
    parts = re.split(r"^## qlora (.+)$", text_of("docs/commands.md"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_command_reference_has_a_section_for_every_command_and_no_other() -> None:
    assert sorted(sections()) == sorted(commands())


@pytest.mark.parametrize("name", sorted(commands()))
def test_the_command_reference_names_every_option_and_no_other(name: str) -> None:
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", sections()[name])) - {"-h", "--help"}
    assert named == options_of(commands()[name])


@pytest.mark.parametrize("name", sorted(commands()))
def test_readme_and_skill_or_the_reference_show_how_a_command_is_called(name: str) -> None:
    assert any(line == name or line.startswith(f"{name} ") for text in TEXTS for line in command_lines(text))


def test_the_defaults_in_the_command_reference_are_those_of_the_command() -> None:
    row = re.compile(r"^\| (?:`-\w`, )?`--([a-z-]+)` \| `?([\w-]+)`? \|", flags=re.MULTILINE)
    compared = 0
    for name, command in commands().items():
        shown = dict(row.findall(sections()[name]))
        for option in (item for item in command.params if isinstance(item, click.Option) and not item.is_flag):
            written = shown.get(option.opts[-1].removeprefix("--"))
            if written is not None and isinstance(option.default, str | int | float):
                assert written == (f"{option.default:g}" if isinstance(option.default, float) else str(option.default))
                compared += 1
    assert compared >= 7


def test_the_exit_codes_in_the_documents_are_those_of_the_errors() -> None:
    from qlora_tools import errors

    raised = {getattr(errors, name).exit_code for name in errors.__all__ if name != "ConfigProblem"}
    for name in ("README.md", "SKILL.md", "docs/commands.md"):
        table = {int(code) for code in re.findall(r"^\| (\d+) \|", text_of(name), flags=re.MULTILINE)}
        assert table == {0, *raised}, name


def test_the_newest_version_in_the_changelog_is_that_of_the_package() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", text_of("CHANGELOG.md"), flags=re.MULTILINE)
    assert versions[0][0] == qlora_tools.__version__
    assert [date for _, date in versions] == sorted((date for _, date in versions), reverse=True)


def field_names() -> set[str]:
    return {
        f"{part}.{name}"
        for part, info in RunConfig.model_fields.items()
        for name in info.annotation.model_fields  # type: ignore[union-attr]
    }


@pytest.mark.parametrize("name", [*TEXTS, "CHANGELOG.md"])
def test_a_document_names_only_fields_that_the_config_has(name: str) -> None:
    named = re.findall(rf"`((?:{PARTS})\.[a-z_]+)\b", text_of(name))
    assert set(named) - field_names() == set()


def test_the_number_of_fields_in_the_changelog_is_right() -> None:
    assert f"{len(field_names())} fields" in text_of("CHANGELOG.md")


def test_the_defaults_in_the_skill_are_those_of_the_config() -> None:
    rows = re.findall(rf"^\| `((?:{PARTS})\.[a-z_]+)` \| ([^ |]+) \|", text_of("SKILL.md"), flags=re.MULTILINE)
    assert len(rows) >= 10
    for field, written in rows:
        part, name = field.split(".")
        model = RunConfig.model_fields[part].annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        default: Any = model.model_fields[name].default
        told = {"none": None, "true": True}.get(written, written)
        assert told == default or float(written) == default, field


def test_the_example_config_is_valid_and_its_rows_fit_a_known_format() -> None:
    config = load_config(ROOT / "examples" / "run.yaml")
    assert config.model.name in CATALOGUE
    rows = [json.loads(line) for line in (ROOT / config.data.path).read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 10
    mapping = detect_mapping(rows)
    assert mapping.format == "messages"
    for row in rows:
        to_example(row, mapping)


def test_the_example_of_a_mixture_reads_both_sources_and_weighs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(ROOT / "examples" / "mixture.yaml")
    fields = config.data.model_dump(exclude_defaults=True, exclude={"path"})
    report = inspect_dataset(config.data.path, settings={f"data.{name}": value for name, value in fields.items()})
    assert report.verdict == "ready with warnings"
    assert [found.check for found in report.findings if found.severity != "note"] == ["few_rows"]
    assert report.sources == {"examples/rows.jsonl": 12, "examples/desk.csv": 6}
    rows = read_dataset(config.data, seed=0)
    assert rows.evaluation is not None and not rows.unusable
    numbers = rows.training.numbers
    assert len(rows.epoch(numbers, seed=0)) == sum(2 if number > 12 else 1 for number in numbers)


def test_the_config_of_the_mixture_in_the_readme_is_that_of_the_example() -> None:
    shown = [parse_config(parse_config_text(block, source="README.md")) for block in snippets("README.md", "yaml")]
    example = load_config(ROOT / "examples" / "mixture.yaml")
    assert example.data in [config.data for config in shown]


def test_the_report_in_the_readme_is_what_the_faulty_example_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed = StringIO()
    print_dataset_report(Console(file=printed), inspect_dataset("examples/faulty.jsonl"))
    (excerpt,) = re.findall(r"^```\n(NOT READY .*?)^```$", text_of("README.md"), flags=re.MULTILINE | re.DOTALL)
    report, separator, mask = excerpt.partition("\nRow 1: ")
    assert separator and "⟦" in mask
    missing = [line for line in report.splitlines() if line not in printed.getvalue().splitlines()]
    assert missing == []


def test_the_mask_in_the_readme_is_that_of_the_first_faulty_row() -> None:
    turns = json.loads((ROOT / "examples" / "faulty.jsonl").read_text(encoding="utf-8").splitlines()[0])["messages"]
    (mask,) = re.findall(r"^(Row 1: .*?)^```$", text_of("README.md"), flags=re.MULTILINE | re.DOTALL)
    assert f"  {turns[0]['content']}⟪<|im_end|>⟫↵\n" in mask
    assert re.findall("⟦(.*)⟧", mask) == [f"{turns[1]['content']}⟪<|im_end|>⟫"]


@pytest.mark.parametrize("name", TEXTS)
def test_the_snippets_of_a_document_are_valid(name: str) -> None:
    for block in snippets(name, "json"):
        assert json.loads(block)
    for line in "".join(snippets(name, "jsonl")).splitlines():
        row = json.loads(line)
        to_example(row, detect_mapping([row]))
    for block in snippets(name, "yaml"):
        parse_config(parse_config_text(block, source=name))


def test_readme_and_skill_have_snippets_of_each_kind() -> None:
    for name in ("README.md", "SKILL.md"):
        assert all(snippets(name, language) for language in ("bash", "json", "jsonl", "yaml", "python")), name
        assert json.loads(snippets(name, "json")[0]) == {"mcpServers": {"qlora": {"command": "qlora", "args": ["mcp"]}}}


@pytest.mark.parametrize("name", ["README.md", "SKILL.md"])
def test_the_python_of_a_document_compiles_and_imports_public_names_only(name: str) -> None:
    for block in snippets(name, "python"):
        compile(block, name, "exec")
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "qlora_tools":
                assert {alias.name for alias in node.names} <= set(qlora_tools.__all__)


def test_the_result_fields_in_the_readme_exist() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`\w+`(?:, `\w+`)*) \|$", text_of("README.md"), flags=re.MULTILINE)
    models = {
        name: model for name, model in vars(results).items() if isinstance(model, type) and not name.startswith("_")
    }
    shown = {name: set(re.findall(r"`(\w+)`", fields)) for name, fields in rows if name in models}
    assert shown.keys() >= {"TrainResult", "GenerateResult", "MergeResult"}
    unknown = {name: fields - models[name].model_fields.keys() for name, fields in shown.items()}
    assert {name: fields for name, fields in unknown.items() if fields} == {}


def test_the_formats_and_files_in_the_readme_are_those_that_are_read() -> None:
    from qlora_tools.data.formats.detect import FORMATS
    from qlora_tools.data.reading.sources import COMPRESSION_SUFFIXES, DATA_SUFFIXES

    table = text_of("README.md").partition("## Data formats")[2].partition("## The config")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == FORMATS
    assert set(re.findall(r"`(\.\w+)`", table)) == {*DATA_SUFFIXES, *COMPRESSION_SUFFIXES}


@pytest.mark.parametrize("name", [*TEXTS, "CHANGELOG.md"])
def test_the_links_and_paths_of_a_document_lead_somewhere(name: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text_of(name)) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []
    paths = re.findall(r"`((?:qlora_tools|server|templates|tests|docs|examples|scripts)/[\w./-]*)`", text_of(name))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_agents_page_is_short_and_names_every_package() -> None:
    text = text_of("AGENTS.md")
    assert len(text.splitlines()) <= 200
    packages = {path.parent.name for path in (ROOT / "qlora_tools").glob("*/__init__.py")}
    assert {package for package in packages if f"`qlora_tools/{package}/`" not in text} == set()


def test_the_skill_is_one_that_installers_accept() -> None:
    text = text_of("SKILL.md")
    front, separator, body = text.removeprefix("---\n").partition("\n---\n")
    matter = yaml.safe_load(front)
    assert text.startswith("---\n") and separator and body.strip()
    assert len(text.splitlines()) < 500
    assert matter.keys() <= SKILL_KEYS
    assert matter["name"] == "qlora"
    assert 0 < len(matter["description"]) <= 1024
    assert matter["license"] == "Apache-2.0"
    assert all(isinstance(value, str) for value in matter["metadata"].values())
    assert matter["metadata"]["version"] == qlora_tools.__version__


def test_readme_and_skill_name_every_tool_of_the_server() -> None:
    tools = set(
        re.findall(r"StrictTool\.of\(\w+\.(\w+),", (ROOT / "server" / "contents.py").read_text(encoding="utf-8"))
    )
    assert tools
    for name in ("README.md", "SKILL.md"):
        assert {tool for tool in tools if f"`{tool}`" not in text_of(name)} == set(), name


def repository_texts() -> Iterator[Path]:
    below = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    for path in (*ROOT.iterdir(), *below):
        if path.is_file() and path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts:
            yield path


def test_no_text_of_the_repository_names_a_path_of_somebodys_machine() -> None:
    personal = re.compile(r"(?<![\w.])/(?:home|Users|root|work|mnt)/\w")
    found = [
        str(path.relative_to(ROOT)) for path in repository_texts() if personal.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_the_measured_figures_in_the_readme_are_those_of_the_committed_files() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("demo_cpu", "demo_gpu"):
        result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        line = next(line for line in readme.splitlines() if f"results/{name}.json" in line and line.startswith("|"))
        match = result["exact_match_percent"]
        assert f"| {match['base']:.1f} % | {match['adapter']:.1f} % |" in line
        assert f"| {result['parity']['same_answers']} of {result['parity']['prompts']} |" in line
        assert f"| {result['training']['train_seconds']:.0f} s | {result['seconds_command']:.0f} s |" in line
    stock = json.loads((ROOT / "benchmarks" / "results" / "gpu_stock.json").read_text(encoding="utf-8"))
    assert stock["tests"]["counts"]["failed"] == 0
    for row in stock["llama_1b_shape"]:
        assert f"{row['tokens_per_second_median']:,} | {row['peak_allocated_gib']:.2f} GiB" in readme
    accuracy = json.loads((ROOT / "benchmarks" / "results" / "memory_accuracy.json").read_text(encoding="utf-8"))
    every, blind = accuracy["all"], accuracy["blind"]
    shown = [every["median_error"], every["worst_error"], every["worst_error_int8_and_experts"], blind["worst_error"]]
    said = " ".join(readme.split())
    assert f"{every['rows']} training runs" in said
    assert f"{blind['rows']} blind ones" in said
    assert all(f"{100 * error:.2f} %" in said for error in shown)
