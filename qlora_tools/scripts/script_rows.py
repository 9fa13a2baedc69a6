"""How a training script comes by its rows: by plain reading, where that gives what training reads, else from rows in tokens.

Most files need ten lines of reading and a dozen of masking, which a person can read and change. Where a file or a chat
template takes more than that, the script would be longer than it is worth, or train on something else than
`qlora train` does: then the rows are handed over in tokens, in a file beside the script.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config.data_schema import DataConfig
from ..config.schema import RunConfig
from ..data.dataset import DatasetRows, NumberedExamples, RowReader, read_dataset, training_sources
from ..data.examples import Conversation
from ..data.formats.names import SLOTS
from ..data.reading.sources import DataSource, is_on_hub
from ..data.rendering import Renderer
from ..data.rows import LengthLimit, TokenRow, tokenize_examples
from ..data.tokenizers import find_tokenizer
from ..errors import DataError, MachineError, UsageError
from ..models.reference import ModelReference
from ..paths import as_path
from .inputs import without_tilde
from .literals import Value
from .rendering import Choice

_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_PLAIN_FORMATS = ("messages", "sharegpt", "alpaca", "question_answer", "prompt_completion", "text")
_OPTIONAL = ("system", "input", "context")
# Rows are not there (yet), the Hub cannot be reached, or a library that reads them is missing.
_NOT_TO_BE_HAD = (DataError, MachineError)
_NOT_READ = "what the rows give in tokens was not compared with training, since "


@dataclass(frozen=True)
class ScriptRows:
    """What the template is told about rows, and the rows in tokens that go into files beside the script, by file name."""

    choices: dict[str, Choice]
    values: dict[str, Value]
    notes: tuple[str, ...] = ()
    files: Mapping[str, tuple[TokenRow, ...]] = field(default_factory=dict)


class NotPlainError(Exception):
    """Plain reading does not give what training reads; the text says why."""


@dataclass(frozen=True)
class RowsAtHand:
    """The rows of a config and the tokenizer of its model, as training has them."""

    rows: DatasetRows
    renderer: Renderer

    @classmethod
    def find(cls, config: RunConfig) -> "RowsAtHand | str":
        """The rows, or why they are not to be had on this machine."""
        model = config.model
        reference = ModelReference.parse(model.name, source=model.source, revision=model.revision)
        tokenizer, why_not = find_tokenizer(reference)
        if tokenizer is None:
            return why_not
        try:
            rows = read_dataset(config.data, config.training.seed)
        except _NOT_TO_BE_HAD as error:
            return error.message
        return cls(rows, Renderer.for_examples(tokenizer, rows.training.examples))

    def tokens(self, examples: NumberedExamples, config: RunConfig) -> tuple[TokenRow, ...]:
        """The rows as training has them. Raises `DataError` where none is left."""
        limit = LengthLimit(config.training.max_length_tokens, config.data.long_rows)
        found = tokenize_examples(
            examples.examples,
            self.renderer,
            loss_on=config.data.loss_on,
            limit=limit,
            row_numbers=examples.numbers,
        )
        return found.rows


def plain_rows(config: RunConfig, here: RowsAtHand | str) -> ScriptRows:
    """Rows by plain reading. Raises `NotPlainError` where that cannot be right, `DataError` where no format is known."""
    data = config.data
    if data.more_sources or data.weight != 1:
        raise NotPlainError("several sources are mixed by weight")
    kind = _plain_kind(data)
    row_format, columns = _mapping(data)
    if row_format not in _PLAIN_FORMATS:
        raise NotPlainError(f"rows of the format {row_format} need more than plain reading")
    return ScriptRows(
        choices={
            "file_kind": kind,
            "row_format": row_format,
            "has_subset": data.subset is not None,
            "loss_on": data.loss_on,
            "long_rows": data.long_rows,
            "evaluation": _evaluation(data),
            **{f"has_{name}": name in columns for name in _OPTIONAL},
            **_form(config, row_format, here),
        },
        values={**_data_values(data), **_column_values(row_format, columns), "chat_template": _template(here)},
        notes=(_NOT_READ + here,) if isinstance(here, str) else (),
    )


def prepared_rows(config: RunConfig, here: RowsAtHand | str, *, stem: str, reason: str) -> ScriptRows:
    """Rows in tokens, in files called after the script. Raises `UsageError` where they are not to be had here."""
    if isinstance(here, str):
        raise UsageError(
            f"This script needs its rows in tokens ({reason}), and they cannot be made here: {here}.",
            next_step="Run it where the model and the rows are, or bring the rows into one file of messages.",
        )
    training = here.tokens(here.rows.training, config)
    epoch = here.rows.epoch([row.number for row in training], config.training.seed)
    files = {f"{stem}.rows.jsonl": tuple(training[place] for place in epoch)}
    if here.rows.evaluation is not None:
        files[f"{stem}.evaluation-rows.jsonl"] = here.tokens(here.rows.evaluation, config)
    choices: dict[str, Choice] = {
        "form": "tokens",
        "file_kind": "tokens",
        "evaluation": "none" if here.rows.evaluation is None else "file",
        "installs_template": _installs_template(config, here),
        "long_rows": config.data.long_rows,
    }
    names = [*files, ""]
    values: dict[str, Value] = {
        "rows_file": names[0],
        "evaluation_rows_file": names[1],
        "chat_template": _template(here),
    }
    return ScriptRows(choices, values, (f"The rows go with the script, in tokens: {reason}.",), files)


def _plain_kind(data: DataConfig) -> str:
    """The kind of file; the held-out rows must come from one of the same kind, or there would be two ways of reading."""
    kind = _kind(DataSource(data.path, data.source))
    if data.evaluation_path is not None and _kind(DataSource(data.evaluation_path, data.source)) != kind:
        raise NotPlainError("training and held-out rows lie in files of different kinds")
    if data.evaluation_split is not None and (kind != "hub" or data.evaluation_path is not None):
        raise NotPlainError("splits of local data need more than plain reading")
    return kind


def _kind(source: DataSource) -> str:
    if is_on_hub(source):
        return "hub"
    path = as_path(source.path)
    kind = _KINDS.get(path.suffix.lower())
    if kind is None or path.is_dir():
        raise NotPlainError(f"rows of this kind ({path.suffix or 'a directory'}) need more than plain reading")
    return kind


def _mapping(data: DataConfig) -> tuple[str, Mapping[str, str]]:
    """Format and columns: as the rows tell them, else as the config does."""
    try:
        found = RowReader(training_sources(data)[0]).mapping
    except _NOT_TO_BE_HAD:
        if data.format == "auto":
            raise
        required = {slot.name: slot.aliases[0] for slot in SLOTS.get(data.format, ()) if slot.required}
        return data.format, {**required, **data.columns}
    return found.format, found.columns


def _evaluation(data: DataConfig) -> str:
    if data.evaluation_path is not None:
        return "file"
    if data.evaluation_split is not None:
        return "split"
    return "fraction" if data.evaluation_fraction else "none"


def _form(config: RunConfig, row_format: str, here: RowsAtHand | str) -> dict[str, Choice]:
    """How rows become text: as a chat, a pair joined as it is, or a text; and what the chat template lacks."""
    if row_format == "text":
        return {"form": "text", "installs_template": False, "folds_system": False, "adds_eos": True}
    if isinstance(here, str):
        return {"form": "chat", "installs_template": False, "folds_system": False, "adds_eos": False}
    if here.renderer.style == "verbatim":
        return {"form": "pair", "installs_template": False, "folds_system": False, "adds_eos": True}
    return {
        "form": "chat",
        "installs_template": _installs_template(config, here),
        "folds_system": _has_system_turns(here) and not here.renderer.template.abilities.system,
        "adds_eos": _adds_eos(config, here),
    }


def _installs_template(config: RunConfig, here: RowsAtHand) -> bool:
    """Whether the base has no chat template, so that ours was given to its tokenizer."""
    model = config.model
    reference = ModelReference.parse(model.name, source=model.source, revision=model.revision)
    untouched, _ = find_tokenizer(reference)
    return here.renderer.style == "chat_template" and not untouched.chat_template


def _has_system_turns(here: RowsAtHand) -> bool:
    return any(
        turn["role"] == "system"
        for example in here.rows.training.examples
        if isinstance(example, Conversation)
        for turn in example.messages
    )


def _adds_eos(config: RunConfig, here: RowsAtHand) -> bool:
    """Whether EOS has to be added behind an answer, since the template writes nothing that stops generation."""
    first = here.rows.training
    chosen = NumberedExamples(first.examples[:1], first.numbers[:1])
    longest = LengthLimit(2**30, "cut")
    row = tokenize_examples(chosen.examples, here.renderer, loss_on=config.data.loss_on, limit=longest).rows[0]
    text = here.renderer.training_text(first.examples[0], config.data.loss_on).text
    written = here.renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
    return len(row.input_ids) == len(written) + 1


def _template(here: RowsAtHand | str) -> list[Value]:
    """The chat template in pieces of a line each."""
    template = None if isinstance(here, str) else here.renderer.tokenizer.chat_template
    return re.findall(r".+?(?:%}|}}|\Z)", template, re.DOTALL) if isinstance(template, str) else []


def _data_values(data: DataConfig) -> dict[str, Value]:
    return {
        "data": without_tilde(data.path),
        "split": data.split,
        "subset": data.subset,
        "evaluation_data": without_tilde(data.evaluation_path or ""),
        "evaluation_split": data.evaluation_split,
        "evaluation_fraction": data.evaluation_fraction,
    }


def _column_values(row_format: str, columns: Mapping[str, str]) -> dict[str, Value]:
    named = {f"{slot.name}_column": columns.get(slot.name) for slot in SLOTS[row_format]}
    if any(path is not None and "." in path for path in named.values()):
        raise NotPlainError("columns lie within other columns")
    return dict(named)
