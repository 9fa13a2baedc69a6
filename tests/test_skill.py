"""The skill, the plugin and the registry's entry: valid, installable, and about the program that is here."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
import yaml
from mcp import Client
from qlora_tools.server import build_server
from qlora_tools.server.options import ServerOptions

from qlora_tools import __version__
from qlora_tools.access import Access
from qlora_tools.cli.main import qlora

from .node_tools import tools_or_skip

ROOT = Path(__file__).parent.parent
SKILL = (ROOT / "SKILL.md").read_text(encoding="utf-8")
MOST_TOKENS = 5_000
# Of this file o200k_base and cl100k_base make one token of 3.75 characters, Claude's published tokenizer one of 3.55.
CHARACTERS_A_TOKEN = 3.5
# What the schema of 2025-12-11 requires of an entry like ours.
ENTRY_SCHEMA = {
    "type": "object",
    "required": ["$schema", "name", "description", "version", "packages"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$", "minLength": 3, "maxLength": 200},
        "title": {"type": "string", "minLength": 1, "maxLength": 100},
        "description": {"type": "string", "minLength": 1, "maxLength": 100},
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "packages": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["registryType", "identifier", "version", "transport"],
                "properties": {
                    "registryType": {"const": "pypi"},
                    "runtimeHint": {"const": "uvx"},
                    "transport": {"type": "object", "required": ["type"], "properties": {"type": {"const": "stdio"}}},
                    "packageArguments": {
                        "type": "array",
                        "items": {
                            "anyOf": [
                                {"required": ["type", "value"], "properties": {"type": {"const": "positional"}}},
                                {"required": ["type", "name"], "properties": {"type": {"const": "named"}}},
                            ]
                        },
                    },
                    "environmentVariables": {"type": "array", "items": {"required": ["name"]}},
                },
            },
        },
    },
    "additionalProperties": {"type": "string"},
}


@cache
def document(name: str) -> Any:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def copy_of_the_skill(folder: Path) -> Path:
    target = folder / "qlora"
    target.mkdir()
    (target / "SKILL.md").write_text(SKILL, encoding="utf-8")
    return target


def test_the_official_validator_accepts_the_skill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from skills_ref.cli import main; main()", "validate"]
    folder = str(copy_of_the_skill(tmp_path))
    done = subprocess.run([*command, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_skill_is_short_enough_to_be_read_whole() -> None:
    assert len(SKILL.splitlines()) < 500
    assert len(SKILL) / CHARACTERS_A_TOKEN < MOST_TOKENS


def test_the_skill_needs_no_other_file_of_the_repository() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", SKILL)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    tops = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    named = set(re.findall(r"`(\w+)/[\w./-]+`", SKILL))
    assert named & tops == set()


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """Names of the server's tools, and addresses of its resources and their templates."""
    server = build_server(ServerOptions(Access(tmp_path_factory.mktemp("workspace"))))

    async def ask() -> tuple[set[str], set[str]]:
        async with Client(server) as client:
            tools = (await client.list_tools()).tools
            resources = (await client.list_resources()).resources
            templates = (await client.list_resource_templates()).resource_templates
        addresses = {str(item.uri) for item in resources} | {item.uri_template for item in templates}
        return {tool.name for tool in tools}, addresses

    return anyio.run(ask)


def test_the_skill_names_the_tools_and_resources_that_there_are(offered: tuple[set[str], set[str]]) -> None:
    tools, addresses = offered
    verbs = "|".join(sorted({tool.partition("_")[0] for tool in tools}))
    named = set(re.findall(rf"`((?:{verbs})_[a-z_]+)\b", SKILL))
    assert named == tools
    shapes = [re.sub(r"\\{\w+\\}", "[^/]+", re.escape(address)) for address in addresses]
    written = re.findall(r"qlora://[\w/{}-]+", SKILL)
    assert written
    assert [uri for uri in written if not any(re.fullmatch(shape, uri) for shape in shapes)] == []


