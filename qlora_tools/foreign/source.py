"""From a file's text to a syntax tree: scripts, and notebooks with their cells put one after another.

Nothing is imported or run. What comes in is of unknown origin: sizes and nesting are bounded before anything looks at it.
"""

import ast
import json
import re
import warnings
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..untrusted import visible_text

# Notebooks carry their pictures with them. Of code people write a tenth of the second figure.
_MOST_CHARACTERS = 30_000_000
_MOST_CODE_CHARACTERS = 200_000
# Python itself stops at 100 levels of indentation and 200 of parentheses; long sums and chains of elif nest as well.
_MOST_LEVELS = 400
_NAME_CHARACTERS = 120

_LINE_END = re.compile("\r\n?")
# Lines that IPython reads before Python does: shell commands, magics, questions.
_MAGIC = re.compile(r"^(\s*)(?:[!%].*|[\w.]+\?{1,2}\s*|\?{1,2}[\w.]+\s*)$")
_ASSIGNED_MAGIC = re.compile(r"^(\s*[\w, ]+=)\s*[!%]\S")
# Cell magics under which there is Python; under all others there is another language, or a file.
_PYTHON_CELLS = ("capture", "time", "timeit", "prun")


@dataclass(frozen=True)
class ParsedSource:
    """Python text with its tree. `cells` holds the first line of each code cell of a notebook, `unread` the cells (from 1)
    that are no Python and stand as comments."""

    text: str
    tree: ast.Module
    cells: tuple[int, ...] = ()
    unread: tuple[int, ...] = ()


def parse_source(text: str, *, name: str) -> ParsedSource:
    """Raises `UsageError` for what is no Python and no notebook, what is too large, and what is nested too deeply."""
    if len(text) > _MOST_CHARACTERS:
        raise _refusal(name, f"has {len(text):,} characters; at most {_MOST_CHARACTERS:,} are read")
    plain = _LINE_END.sub("\n", text.removeprefix("\ufeff"))
    cells = _cells_of(plain, name)
    return _script(plain, name) if cells is None else _notebook(cells, name)


def _script(text: str, name: str) -> ParsedSource:
    _check_size(text, name)
    try:
        return ParsedSource(text, _parse(text, name))
    except SyntaxError as error:
        # A notebook saved as a script keeps its `!pip install` lines.
        without = _without_magics(text)
        if without == text:
            raise _no_python(error, name) from None
    try:
        return ParsedSource(without, _parse(without, name))
    except SyntaxError as error:
        raise _no_python(error, name) from None


def _notebook(cells: list[str], name: str) -> ParsedSource:
    _check_size("\n".join(cells), name)
    read, starts, unread, line = [], [], [], 1
    for number, cell in enumerate(cells, 1):
        code = _cell_code(cell, name)
        if code is None:
            unread.append(number)
            code = _commented(cell)
        starts.append(line)
        read.append(code)
        line += code.count("\n") + 1
    joined = "\n".join(read)
    try:
        return ParsedSource(joined, _parse(joined, name), tuple(starts), tuple(unread))
    except SyntaxError as error:
        raise _no_python(error, name) from None


def _cell_code(cell: str, name: str) -> str | None:
    first, _, _ = cell.lstrip().partition("\n")
    if first.startswith("%%") and first[2:].split(" ")[0].strip() not in _PYTHON_CELLS:
        return _commented(cell)
    for code in (cell, _without_magics(cell)):
        try:
            _parse(code, name)
        except SyntaxError:
            continue
        return code
    return None


def _without_magics(text: str) -> str:
    """The same number of lines, those for IPython turned into `pass` with a comment."""
    lines, goes_on = [], False
    for line in text.split("\n"):
        assigned = _ASSIGNED_MAGIC.match(line)
        magic = _MAGIC.match(line)
        if goes_on or magic:
            indent = magic[1] if magic and not goes_on else ""
            goes_on = line.endswith("\\")
            lines.append(f"{indent}pass  # {line.strip().rstrip(chr(92))}" if magic else f"# {line.rstrip(chr(92))}")
        else:
            lines.append(f"{assigned[1]} None" if assigned else line)
    return "\n".join(lines)


def _commented(cell: str) -> str:
    return "\n".join(f"# {line}" for line in cell.split("\n"))


def _cells_of(text: str, name: str) -> list[str] | None:
    """The code cells of a notebook; None where the text is no notebook."""
    if not name.lower().endswith(".ipynb") and text.lstrip()[:1] != "{":
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        if name.lower().endswith(".ipynb"):
            raise _refusal(name, "is no notebook: its text is no JSON") from None
        return None
    cells = _list_of_cells(document)
    if cells is None:
        raise _refusal(name, "is JSON without the `cells` of a notebook")
    return [_LINE_END.sub("\n", _cell_text(cell)) for cell in cells if _is_code(cell)]


def _list_of_cells(document: Any) -> list[Any] | None:
    if not isinstance(document, dict):
        return None
    cells = document.get("cells")
    if cells is None and isinstance(document.get("worksheets"), list):  # nbformat 3
        cells = [
            cell for sheet in document["worksheets"] if isinstance(sheet, dict) for cell in sheet.get("cells") or []
        ]
    return cells if isinstance(cells, list) else None


def _is_code(cell: Any) -> bool:
    return isinstance(cell, dict) and cell.get("cell_type") == "code"


def _cell_text(cell: dict[str, Any]) -> str:
    source = cell.get("source", cell.get("input", ""))
    return "".join(str(line) for line in source) if isinstance(source, list) else str(source)


def _parse(text: str, name: str) -> ast.Module:
    """The tree. Raises `SyntaxError` for what is no Python, `UsageError` for what no compiler would take either."""
    try:
        with warnings.catch_warnings():
            # Escapes that Python dislikes are no matter here, and must not reach the user's terminal.
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (RecursionError, MemoryError):
        raise _refusal(name, "is nested too deeply to be read") from None
    except UnicodeError:
        raise _refusal(name, "holds characters that no file can hold (lone surrogates)") from None
    except SyntaxError:
        raise
    except ValueError:  # Python 3.11 says so for NUL
        raise _refusal(name, "holds NUL characters: it is no text") from None
    _check_levels(tree, name)
    return tree


def _check_levels(tree: ast.Module, name: str) -> None:
    level: list[ast.AST] = [tree]
    for _ in range(_MOST_LEVELS):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise _refusal(name, f"is nested more than {_MOST_LEVELS} levels deep")


def _check_size(code: str, name: str) -> None:
    if len(code) > _MOST_CODE_CHARACTERS:
        raise _refusal(name, f"has {len(code):,} characters of code; at most {_MOST_CODE_CHARACTERS:,} are read")


def shown_name(name: str) -> str:
    """The name of a file, safe and short enough for a message."""
    return visible_text(name)[-_NAME_CHARACTERS:] or "script"


def _refusal(name: str, what: str) -> UsageError:
    return UsageError(f"{shown_name(name)} {what}.", next_step="Give a Python training script or a Jupyter notebook.")


def _no_python(error: SyntaxError, name: str) -> UsageError:
    where = f" at line {error.lineno}" if error.lineno else ""
    return UsageError(
        f"{shown_name(name)} is no Python{where}: {visible_text(error.msg)[:200]}.",
        next_step="Mend the syntax (python -m py_compile FILE shows it), or give a Python 3 script or a Jupyter notebook.",
    )
