"""The rows of an evaluation: those that the training held out, or others that are read as the training's were. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..config import RunConfig, load_config
from ..config.data_schema import DataConfig, RowsConfig
from ..data.dataset import DatasetRows, NamedRows, NumberedExamples, RowReader, evaluation_source, read_dataset
from ..data.examples import Conversation, Example, Message
from ..data.reading.sources import DataSource, is_on_hub
from ..data.rendering import LossOn
from ..data.rows import LengthLimit
from ..errors import DataError, QloraError, UsageError
from ..results import RowCounts, TrainResult
from ..run_output import CONFIG_FILE, RESULT_FILE

_NO_LIMIT = 8192  # tokens, for an adapter whose training is not known
_REASONS_SHOWN = 5


@dataclass(frozen=True)
class Run:
    """The training that an adapter came from, as far as its output directory tells."""

    directory: Path
    config: RunConfig
    evaluation_rows: RowCounts | None
    rows_read: int | None


@dataclass(frozen=True)
class EvaluationRow:
    """One row: its number in the file, what is asked, and the answer that the data has, where that is text."""

    number: int
    example: Example
    asked: tuple[Message, ...]
    reference: str | None


@dataclass(frozen=True)
class EvaluationRows:
    """Rows to evaluate on, how they are learnt, and the training rows to compare them with."""

    source: str
    held_out: bool
    rows: tuple[EvaluationRow, ...]
    read: int
    left_out: int
    unusable: tuple[tuple[int, str], ...]
    loss_on: LossOn
    limit: LengthLimit
    training: NumberedExamples | None
    no_training: str
    expected: RowCounts | None = None

    def fingerprint(self) -> str:
        """A hash of the rows with their numbers, and of how they are learnt."""
        text = repr((self.loss_on, self.limit, [(row.number, row.example) for row in self.rows]))
        return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def find_run(adapter: Path) -> Run | None:
    """The run whose output directory `adapter`, an adapter directory, lies in; None for adapters from elsewhere."""
    directory = adapter.parent
    if adapter.name != "adapter" or not (directory / CONFIG_FILE).is_file():
        return None
    counts = rows_read = None
    try:
        result = TrainResult.model_validate_json((directory / RESULT_FILE).read_text(encoding="utf-8"))
        counts = result.evaluation_rows
        rows_read = result.training_rows.read + (counts.read if counts else 0)
    except (OSError, ValueError):
        pass  # A run that was stopped has no result yet; its rows are then not compared.
    return Run(directory, load_config(directory / CONFIG_FILE), counts, rows_read)


def evaluation_rows(run: Run | None, data: str | None, max_rows: int) -> EvaluationRows:
    """At most `max_rows` rows, spread evenly, of `data`, or without it of those that the training of `run` held out.

    Raises `UsageError` where there are none, `DataError` where they cannot be read or are no longer those held out.
    """
    return _held_out(require_held_out(run), max_rows) if data is None else _of_data(run, data, max_rows)


def require_held_out(run: Run | None) -> Run:
    """The run, whose config holds rows out. Raises `UsageError` where nothing tells which rows were not trained on."""
    if run is None:
        raise UsageError(
            "The adapter lies in no output directory of a training run, so nothing tells which rows it has not seen.",
            next_step="Give rows to evaluate on: --data FILE.",
        )
    if evaluation_source(run.config.data) is None and run.config.data.evaluation_fraction == 0:
        raise UsageError(
            f"The training in {run.directory} held no rows out (data.evaluation_path, evaluation_split and "
            "evaluation_fraction are not set).",
            next_step="Give rows that it has not seen: --data FILE. Next time set data.evaluation_fraction: 0.05.",
        )
    return run


def require_readable(run: Run | None, data: str) -> None:
    """Raise `DataError` where `data` is no file of rows on this machine; what is on the Hub is not looked for."""
    if not is_on_hub(DataSource(data)):
        _reader(run, data)


def _held_out(run: Run, max_rows: int) -> EvaluationRows:
    config = run.config
    rows = read_dataset(config.data, config.training.seed)
    if rows.evaluation is None:
        raise UsageError(
            f"The training in {run.directory} had too few rows to hold one out.",
            next_step="Give rows that it has not seen: --data FILE.",
        )
    _require_unchanged(run, rows)
    everything = rows.evaluation.numbers
    chosen = _spread(len(everything), max_rows)
    named = evaluation_source(config.data)
    share = f"{100 * config.data.evaluation_fraction:g} % of {config.data.path}, held out by the training"
    return EvaluationRows(
        source=share if named is None else f"{named.source.path} ({named.source.split}), held out by the training",
        held_out=True,
        rows=tuple(_row(everything[place], rows.evaluation.examples[place]) for place in chosen),
        read=len(everything) + len(rows.evaluation_unusable),
        left_out=len(everything) - len(chosen),
        unusable=rows.evaluation_unusable,
        loss_on=config.data.loss_on,
        limit=_limit(config),
        training=rows.training,
        no_training="",
        expected=run.evaluation_rows if len(chosen) == len(everything) else None,
    )


def _require_unchanged(run: Run, rows: DatasetRows) -> None:
    """Which rows are held out follows from how many there are: in a changed file trained ones would be among them."""
    held = rows.evaluation.examples if rows.evaluation else ()
    now = len(rows.training.examples) + len(rows.unusable) + len(held) + len(rows.evaluation_unusable)
    if run.rows_read is not None and now != run.rows_read:
        raise _changed(run.config.data.path, f"{run.rows_read:,} rows were read then, {now:,} are there now")


def require_as_trained(rows: EvaluationRows, used: int, tokens: int, learnt_tokens: int) -> None:
    """Raise `DataError` unless the held-out rows have as many tokens as those of the training."""
    then = rows.expected
    if then is not None and (then.used, then.tokens, then.learnt_tokens) != (used, tokens, learnt_tokens):
        said = f"{then.used:,} rows of {then.tokens:,} tokens were held out then, {used:,} of {tokens:,} are found now"
        raise _changed(rows.source, said)


def _changed(source: str, how: str) -> DataError:
    return DataError(
        f"{source} has changed since the training ({how}), so the rows that it held out cannot be told any more.",
        next_step="Put the data of the training back, or give rows that it has not seen: --data FILE.",
    )


def _of_data(run: Run | None, data: str, max_rows: int) -> EvaluationRows:
    reader = _reader(run, data)
    usable: list[tuple[int, Example]] = []
    unusable: list[tuple[int, str]] = []
    for row in reader:
        if row.example is None:
            unusable.append((row.number, row.problem or ""))
        else:
            usable.append((row.number, row.example))
    if not usable:
        reasons = "".join(f"\n  - row {number}: {reason}" for number, reason in unusable[:_REASONS_SHOWN])
        raise DataError(f"No row of {data} can be used:{reasons}", next_step="`qlora data inspect` tells more.")
    training, why_not = _training_rows(run)
    chosen = _spread(len(usable), max_rows)
    return EvaluationRows(
        source=data,
        held_out=False,
        rows=tuple(_row(*usable[place]) for place in chosen),
        read=len(usable) + len(unusable),
        left_out=len(usable) - len(chosen),
        unusable=tuple(unusable),
        loss_on=run.config.data.loss_on if run else "completions",
        limit=_limit(run.config) if run else LengthLimit(_NO_LIMIT, "cut"),
        training=training,
        no_training=why_not,
    )


def _reader(run: Run | None, data: str) -> RowReader:
    """Read as the training's rows are; where they are called otherwise there, as their own names tell."""
    plain = RowsConfig(path=data)
    trained = RowsConfig(path=data, format=run.config.data.format, columns=run.config.data.columns) if run else plain
    try:
        return RowReader(_named(trained))
    except DataError:
        if trained == plain:
            raise
    return RowReader(_named(plain))


