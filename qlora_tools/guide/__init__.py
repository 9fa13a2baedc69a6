"""The reference texts that `qlora guide` shows, one Markdown file a topic in `topics/`."""

import difflib
from importlib.resources import files

from ..errors import UsageError

__all__ = ["find_topic", "read_topic", "topics"]

# Words that people ask for, each with the topic that holds it.
_ALSO = {
    **dict.fromkeys(("failures", "failure", "errors", "debugging", "nan"), "troubleshooting"),
    **dict.fromkeys(("quantisation", "nf4", "fp4", "int8", "double-quantization"), "quantization"),
    **dict.fromkeys(("optimisers", "optimizer", "optimiser", "paging", "paged", "adamw"), "optimizers"),
    **dict.fromkeys(("dtype", "bf16", "fp16", "bfloat16", "float16", "gpus", "cards"), "dtypes"),
    **dict.fromkeys(("vram", "oom", "gradient-checkpointing"), "memory"),
    **dict.fromkeys(("rank", "alpha", "target-modules", "dora", "rslora", "pissa", "loftq"), "lora"),
    **dict.fromkeys(("learning-rate", "batch-size", "epochs", "goals"), "hyperparameters"),
    **dict.fromkeys(("dataset", "datasets", "packing", "formats", "masks"), "data"),
    **dict.fromkeys(("checks", "secrets", "duplicates"), "data-checks"),
    **dict.fromkeys(("evaluate", "eval", "metrics"), "evaluation"),
    **dict.fromkeys(("merge", "parity"), "merging"),
    **dict.fromkeys(("ship", "export", "serving", "gguf", "ollama", "vllm"), "shipping"),
    **dict.fromkeys(("licence", "license", "licenses", "safety", "privacy"), "licences"),
}


def topics() -> dict[str, str]:
    """Name and one-line summary of every topic, in alphabetical order."""
    return {name: _summary(text) for name, text in sorted(_texts().items())}


def find_topic(name: str) -> str:
    """The topic that `name` means: its own name or a word for what it holds, whatever the case.

    Raises `UsageError` naming the nearest topics when there is none.
    """
    texts, word = _texts(), name.strip().lower().replace("_", "-").replace(" ", "-")
    found = _ALSO.get(word, word)
    if found not in texts:
        message = f"There is no guide topic {name!r}; the topics are {', '.join(sorted(texts))}."
        raise UsageError(message, next_step=_suggestion(word, texts))
    return found


def read_topic(name: str) -> str:
    """The Markdown text of the topic that `name` means. Raises `UsageError` as `find_topic` does."""
    return _texts()[find_topic(name)]


def _texts() -> dict[str, str]:
    folder = files(__name__) / "topics"
    pages = (page for page in folder.iterdir() if page.name.endswith(".md"))
    return {page.name.removesuffix(".md"): page.read_text(encoding="utf-8") for page in pages}


def _summary(text: str) -> str:
    filled = [line.strip() for line in text.splitlines() if line.strip()]
    return filled[1]


def _suggestion(word: str, texts: dict[str, str]) -> str:
    close = difflib.get_close_matches(word, sorted({*texts, *_ALSO}), n=3, cutoff=0.5)
    near = list(dict.fromkeys(_ALSO.get(name, name) for name in close))[:2]
    commands = " or ".join(f"`qlora guide {topic}`" for topic in near)
    return f"Did you mean {commands}?" if near else "Run `qlora guide` to list them with a summary."
