"""How long the rows of a dataset are, in tokens of the model where its tokenizer is at hand."""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..config.schema import DataConfig
from ..data.formats import Example, PlainText
from ..data.reading import read_examples
from ..data.rendering import Renderer
from ..data.rows import LengthLimit, tokenize_examples
from ..errors import MissingLibraryError, UsageError
from ..models.catalogue import CATALOGUE
from ..models.packaged import prepare_packaged_model
from ..models.reference import ModelReference
from ..paths import as_path

_MOST_ROWS = 2000
# English text has about 4.2 characters a token in the tokenizers of 2024; 3.5 leaves room for templates and other scripts.
_CHARACTERS_PER_TOKEN = 3.5
_LONGEST = 4_194_304
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# What Transformers raises for files that it cannot use.
_UNUSABLE = (OSError, ValueError, ImportError, KeyError, TypeError)


@dataclass(frozen=True)
class RowLengths:
    """Tokens of the rows that were looked at, ascending; `rows` counts all rows of the file, `how` says how it was done."""

    tokens: tuple[int, ...]
    rows: int
    how: Literal["tokenizer", "characters"]
    note: str

    @classmethod
    def of(cls, tokens: Sequence[int], *, note: str = "counted with the model's tokenizer") -> "RowLengths":
        """Lengths of a whole dataset that are known already. Raises `UsageError` where there are none."""
        if not tokens or min(tokens) < 1:
            raise UsageError("A plan needs at least one row with a token.", next_step="Give a dataset with rows.")
        return cls(tuple(sorted(tokens)), len(tokens), "tokenizer", note)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.tokens[-1]

    @cached_property
    def mean(self) -> float:
        """Mean tokens a row."""
        return sum(self.tokens) / len(self.tokens)

    def percentile(self, percent: int) -> int:
        """The smallest length that covers `percent` of the rows."""
        return self.tokens[max(0, math.ceil(percent / 100 * len(self.tokens)) - 1)]

    def share_over(self, length: int) -> float:
        """Share of the rows that are longer than `length` tokens."""
        return sum(tokens > length for tokens in self.tokens) / len(self.tokens)

    def rows_over(self, length: int) -> int:
        """How many rows of the file are longer than `length`; projected where only some were looked at."""
        return round(self.share_over(length) * self.rows)

    def padded(self, micro_batch_size: int, limit: int) -> float:
        """Mean tokens a row, padding included, when rows of like length lie together and none exceeds `limit`."""
        if (micro_batch_size, limit) not in self._padded:
            starts = range(0, len(self.tokens), micro_batch_size)
            batches = (self.tokens[start : start + micro_batch_size] for start in starts)
            padded = sum(len(batch) * min(batch[-1], limit) for batch in batches)
            self._padded[micro_batch_size, limit] = padded / len(self.tokens)
        return self._padded[micro_batch_size, limit]

    @cached_property
    def _padded(self) -> dict[tuple[int, int], float]:
        return {}


def read_lengths(data: DataConfig, reference: ModelReference) -> RowLengths:
    """Lengths of the rows of a dataset, rendered and tokenised as training does it; at most 2,000 of them, spread evenly.

    Without the model's tokenizer on this machine, characters / 3.5. Raises `DataError` as training would.
    """
    examples = read_examples(as_path(data.path), data.format).examples
    chosen = _spread(len(examples))
    sample = [examples[index] for index in chosen]
    looked = "" if len(chosen) == len(examples) else f", on {len(chosen):,} of {len(examples):,} rows spread evenly"
    tokenizer, why_not = _tokenizer(reference)
    if tokenizer is None:
        note = f"estimated as characters / {_CHARACTERS_PER_TOKEN}{looked}, since {why_not}"
        return RowLengths(tuple(sorted(map(_by_characters, sample))), len(examples), "characters", note)
    tokens = _tokenised(sample, tokenizer, [index + 1 for index in chosen])
    return RowLengths(tokens, len(examples), "tokenizer", f"counted with the model's tokenizer{looked}")


def _spread(rows: int) -> list[int]:
    return list(range(rows)) if rows <= _MOST_ROWS else [index * rows // _MOST_ROWS for index in range(_MOST_ROWS)]


def _tokenised(sample: Sequence[Example], tokenizer: Any, numbers: Sequence[int]) -> tuple[int, ...]:
    renderer = Renderer.for_examples(tokenizer, sample)
    # Which tokens are learnt changes no length, and telling answers apart would render every row several times.
    rows = tokenize_examples(
        sample, renderer, loss_on="all", limit=LengthLimit(_LONGEST, "cut"), row_numbers=numbers
    ).rows
    return tuple(sorted(len(row.input_ids) for row in rows))


def _by_characters(example: Example) -> int:
    texts = [example.text] if isinstance(example, PlainText) else [turn["content"] for turn in example.messages]
    return max(1, math.ceil(sum(map(len, texts)) / _CHARACTERS_PER_TOKEN))


def _tokenizer(reference: ModelReference) -> tuple[Any, str]:
    """The tokenizer of a model and nothing, or None and why there is none."""
    if importlib.util.find_spec("transformers") is None:
        return None, "transformers is not installed"
    directory = _tokenizer_directory(reference)
    if directory is None:
        return None, "the model's tokenizer is not on this machine"
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False, local_files_only=True)
    except _UNUSABLE:
        return None, "the model's tokenizer cannot be loaded"
    return (tokenizer, "") if tokenizer.is_fast else (None, "the model's tokenizer tells no places of tokens")


def _tokenizer_directory(reference: ModelReference) -> Path | None:
    """Where the tokenizer's files lie on this machine; nothing is fetched."""
    if reference.source == "local":
        directory = as_path(reference.name)
        directory = directory.parent if directory.name == "config.json" else directory
        return directory if any((directory / name).is_file() for name in _TOKENIZER_FILES) else None
    entry = CATALOGUE.get(reference.name)
    if entry is not None and entry.packaged:
        try:
            return prepare_packaged_model(entry)
        except MissingLibraryError:
            pass
    return _cached(entry.hub_id if entry else reference.name, reference.revision)


def _cached(hub_id: str, revision: str | None) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError:
        return None
    found = (try_to_load_from_cache(hub_id, name, revision=revision) for name in _TOKENIZER_FILES)
    return next((Path(path).parent for path in found if isinstance(path, str)), None)