def _named(rows: RowsConfig) -> NamedRows:
    return NamedRows(DataSource(rows.path), rows.format, rows.columns, 1.0)


def _training_rows(run: Run | None) -> tuple[NumberedExamples | None, str]:
    """The rows that were trained on, or why they are not at hand: an evaluation goes on without them."""
    if run is None:
        return None, "what the adapter was trained on is not known"
    try:
        return read_dataset(_without_evaluation(run.config.data), run.config.training.seed).training, ""
    except QloraError as error:
        return None, f"the training data cannot be read: {error.message}"


def _without_evaluation(data: DataConfig) -> DataConfig:
    return data.model_copy(update={"evaluation_path": None, "evaluation_split": None})


def _limit(config: RunConfig) -> LengthLimit:
    return LengthLimit(config.training.max_length_tokens, config.data.long_rows)


def _spread(count: int, most: int) -> Sequence[int]:
    """Places of at most `most` of `count` rows, evenly spread."""
    return range(count) if count <= most else [index * count // most for index in range(most)]


def _row(number: int, example: Example) -> EvaluationRow:
    if not isinstance(example, Conversation) or example.messages[-1]["role"] != "assistant":
        return EvaluationRow(number, example, (), None)
    answer = example.messages[-1]
    is_text = bool(answer["content"].strip()) and not answer.get("tool_calls")
    asked = example.messages[:-1]
    return EvaluationRow(number, example, asked if is_text else (), answer["content"] if is_text and asked else None)