def checkout(target: Path) -> Path:
    """What a clone of this checkout would hold: all but what git ignores and what tools leave behind."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()]
    hidden = [path.name for path in ROOT.glob(".*") if path.name not in (".claude-plugin", ".mcp.json", ".ci")]
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*ignored, *hidden))
    return target


def test_the_official_installer_finds_one_skill_and_installs_it_from_a_clone(tmp_path: Path) -> None:
    tools = tools_or_skip()
    clone, home = checkout(tmp_path / "clone"), tmp_path / "home"
    home.mkdir()
    for agents, place in ((("claude-code",), ".claude"), (("codex", "cursor"), ".agents")):
        options = ("--yes", "--copy", "--json", "--full-depth", "--agent", *agents)
        done = tools.run("skills", "add", str(clone), *options, home=home)
        assert done.returncode == 0, done.stdout + done.stderr
        (installed,) = json.loads(done.stdout)
        assert (installed["name"], installed["status"]) == ("qlora", "installed")
        arrived = Path(installed["path"])
        assert arrived == home / place / "skills" / "qlora"
        assert (arrived / "SKILL.md").read_text(encoding="utf-8") == SKILL


def test_a_repository_with_the_one_file_alone_installs_too(tmp_path: Path) -> None:
    tools = tools_or_skip()
    folder, home = copy_of_the_skill(tmp_path), tmp_path / "home"
    home.mkdir()
    done = tools.run("skills", "add", str(folder), "--yes", "--copy", "--json", "--agent", "claude-code", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    arrived = home / ".claude" / "skills" / "qlora"
    assert [path.name for path in arrived.iterdir()] == ["SKILL.md"]


def test_the_plugin_brings_the_one_skill_and_the_server() -> None:
    plugin = document(".claude-plugin/plugin.json")
    front = yaml.safe_load(SKILL.split("---\n")[1])
    assert plugin["name"] == front["name"] == "qlora"
    # The folder of the plugin is the folder of the skill; a second copy would be loaded as a second skill.
    assert plugin["skills"] == ["./"]
    assert not (ROOT / "skills").exists()
    assert plugin["version"] == __version__
    assert {key: plugin[key] for key in ("description", "license", "keywords")} == {
        key: project()[key] for key in ("description", "license", "keywords")
    }
    assert document(".mcp.json") == {"mcpServers": {"qlora": {"command": "qlora", "args": ["mcp"]}}}
    assert "qlora" in project()["scripts"]


def test_the_marketplace_of_the_repository_lists_the_plugin() -> None:
    marketplace = document(".claude-plugin/marketplace.json")
    assert marketplace["name"] == project()["name"]
    assert marketplace["owner"]["name"]
    (entry,) = marketplace["plugins"]
    assert (entry["name"], entry["source"]) == (document(".claude-plugin/plugin.json")["name"], "./")
    assert marketplace["description"] == entry["description"] == project()["description"]
    # One place says the version: Claude Code would take the entry's before the plugin's own.
    assert "version" not in entry


def test_the_entry_of_the_registry_is_valid_and_about_this_package() -> None:
    entry = document("server.json")
    jsonschema.validate(entry, ENTRY_SCHEMA)
    (package,) = entry["packages"]
    assert (package["identifier"], package["version"], entry["version"]) == (
        project()["name"],
        __version__,
        __version__,
    )
    # At most 100 characters are allowed there: the part before the colon.
    assert project()["description"].partition(":")[0] == entry["description"].removesuffix(".")


def test_what_the_registry_tells_clients_to_start_is_a_command_with_these_options() -> None:
    (package,) = document("server.json")["packages"]
    # `uvx NAME` runs the command that is called as the package.
    assert package["identifier"] in project()["scripts"]
    first, *others = package["packageArguments"]
    command = qlora.get_command(qlora.make_context("qlora", [first["value"]], resilient_parsing=True), first["value"])
    assert command is not None
    assert {argument["name"] for argument in others} <= {name for option in command.params for name in option.opts}


def test_the_readme_holds_the_mark_by_which_the_registry_knows_the_owner() -> None:
    assert f"mcp-name: {document('server.json')['name']}" in (ROOT / "README.md").read_text(encoding="utf-8")
