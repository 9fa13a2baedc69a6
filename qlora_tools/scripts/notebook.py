"""A rendered script as a Jupyter notebook: the same code in cells, its sections as headings.

The format is nbformat 4.5 (https://nbformat.readthedocs.io/en/latest/format_description.html), written here: it is JSON of
a dozen keys.
"""

import ast
import io
import json
import re
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_HEAD = re.compile(r"^# /// script\n(?P<lines>(?:#(?: .*)?\n)+)# ///\n", re.MULTILINE)
_SECTION = "# %% "


@dataclass(frozen=True)
class _Section:
    """The lines below one heading; the first section of a script has none."""

    title: str
    lines: tuple[str, ...]


def notebook_of(script_text: str) -> str:
    """The notebook of a script: JSON, of which the code cells without `%pip` are the script but for its head.

    The docstring and each `# %% Title` become headings, comments right under a title its text, and the dependencies of the
    head (PEP 723) a first cell that installs them. Ids of cells depend on the script alone.
    """
    title, text = _docstring(script_text)
    cells = [_markdown(f"# {title}\n\n{text}"), _code(f"%pip install --quiet {_requirements(script_text)}")]
    for section in _sections(script_text):
        words, code = _words_and_code(section)
        if section.title:
            cells.append(_markdown(f"## {section.title}\n\n{words}"))
        if code:
            cells.append(_code(code))
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place:02d}"
    return json.dumps(_document(cells), indent=1, ensure_ascii=False) + "\n"


def script_dependencies(script_text: str) -> list[str]:
    """The requirements that the head of a script names (PEP 723), in its order; none where it has no head."""
    head = _HEAD.search(script_text)
    if head is None:
        return []
    toml = "".join(line[2:] or "\n" for line in head["lines"].splitlines(keepends=True))
    dependencies: list[str] = tomllib.loads(toml)["dependencies"]
    return dependencies


def _requirements(script_text: str) -> str:
    """In double quotes: `%pip` hands its line to the shell of the system, and that of Windows knows no other."""
    return " ".join(f'"{dependency}"' for dependency in script_dependencies(script_text))


def _docstring(script_text: str) -> tuple[str, str]:
    """First line of the docstring without its full stop, and the paragraphs below it."""
    title, _, text = (ast.get_docstring(ast.parse(script_text)) or "Script").partition("\n")
    return title.rstrip("."), text.strip()


def _sections(script_text: str) -> Iterator[_Section]:
    """What follows the docstring, cut before each `# %% Title`."""
    lines = script_text.splitlines()
    start = ast.parse(script_text).body[0].end_lineno or 0
    marks = [line for line in _titles(script_text) if line > start]
    ends = [*marks, len(lines) + 1]
    yield _Section("", tuple(lines[start : ends[0] - 1]))
    for first, last in zip(marks, ends[1:], strict=True):
        yield _Section(lines[first - 1].removeprefix(_SECTION).strip(), tuple(lines[first : last - 1]))


def _titles(script_text: str) -> list[int]:
    """Numbers of the lines that are a title; one that only looks like it, within a string, is none."""
    tokens = tokenize.generate_tokens(io.StringIO(script_text).readline)
    return [
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and token.start[1] == 0 and token.string.startswith(_SECTION)
    ]


def _words_and_code(section: _Section) -> tuple[str, str]:
    """The comments right under a title, as text, and the code below them. Without a title all is code."""
    lines = list(section.lines)
    words: list[str] = []
    while section.title and lines and (not lines[0] or lines[0].startswith("#")):
        words.append(lines.pop(0).removeprefix("#").removeprefix(" "))
    return "\n".join(words), "\n".join(lines).strip("\n")


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip().splitlines(keepends=True)}


def _code(text: str) -> dict[str, Any]:
    source = text.splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source}


def _document(cells: list[dict[str, Any]]) -> dict[str, Any]:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
