"""A good dataset of varied English, made of the documentation of Python's own library: nothing repeats."""

import importlib
import inspect
from functools import cache
from typing import Any

_MODULES = (
    "argparse", "ast", "asyncio", "base64", "bisect", "calendar", "cmath", "codecs", "collections", "configparser",
    "contextlib", "copy", "csv", "datetime", "decimal", "difflib", "email.utils", "fnmatch", "fractions", "functools",
    "glob", "gzip", "hashlib", "heapq", "html", "inspect", "io", "itertools", "json", "logging", "math", "mimetypes",
    "operator", "os", "os.path", "pathlib", "platform", "pprint", "random", "re", "secrets", "shlex", "shutil", "signal",
    "socket", "sqlite3", "statistics", "string", "struct", "subprocess", "tarfile", "tempfile", "textwrap", "threading",
    "time", "tokenize", "traceback", "types", "unicodedata", "urllib.parse", "uuid", "warnings", "weakref", "zipfile",
)  # fmt: skip
_SHORTEST, _LONGEST = 80, 900
_MOST_SHARED = 0.4  # of its word triples with texts before it: twins such as math and cmath are left out


@cache
def _documented() -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    seen: set[tuple[str, ...]] = set()
    for module_name in _MODULES:
        module = importlib.import_module(module_name)
        for name, value in sorted(vars(module).items()):
            if name.startswith("_") or not callable(value):
                continue
            text = " ".join((inspect.getdoc(value) or "").split())
            words = text.lower().split()
            triples = set(zip(words, words[1:], words[2:], strict=False))
            if not _SHORTEST <= len(text) <= _LONGEST or not text.isascii() or "\\" in text:
                continue
            if len(triples & seen) <= _MOST_SHARED * len(triples):
                seen |= triples
                found[f"{module_name}.{name}"] = text if text.endswith((".", "!", ")")) else f"{text}."
    return tuple(found.items())


def good_rows(count: int) -> list[dict[str, Any]]:
    """`count` chats, each of its own: a question about a function and its documentation."""
    documented = _documented()
    assert len(documented) >= count
    step = len(documented) / count
    chosen = [documented[int(index * step)] for index in range(count)]
    return [
        {
            "messages": [
                {"role": "user", "content": f"What does {name} do in Python, and how is it called?"},
                {"role": "assistant", "content": text},
            ]
        }
        for name, text in chosen
    ]
