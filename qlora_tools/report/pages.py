"""Pages on disk: only a new file or an earlier page of the same command is written."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, Template

from ..disk import disk_errors
from ..errors import UsageError


def check_page(path: Path, sign: str) -> None:
    """Raise `UsageError` unless a page that holds `sign` may be written to `path`: a new file, or one with that sign."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"The page {path} does not end in .html.", next_step=f"Write for example {path.stem or 'report'}.html."
        )
    with disk_errors(path, left="nothing was written"):
        if not path.parent.is_dir():
            raise UsageError(f"There is no directory {path.parent}.", next_step=f"Make it first: mkdir {path.parent}")
        if path.exists() and not (path.is_file() and _has(path, sign)):
            raise UsageError(
                f"{path} is there already and is not a page of this command; it was left as it is.",
                next_step="Choose another name with -o.",
            )


def _has(path: Path, sign: str) -> bool:
    with path.open("rb") as file:
        return sign.encode() in file.read(500)


def page_template(name: str, **filters: Callable[..., Any]) -> Template:
    """The template of a page, in which every value is escaped and none may be missing."""
    source = (files("qlora_tools.templates") / name).read_text(encoding="utf-8")
    environment = Environment(
        loader=DictLoader({"page": source}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template("page")
