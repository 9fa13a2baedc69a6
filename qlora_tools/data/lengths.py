"""How long the rows of a dataset are, in tokens of the model where its tokenizer is at hand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..config.data_schema import DataConfig
from ..errors import DataError, UsageError
from ..models.reference import ModelReference
from .dataset import sample_rows, training_sources
from .examples import Example, all_text
from .rendering import Renderer
from .rows import encode_examples
from .tokenizers import find_tokenizer

LENGTH_STEP = 64
# The longest row is covered whole where it is at most so much longer than the 99th percentile.
_CLOSE, _CLOSE_TOKENS = 1.25, 128
_MOST_ROWS = 2000
# English text has about 4.2 characters a token in the tokenizers of 2024; 3.5 leaves room for templates and other scripts.
CHARACTERS_PER_TOKEN = 3.5


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


def needed_length(lengths: RowLengths, model_limit: int | None) -> int:
    """What covers the 99th percentile, or every row where that is close; at most what the model was made for."""
    usual, longest = rounded_up(lengths.percentile(99)), rounded_up(lengths.longest)
    length = longest if longest <= max(_CLOSE * usual, usual + _CLOSE_TOKENS) else usual
    return min(length, model_limit or length)


def rounded_up(tokens: int) -> int:
    """The next multiple of 64."""
    return -(-tokens // LENGTH_STEP) * LENGTH_STEP


def read_lengths(data: DataConfig, reference: ModelReference) -> RowLengths:
    """Lengths of the rows of a dataset, rendered and tokenised as training does it; at most 2,000 of them, spread evenly.

    Without the model's tokenizer on this machine, characters / 3.5. Raises `DataError` where no row can be used.
    """
    sample = sample_rows(training_sources(data), _MOST_ROWS)
    looked = "" if len(sample.examples) == sample.usable else f", on {_share(len(sample.examples), sample.usable)}"
    tokenizer, why_not = find_tokenizer(reference)
    if tokenizer is None:
        note = f"estimated as characters / {CHARACTERS_PER_TOKEN}{looked}, since {why_not}"
        tokens = tuple(sorted(map(tokens_by_characters, sample.examples)))
        return RowLengths(tokens, sample.usable, "characters", note)
    tokens = _tokenised(sample.examples, tokenizer, sample.numbers)
    return RowLengths(tokens, sample.usable, "tokenizer", f"counted with the model's tokenizer{looked}")


def _share(looked_at: int, rows: int) -> str:
    return f"{looked_at:,} of {rows:,} rows spread evenly"


def _tokenised(sample: Sequence[Example], tokenizer: Any, numbers: Sequence[int]) -> tuple[int, ...]:
    # Which tokens are learnt changes no length, and telling answers apart would render every row several times.
    encoded = encode_examples(sample, Renderer.for_examples(tokenizer, sample), loss_on="all", row_numbers=numbers)
    if not encoded.rows:
        number, reason = encoded.unusable[0]
        raise DataError(f"No row can be rendered; row {number}: {reason}.", next_step="Run `qlora data inspect`.")
    return tuple(sorted(len(row.input_ids) for row in encoded.rows))


def tokens_by_characters(example: Example) -> int:
    """About how many tokens a row has, where no tokenizer is at hand."""
    return max(1, math.ceil(len(all_text(example)) / CHARACTERS_PER_TOKEN))
