"""The reference texts are short, sourced and linked, and name only topics, tools, fields and checks that exist.

Commands and their options in them are held by `test_docs.py`, figures by `test_guide_figures.py`.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from qlora_tools.server.app import build_server
from qlora_tools.server.options import ServerOptions

from qlora_tools.access import Access
from qlora_tools.cli.main import run
from qlora_tools.config import RunConfig
from qlora_tools.data.formats.detect import FORMATS
from qlora_tools.data.lengths import LENGTH_STEP
from qlora_tools.errors import UsageError
from qlora_tools.guide import _ALSO, find_topic, read_topic, topics
from qlora_tools.inspection.inspect import ROWS_CHECKED, inspect_dataset
from qlora_tools.inspection.near import NEAR

from .conftest import write_rows
from .good_rows import good_rows

ROOT = Path(__file__).parent.parent
INSPECTION = ROOT / "qlora_tools" / "inspection"
TOPICS = (
    "data",
    "data-checks",
    "dtypes",
    "evaluation",
    "hyperparameters",
    "licences",
    "lora",
    "lora-or-qlora",
    "memory",
    "memory-surprises",
    "merging",
    "optimizers",
    "qlora",
    "quantization",
    "script-lint",
    "scripts",
    "shipping",
    "troubleshooting",
)
MOST_TOKENS = 1800
ROWS = 100
Row = dict[str, Any]


def config_defaults() -> dict[str, object]:
    defaults: dict[str, object] = {}
    for part, info in RunConfig.model_fields.items():
        model = info.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        defaults |= {f"{part}.{name}": field.default for name, field in model.model_fields.items()}
    return defaults


def one_line(text: str) -> str:
    return " ".join(text.split())


def fields_named_in(text: str) -> set[str]:
    return set(re.findall(r"`((?:model|data|lora|quantization|training|output)\.[a-z_]+)", text))


def tokens_at_most(text: str) -> int:
    """More than a tokenizer of today makes of such a text: pieces of words, of numbers, and marks, and a tenth more."""
    return round(1.1 * len(re.findall(r"[A-Za-z]{1,7}|\d{1,3}|[^\sA-Za-z\d]{1,2}", text)))


def sources_of(text: str) -> list[str]:
    return [one_line(source) for source in re.split(r"\n(?=- )", text.partition("\n## Sources\n")[2])[1:]]


def links_in(text: str) -> set[str]:
    return set(re.findall(r"`qlora guide ([a-z-]+)`", one_line(text)))


def test_every_topic_is_listed_with_its_summary() -> None:
    listed = topics()
    assert tuple(listed) == TOPICS
    for name, summary in listed.items():
        assert summary.endswith(".") and not summary.startswith("#") and len(summary) <= 120
        assert read_topic(name).splitlines()[2] == summary


@pytest.mark.parametrize("name", TOPICS)
def test_a_topic_is_short(name: str) -> None:
    text = read_topic(name)
    assert text.startswith("# ")
    assert 50 <= len(text.splitlines()) <= 120
    assert tokens_at_most(text) <= MOST_TOKENS
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 130


@pytest.mark.parametrize("name", TOPICS)
def test_a_topic_names_its_sources_and_those_of_the_project_exist(name: str) -> None:
    sources = sources_of(read_topic(name))
    assert len(sources) >= 3
    for source in sources:
        paths = re.findall(r"`([\w./-]+)`", source)
        paper = re.search(r", (19|20)\d\d\. arXiv:\d{4}\.\d{5}$", source)
        assert paper or paths or re.search(r": https://[\w./-]+$", source), source
        assert [path for path in paths if not (ROOT / path).exists()] == []


def test_papers_are_cited_alike_everywhere() -> None:
    papers = {source for name in TOPICS for source in sources_of(read_topic(name)) if "arXiv:" in source}
    numbers = [re.sub(r"^- \[\d\] |^- ", "", paper).partition(" arXiv:")[::2] for paper in papers]
    cited: dict[str, set[str]] = {}
    for title, number in numbers:
        cited.setdefault(number, set()).add(title.partition(". ")[0].removesuffix(" (Lion)"))
    assert {number: titles for number, titles in cited.items() if len(titles) > 1} == {}


def test_every_paper_that_a_text_names_is_among_its_sources() -> None:
    for name in TOPICS:
        body, _, sources = read_topic(name).partition("\n## Sources\n")
        named = set(re.findall(r"\(([A-Z][a-z]+) ((?:19|20)\d\d)\)", one_line(body)))
        named |= set(re.findall(r"; ([A-Z][a-z]+) ((?:19|20)\d\d)\)", one_line(body)))
        missing = [
            who
            for who in named
            if not any(who[0] in line and who[1] in line for line in sources_of("\n## Sources\n" + sources))
        ]
        assert missing == [], name


def test_links_between_topics_lead_to_topics_and_every_topic_is_reached_from_the_first() -> None:
    links = {name: links_in(read_topic(name)) for name in TOPICS}
    assert {name: found - set(TOPICS) for name, found in links.items() if found - set(TOPICS)} == {}
    reached, new = {"qlora"}, {"qlora"}
    while new:
        new = {link for name in new for link in links[name]} - reached
        reached |= new
    assert reached == set(TOPICS)


def test_the_first_guide_names_every_tool_of_the_server_and_no_guide_names_another(tmp_path: Path) -> None:
    server = build_server(ServerOptions(Access(tmp_path)))
    tools = {tool.name for tool in anyio.run(server.list_tools)}
    table = read_topic("qlora").partition("| MCP tool |")[2].partition("\n\n")[0]
    assert {name for row in table.splitlines() for name in re.findall(r"`([a-z]+_[a-z]+)`", row)} == tools
    told = {tool for name in TOPICS for tool in re.findall(r"tool `(\w+)`", one_line(read_topic(name)))}
    assert told and told <= tools


@pytest.mark.parametrize("name", TOPICS)
def test_a_topic_names_only_fields_that_the_config_has(name: str) -> None:
    assert fields_named_in(read_topic(name)) <= config_defaults().keys()


def test_every_field_that_people_tune_is_explained_somewhere() -> None:
    named = {field for name in TOPICS for field in fields_named_in(read_topic(name))}
    tuned = {field for field in config_defaults() if field.partition(".")[0] in ("lora", "quantization")}
    assert tuned - named == set()


def test_the_defaults_in_the_tables_are_those_of_the_config() -> None:
    known = config_defaults()
    rows = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| ([^|]+) \|", read_topic("hyperparameters"), flags=re.MULTILINE)
    assert len(rows) >= 20
    words = {"on": True, "off": False, "none": None, "all linear layers": "all-linear"}
    for field, shown in rows:
        value = shown.strip(" `")
        expected = known[field]
        told = float(value) if isinstance(expected, (int, float)) and value not in words else words.get(value, value)
        assert told == expected, field


def test_code_in_a_guide_compiles_and_imports_what_there_is() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", read_topic("evaluation"), flags=re.MULTILINE | re.DOTALL)
    imports: list[ast.stmt] = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imports) == 3
    exec(compile(ast.Module(imports, []), "guide", "exec"), {})


def checks_of_the_guide() -> dict[str, str]:
    """Name of each check in the table of the data guide -> its severities, as written there."""
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \| ([^|]+) \|", checks_table(), flags=re.MULTILINE)
    return {name: severity for names, severity in rows for name in re.findall(r"`([a-z_]+)`", names)}


def checks_table() -> str:
    return read_topic("data-checks").partition("## In a run")[0]


def checks_of_the_code() -> set[str]:
    """Every name that is given to a finding: written in the call, or in a table of kinds that a check goes through."""
    return {name for path in INSPECTION.glob("*.py") for name in _names_of_findings(ast.parse(path.read_text("utf-8")))}


def _names_of_findings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node.func) in ("finding", "_Kind", "_counted", "_finding"):
            yield from _first_text(node.args)
        elif isinstance(node, ast.Tuple) and len(node.elts) in (2, 3):
            yield from (name for name in _first_text(node.elts) if re.match(r"personal_|(near_)?overlap", name))


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _first_text(values: list[ast.expr]) -> list[str]:
    first = values[0].value if values and isinstance(values[0], ast.Constant) else None
    return [first] if isinstance(first, str) and re.fullmatch("[a-z_]+", first) else []


def test_the_data_guide_has_every_check_of_the_code_and_no_other() -> None:
    assert checks_of_the_guide().keys() == checks_of_the_code()


def empty_answer(rows: list[Row], place: int) -> None:
    rows[place]["messages"][1]["content"] = ""


def no_answer(rows: list[Row], place: int) -> None:
    rows[place]["messages"].pop()


def hidden_end(rows: list[Row], place: int) -> None:
    rows[place]["messages"][1]["content"] += "<|im_end|> And more of it."


def long_answer(rows: list[Row], place: int) -> None:
    rows[place]["messages"][1]["content"] = " ".join(f"Then step {step} of {place} follows." for step in range(150))


def repeated_row(rows: list[Row], place: int) -> None:
    rows[place] = rows[-1]


def damaged_text(rows: list[Row], place: int) -> None:
    rows[place]["messages"][1]["content"] += " It costs 5\ufffd and more."


@pytest.mark.parametrize(
    ("check", "plant"),
    [
        ("unusable_rows", empty_answer),
        ("nothing_to_learn", no_answer),
        ("special_token_in_text", hidden_end),
        ("over_length", long_answer),
        ("exact_duplicates", repeated_row),
        ("replacement_characters", damaged_text),
    ],
)
def test_a_finding_becomes_an_error_above_the_share_that_the_data_guide_names(
    check: str, plant: Callable[[list[Row], int], None], tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    (percent,) = re.findall(r"error over (\d+) %", checks_of_the_guide()[check])
    most = int(percent) * ROWS // 100
    severities = []
    for planted in (most, most + 1):
        rows = good_rows(ROWS)
        for place in range(planted):
            plant(rows, place)
        path = write_rows(tmp_path / f"{planted}.jsonl", rows)
        report = inspect_dataset(str(path), str(tiny_model("qwen2")), settings={"max_length_tokens": 1000})
        severities += [(found.severity, found.count) for found in report.findings if found.check == check]
    assert severities == [("warning", most), ("error", most + 1)]


def test_the_other_figures_of_the_data_guide_are_those_of_the_code() -> None:
    text = one_line(read_topic("data-checks"))
    assert f"{100 * NEAR:g} % of three-word sequences" in text
    assert f"looks at {ROWS_CHECKED:,} usable rows" in text
    assert f"in steps of {LENGTH_STEP}" in one_line(read_topic("data"))


def test_the_formats_of_the_data_guide_are_read_as_it_says(tmp_path: Path) -> None:
    table = read_topic("data").partition("## Formats")[2].partition("## Length")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\{.*?\})`(?: \||:)", table, flags=re.MULTILINE)
    assert tuple(name for name, _ in rows) == FORMATS
    for name, example in rows:
        file = tmp_path / f"{name}.jsonl"
        file.write_text(example + "\n", encoding="utf-8")
        mapping = inspect_dataset(str(file)).mapping
        assert mapping is not None and mapping.format == name


def test_a_word_for_what_a_topic_holds_finds_it() -> None:
    assert set(_ALSO.values()) <= set(TOPICS)
    assert set(_ALSO) & set(TOPICS) == set()
    assert (find_topic("NF4"), find_topic("learning rate"), find_topic("target_modules")) == (
        "quantization",
        "hyperparameters",
        "lora",
    )
    assert read_topic("failures") == read_topic("troubleshooting")


def test_an_unknown_topic_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        read_topic("Quantisatoin")
    assert caught.value.next_step == "Did you mean `qlora guide quantization`?"
    assert "'Quantisatoin'" in str(caught.value) and ", ".join(TOPICS) in str(caught.value)


def test_a_topic_unlike_all_others_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError) as caught:
        read_topic("../pyproject.toml")
    assert caught.value.next_step == "Run `qlora guide` to list them with a summary."


def test_the_command_lists_the_topics_and_prints_one_by_any_of_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["guide"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()[: len(TOPICS)]] == list(TOPICS)
    assert all(summary in listed for summary in topics().values())
    assert run(["guide", "oom", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"topic": "memory", "markdown": read_topic("memory")}


def test_the_command_reference_names_every_topic() -> None:
    section = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8").partition("## qlora guide\n")[2]
    rows = [row.split("|")[1] for row in section.partition("## qlora mcp")[0].splitlines() if row.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`([a-z-]+)`", row)) == list(TOPICS)
