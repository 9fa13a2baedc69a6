"""The table of faults in docs/reliability.md and the tests name each other, so that no promise stands there without proof."""

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
LEAST_ROWS = 30
KINDS = {"real", "made"}
_ROW = re.compile(r"^\| (F\d+) \| (.+) \| (.+) \| (\w+) \| `(\w+\.py)::(\w+)`((?:, `\w+`)*) \|$", re.MULTILINE)


@cache
def rows() -> list[tuple[str, str, str, str, str, str, str]]:
    return [match.groups() for match in _ROW.finditer(PAGE.read_text(encoding="utf-8"))]  # type: ignore[misc]


def named() -> list[tuple[str, str]]:
    """File and name of every test of the table."""
    return [(file, test) for *_, file, first, more in rows() for test in [first, *re.findall(r"`(\w+)`", more)]]


@cache
def names_of_tests(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def test_every_row_of_the_table_is_read_and_has_a_number_of_its_own() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| F")]
    assert len(lines) == len(rows()) >= LEAST_ROWS
    assert [row[0] for row in rows()] == [f"F{number:02d}" for number in range(1, len(rows()) + 1)]


def test_a_row_says_what_happens_what_holds_and_whether_it_is_real() -> None:
    for _, happens, holds, kind, *_ in rows():
        assert kind in KINDS
        assert min(len(happens), len(holds)) > 5


def test_the_tests_of_all_rows_exist() -> None:
    assert [(file, test) for file, test in named() if test not in names_of_tests(TESTS / file)] == []


def test_every_test_of_a_fault_is_in_the_table() -> None:
    written = {(path.name, test) for path in TESTS.glob("test_faults_*.py") for test in names_of_tests(path)}
    assert written - set(named()) == set()
