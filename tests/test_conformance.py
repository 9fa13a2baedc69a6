"""The official programs against the real server: the conformance suite over HTTP, the inspector over stdio."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import node_tools
from .job_workspace import until
from .node_tools import PINS, PROGRAMS, NodeTools, tools_or_skip

BASELINE = PINS / "conformance-baseline.yml"
SECONDS = 60
# What the suite's own example server has and no other server needs.
FIXTURE = re.compile(r"test_\w+|test://[\w/-]+")
ENTRY = re.compile(r"  - (?P<scenario>[\w-]+):(?P<check>[\w-]+)  # (?P<fixture>\S+)")
# One server serves them all, and is started once only if one worker has them all.
pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def tools() -> NodeTools:
    return tools_or_skip()


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    workspace = tmp_path_factory.mktemp("workspace")
    return [sys.executable, "-m", "qlora_tools", "mcp", "--workspace", str(workspace)]


@pytest.fixture(scope="module")
def url(tools: NodeTools, command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server over HTTP that runs as long as this module's tests."""
    del tools  # without them this is skipped before a server starts
    told = tmp_path_factory.mktemp("server") / "told.txt"
    with told.open("w") as log:
        server = subprocess.Popen([*command, "--http", "--port", "0"], stdout=log, stderr=log)
        try:
            address = until(lambda: re.search(r"http://127\.0\.0\.1:\d+/mcp", told.read_text()), SECONDS)
            yield address[0]
        finally:
            server.terminate()
            server.wait(SECONDS)


def statuses(results: Path) -> dict[str, set[str]]:
    """How the checks of each scenario ended, from what the suite wrote."""
    scenario = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT")
    files = sorted(results.glob("*/checks.json"))
    names = [scenario.match(file.parent.name) for file in files]
    assert all(names)
    checks = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return {name[1]: {check["status"] for check in of_one} for name, of_one in zip(names, checks, strict=True) if name}


@pytest.mark.parametrize(("version", "scored"), [("2025-11-25", 30), ("2026-07-28", 37)])
def test_the_official_suite_finds_nothing_but_what_its_own_example_server_would_need(
    tools: NodeTools, url: str, tmp_path: Path, version: str, scored: int
) -> None:
    baseline = ("--expected-failures", str(BASELINE))
    where = ("server", "--url", url, "--requirements", version, "--output-dir", str(tmp_path / "results"))
    # One scenario calls the first tool with no arguments, which may be one that looks at the whole machine.
    where = (*where, "--timeout", "120000")
    done = tools.run("conformance", *where, *baseline, home=tmp_path)
    _, _, verdict = done.stdout.partition("=== SUMMARY ===")
    assert done.returncode == 0, verdict or done.stderr
    ended = statuses(tmp_path / "results")
    assert len(ended) >= scored
    # Not scored, because the suite's own example fails it.
    assert "FAILURE" not in ended.get("http-header-validation", set())


def test_the_baseline_holds_only_failures_for_want_of_the_fixtures_of_the_suite(tools: NodeTools) -> None:
    suite = (tools.modules / PROGRAMS["conformance"]).read_text(encoding="utf-8")
    parts = re.split(r"this\.name=`([\w-]+)`", suite)
    code = dict(zip(parts[1::2], parts[2::2], strict=True))
    text = BASELINE.read_text(encoding="utf-8")
    entries = list(ENTRY.finditer(text))
    assert [f"{entry['scenario']}:{entry['check']}" for entry in entries] == yaml.safe_load(text)["server"]
    assert [entry["fixture"] for entry in entries if not FIXTURE.fullmatch(entry["fixture"])] == []
    assert [entry[0] for entry in entries if entry["fixture"] not in code[entry["scenario"]]] == []


@pytest.fixture
def inspect(tools: NodeTools, command: list[str], tmp_path: Path) -> Any:
    """Calls one method through the inspector over stdio and gives its result."""

    def inspected(method: str, *options: str) -> Any:
        arguments = ("--cli", "--method", method, *options, "--format", "json", "--", *command)
        done = tools.run("inspector", *arguments, home=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["result"]

    return inspected


def test_the_inspector_finds_no_fault_in_the_schemas_of_the_tools(inspect: Any) -> None:
    listed = inspect("tools/list", "--strict")
    assert {"check_environment", "create_config", "start_training"} <= {tool["name"] for tool in listed["tools"]}


def test_the_inspector_calls_a_tool(inspect: Any) -> None:
    answer = inspect("tools/call", "--tool-name", "list_jobs")
    assert answer["isError"] is False
    assert answer["structuredContent"]["total"] == 0


@pytest.mark.slow
def test_the_inspector_lists_resources_and_reads_one(inspect: Any) -> None:
    listed = {resource["uri"] for resource in inspect("resources/list")["resources"]}
    assert "qlora://guide/memory" in listed
    (content,) = inspect("resources/read", "--uri", "qlora://guide/memory")["contents"]
    assert content["mimeType"] == "text/markdown"
    assert content["text"].startswith("# Memory")


@pytest.mark.slow
def test_the_inspector_lists_prompts_and_gets_one(inspect: Any) -> None:
    (prompt,) = (item for item in inspect("prompts/list")["prompts"] if item["name"] == "debug_this_error")
    assert [argument["name"] for argument in prompt["arguments"] if argument["required"]] == ["error"]
    got = inspect("prompts/get", "--prompt-name", "debug_this_error", "--prompt-args", "error=CUDA out of memory")
    assert "CUDA out of memory" in got["messages"][0]["content"]["text"]


def test_the_pins_are_versions_with_checksums_and_name_no_registry() -> None:
    wanted = json.loads((PINS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    locked = json.loads((PINS / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    packages = {name: package for name, package in locked.items() if name}
    assert [name for name, package in packages.items() if "integrity" not in package or "resolved" in package] == []


def test_without_a_node_that_is_new_enough_the_summary_says_what_was_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_tools, "OLDEST_NODE", (99, 0))
    told = "PROGRAMS NOT RUN: Node 99.0 or newer is needed"
    with pytest.warns(UserWarning, match=told), pytest.raises(pytest.skip.Exception, match=told):
        tools_or_skip()
