"""What an agent can do beside calling tools: read, write and copy files, and run `qlora` in the workspace."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml


class Hands:
    """An agent's own access to the disk; relative paths count from the workspace."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace

    def path(self, text: str) -> Path:
        """Where a path leads."""
        return self._workspace / text

    def read(self, file: str) -> str:
        """The text of a file."""
        return self.path(file).read_text(encoding="utf-8")

    def write(self, file: str, text: str) -> None:
        """Replace the text of a file."""
        self.path(file).write_text(text, encoding="utf-8")

    def read_config(self, file: str) -> dict[str, Any] | None:
        """A config file as a mapping; None where it is none."""
        try:
            found = yaml.safe_load(self.read(file))
        except (OSError, yaml.YAMLError):
            return None
        return found if isinstance(found, dict) else None

    def write_config(self, file: str, config: dict[str, Any]) -> None:
        """Write a mapping as a config file. JSON is YAML, and reads the same in both."""
        self.write(file, json.dumps(config, indent=1))

    def copy_in(self, path: str) -> str:
        """Copy a file from elsewhere into the workspace; returns its name there."""
        source = self.path(path)
        shutil.copyfile(source, self.path(source.name))
        return source.name

    def run(self, arguments: list[str]) -> None:
        """Run the `qlora` command; its exit code is not asked, the tools tell what came of it."""
        command = [sys.executable, "-m", "qlora_tools", *arguments]
        subprocess.run(command, cwd=self._workspace, capture_output=True, check=False)

    def keep_one_of_each(self, file: str) -> None:
        """Remove lines that repeat an earlier one."""
        lines = dict.fromkeys(self.read(file).splitlines())
        self.write(file, "".join(f"{line}\n" for line in lines))

    def insert(self, file: str, text: str, line: int) -> None:
        """Put `text` at the end of a line, counted from 1."""
        lines = self.read(file).splitlines()
        lines[line - 1] += text
        self.write(file, "\n".join(lines) + "\n")
