"""The reference texts that `qlora guide` shows, one Markdown file a topic in `topics/`."""

import difflib
from importlib.resources import files

from ..errors import UsageError

__all__ = ["read_topic", "topics"]


def topics() -> dict[str, str]:
    """Name and one-line summary of every topic, in alphabetical order."""
    return {name: _summary(text) for name, text in sorted(_texts().items())}


def read_topic(name: str) -> str:
    """The Markdown text of one topic.

    Raises `UsageError` naming the nearest topics when there is no such topic.
    """
    texts = _texts()
    if name not in texts:
        message = f"There is no guide topic {name!r}; the topics are {', '.join(sorted(texts))}."
        raise UsageError(message, next_step=_suggestion(name, texts))
    return texts[name]


def _texts() -> dict[str, str]:
    folder = files(__name__) / "topics"
    pages = (page for page in folder.iterdir() if page.name.endswith(".md"))
    return {page.name.removesuffix(".md"): page.read_text(encoding="utf-8") for page in pages}


def _summary(text: str) -> str:
    filled = [line.strip() for line in text.splitlines() if line.strip()]
    return filled[1]


def _suggestion(name: str, texts: dict[str, str]) -> str:
    near = difflib.get_close_matches(name.lower(), sorted(texts), n=2, cutoff=0.5)
    commands = " or ".join(f"`qlora guide {topic}`" for topic in near)
    return f"Did you mean {commands}?" if near else "Run `qlora guide` to list them with a summary."
