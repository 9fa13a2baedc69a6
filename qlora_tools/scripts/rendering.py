"""Rendering one template of the fixed list: text, and for each range of its lines what it is there for.

Two things are handed to a template: `choices`, on which it may branch and which it cannot print, and literals, which it
prints and on which it cannot branch. A Python script is rendered a second time with other values of the same kinds, and
both must have the same syntax tree but for constants: whatever a value holds, it has not become code.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from .literals import WRITERS, Literal, Mark, Value

# Kind of script -> its template and the language that the template is in.
TEMPLATES: dict[str, tuple[str, str]] = {
    "train": ("train.py.j2", "python"),
    "inference": ("inference.py.j2", "python"),
    "merge": ("merge.py.j2", "python"),
    "evaluate": ("evaluate.py.j2", "python"),
    "accelerate": ("accelerate.yaml.j2", "yaml"),
    "fsdp": ("fsdp.yaml.j2", "yaml"),
    "slurm": ("slurm.sh.j2", "shell"),
    "skypilot": ("skypilot.yaml.j2", "yaml"),
    "dockerfile": ("Dockerfile.j2", "shell"),
}
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f" *{_OPEN}([^{_CLOSE}]*){_CLOSE}")
Choice = bool | int | str | None


@dataclass(frozen=True)
class LineRange:
    """Lines `first` to `last` of a script, from 1, and what they are there for: fields of a config, or topics."""

    first: int
    last: int
    about: tuple[str, ...]


@dataclass(frozen=True)
class Rendered:
    """A script, and what its lines are there for."""

    text: str
    ranges: tuple[LineRange, ...]


def render(kind: str, choices: Mapping[str, Choice], values: Mapping[str, Value]) -> Rendered:
    """Render the template of `kind`. Each name is a choice or a value, never both."""
    template, language = TEMPLATES[kind]
    assert choices.keys().isdisjoint(values)
    rendered = _separated(_text(template, language, choices, values))
    if language == "python":
        neutral = _separated(_text(template, language, choices, {name: _neutral(v) for name, v in values.items()}))
        _require_same_tree(rendered.text, neutral.text)
    return rendered


def _text(template: str, language: str, choices: Mapping[str, Choice], values: Mapping[str, Value]) -> str:
    literals = {name: Literal(value) for name, value in values.items()}
    return _environment(language).get_template(template).render(**choices, **literals)


@cache
def _environment(language: str) -> Environment:
    folder = files("qlora_tools.templates")
    sources = {
        entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name.endswith(".j2")
    }
    environment = Environment(
        loader=DictLoader(sources),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - no HTML: `finalize` writes every value by the rules of the language
        finalize=_writer(WRITERS[language]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals = {"of": _of, "begin": _begin, "end": Mark(f"{_OPEN}>{_CLOSE}")}
    return environment


def _writer(write: Callable[[Value], str]) -> Callable[[object], str]:
    def written(printed: object) -> str:
        if isinstance(printed, Mark):
            return printed.text
        if not isinstance(printed, Literal):
            raise TypeError(f"a template prints {printed!r}, which is no literal")
        return write(printed.value)

    return written


def _of(*about: str) -> Mark:
    """At the end of a line: what the line is there for."""
    return Mark(f"{_OPEN}={' '.join(about)}{_CLOSE}")


def _begin(*about: str) -> Mark:
    """On a line of its own: what the lines to the next `end` are there for."""
    return Mark(f"{_OPEN}<{' '.join(about)}{_CLOSE}")


def _separated(marked: str) -> Rendered:
    """The text without its marks, and the ranges that they name."""
    lines: list[str] = []
    about: list[tuple[str, ...]] = []
    regions: list[tuple[str, ...]] = []
    for line in marked.splitlines():
        marks = _MARK.findall(line)
        plain = _MARK.sub("", line)
        own: tuple[str, ...] = ()
        for mark in marks:
            own += _followed(mark, regions)
        if marks and not plain.strip() and not any(mark.startswith("=") for mark in marks):
            continue
        lines.append(plain.rstrip())
        about.append(tuple(dict.fromkeys([*own, *(name for region in reversed(regions) for name in region)])))
    assert not regions, "a region of a template is not ended"
    return Rendered("".join(f"{line}\n" for line in lines), tuple(_ranges(about, lines)))


def _followed(mark: str, regions: list[tuple[str, ...]]) -> tuple[str, ...]:
    sign, names = mark[0], tuple(mark[1:].split())
    if sign == "<":
        regions.append(names)
    elif sign == ">":
        regions.pop()
    return names if sign == "=" else ()


def _ranges(about: list[tuple[str, ...]], lines: list[str]) -> Iterator[LineRange]:
    """Neighbouring lines that are there for the same; blank ones at an end belong to no range."""
    first = 0
    for number in range(1, len(about) + 1):
        if number < len(about) and about[number] == about[first]:
            continue
        filled = [place for place in range(first, number) if lines[place]]
        if about[first] and filled:
            yield LineRange(filled[0] + 1, filled[-1] + 1, about[first])
        first = number


def _neutral(value: Value) -> Value:
    """Another value of the same kind that nobody chose."""
    if isinstance(value, list):
        return [_neutral(item) for item in value]
    if isinstance(value, dict):
        return {f"k{place}": _neutral(item) for place, item in enumerate(value.values())}
    if value is None or isinstance(value, bool):
        return value
    return "x" if isinstance(value, str) else type(value)(1)


def _require_same_tree(text: str, neutral: str) -> None:
    assert _shape(text) == _shape(neutral), "a value changed the syntax tree of a script"


def _shape(text: str) -> str:
    return ast.dump(_Blanked().visit(ast.parse(text)))


class _Blanked(ast.NodeTransformer):
    """Makes all constants equal. A negative number is one constant, as a positive one is."""

    def visit_Constant(self, node: ast.Constant) -> Any:
        return ast.Constant(value=0)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        negative = isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)
        return ast.Constant(value=0) if negative else self.generic_visit(node)
