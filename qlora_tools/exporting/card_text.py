"""Untrusted text inside Markdown: shown as code, where nothing is markup, a link or HTML."""

import re
from collections.abc import Sequence

from ..hiding import hidden_secrets
from ..untrusted import visible_text
from .run_record import clean, clean_line

_NOT_PLAIN = re.compile(r"[^\w ,.:;%()/+-]")
_NOT_PROSE = re.compile(r"[<>\[\]|*_#~\\]|://|www[.]")


def code_span(text: object) -> str:
    """One line as a code span; the fence is longer than any run of backticks in it."""
    shown = clean(text) or " "
    fence = "`" * (_longest_run(shown) + 1)
    padding = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def table_cell(text: object) -> str:
    """A code span that does not end a cell: GFM splits rows at bars even inside of code."""
    return code_span(clean(text).replace("|", "\\|"))


def plain(text: object) -> str:
    """Letters, digits and harmless punctuation only, for words that are not code."""
    return _NOT_PLAIN.sub("", clean(text))


def prose(text: str) -> str:
    """A sentence of ours with names in it: what stands between backticks stays code, the rest loses its markup."""
    pieces = clean_line(text).split("`")
    whole = len(pieces) - (len(pieces) + 1) % 2  # without its partner the last backtick goes
    shown = [code_span(piece) if place % 2 else _NOT_PROSE.sub("", piece) for place, piece in enumerate(pieces[:whole])]
    return "".join([*shown, *(_NOT_PROSE.sub("", piece) for piece in pieces[whole:])])


def fenced(text: str, language: str) -> str:
    """A code block with `text` as it is, but for what steers a terminal, and secrets."""
    shown = hidden_secrets(visible_text(text))
    fence = "`" * max(3, _longest_run(shown) + 1)
    return f"{fence}{language}\n{shown}{'' if shown.endswith(chr(10)) else chr(10)}{fence}"


def interval(values: Sequence[float]) -> str:
    """A figure with the ends of its interval."""
    value, low, high = values
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
