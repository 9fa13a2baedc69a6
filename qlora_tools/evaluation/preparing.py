"""All that is settled, and refused, before a model is loaded: rows in tokens, measures, room for answers, what is resumed."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Literal

from ..adapters.record import ADAPTER_WEIGHTS, AdapterRecord
from ..data.rows import EncodedRows, TokenRows, encode_examples, within_length
from .metrics import ChosenMetrics, choose_metrics
from .rows import EvaluationRow, EvaluationRows, require_as_trained

_LEAST_NEW_TOKENS, _MOST_NEW_TOKENS = 32, 1024


@dataclass(frozen=True)
class Prepared:
    """All that is settled before a model is loaded."""

    adapter: Path
    record: AdapterRecord
    tokens: TokenRows
    answered: tuple[EvaluationRow, ...]
    reference_tokens: dict[int, int]
    max_new_tokens: int
    chosen: ChosenMetrics
    settings: dict[str, Any]
    long_rows: tuple[int, ...]


def prepare(
    directory: Path,
    record: AdapterRecord,
    rows: EvaluationRows,
    metrics: tuple[Literal["auto"] | Sequence[str], str | None],
    max_new_tokens: int | None,
) -> Prepared:
    """Tokenise the rows as the training did, and choose measures (`metrics`: names or auto, and a file of one's own).

    Raises `DataError` where no row is left to measure or held-out rows are not those of the training, `UsageError` for
    measures that do not exist, `ModelError` for a tokenizer or a template that is not the one of the training.
    """
    encoded, tokenizer = _encoded(directory, record, rows)
    tokens = within_length(encoded, rows.limit)
    require_as_trained(rows, len(tokens.rows), tokens.tokens, sum(row.learnt_tokens for row in tokens.rows))
    used = {row.number for row in tokens.rows}
    answered = tuple(row for row in rows.rows if row.reference is not None and row.number in used)
    references = [row.reference or "" for row in answered]
    chosen = choose_metrics(metrics[0], references, metrics[1])
    counts = [len(ids) for ids in tokenizer(references, add_special_tokens=False)["input_ids"]] if references else []
    longest = max_new_tokens or _room_for(max(counts, default=0))
    return Prepared(
        adapter=directory,
        record=record,
        tokens=tokens,
        answered=answered if chosen.metrics else (),
        reference_tokens={row.number: count for row, count in zip(answered, counts, strict=True)},
        max_new_tokens=longest,
        chosen=chosen,
        settings=_settings(directory, record, rows, longest),
        long_rows=tuple(row.number for row in encoded.rows if len(row.input_ids) > rows.limit.max_length_tokens),
    )


def _encoded(directory: Path, record: AdapterRecord, rows: EvaluationRows) -> tuple[EncodedRows, Any]:
    """The rows in tokens, in the form that the adapter was trained in."""
    from ..engine.loading import load_tokenizer
    from ..generation.session import prompt_form

    tokenizer, renderer = prompt_form(directory, record, load_tokenizer(record.base()))
    examples, numbers = [row.example for row in rows.rows], [row.number for row in rows.rows]
    return encode_examples(examples, renderer, loss_on=rows.loss_on, row_numbers=numbers), tokenizer


def _room_for(longest: int) -> int:
    """Tokens for an answer as long as the longest reference, its end, and a quarter more."""
    return min(_MOST_NEW_TOKENS, max(_LEAST_NEW_TOKENS, longest + longest // 4 + 8))


def _settings(directory: Path, record: AdapterRecord, rows: EvaluationRows, max_new_tokens: int) -> dict[str, Any]:
    """What losses and answers depend on: an evaluation goes on only where all of it is the same."""
    with (directory / ADAPTER_WEIGHTS).open("rb") as file:
        weights = file_digest(file, "sha256").hexdigest()
    return {
        "adapter": weights,
        "adapter_record": sha256(record.model_dump_json().encode()).hexdigest(),
        "rows": rows.fingerprint(),
        "max_new_tokens": max_new_tokens,
    }
