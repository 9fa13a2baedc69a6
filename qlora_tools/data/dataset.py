"""The rows that a config names: its sources one after the other, read whole for training or as a sample for checks.

Rows are numbered through all sources, from 1, broken ones too: row 1 of the second source follows the last of the first.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from random import Random

from ..config.data_schema import DataConfig, RowsConfig
from ..errors import DataError
from ..results import RowMapping
from .examples import Example, RowError, all_text
from .formats.detect import detect_mapping, to_example
from .order import split_for_evaluation
from .reading.sources import DataSource
from .reading.stream import RawRow, RowStream, open_rows

_SAMPLE_FOR_MAPPING = 200
# The text that a sample may hold: some hundred MB of Python objects.
_SAMPLE_CHARACTERS = 64_000_000
_REASONS_SHOWN = 5


@dataclass(frozen=True)
class NamedRows:
    """One source and how its rows are to be read; `weight` is how often each comes in an epoch."""

    source: DataSource
    row_format: str
    columns: Mapping[str, str]
    weight: float


def training_sources(data: DataConfig) -> tuple[NamedRows, ...]:
    """The sources of the training rows, in the order of the config."""
    return tuple(_named(part) for part in (data, *data.more_sources))


def evaluation_source(data: DataConfig) -> NamedRows | None:
    """The source of the held-out rows, where the config names one."""
    if data.evaluation_path is None and data.evaluation_split is None:
        return None
    path = data.evaluation_path or data.path
    split = data.evaluation_split or ("train" if data.evaluation_path else data.split)
    source = DataSource(path, data.source, split, data.subset)
    return NamedRows(source, data.format, data.columns, 1.0)


def _named(part: RowsConfig) -> NamedRows:
    return NamedRows(
        DataSource(part.path, part.source, part.split, part.subset), part.format, part.columns, part.weight
    )


@dataclass(frozen=True)
class ReadRow:
    """A row as it was read: the example, or why it cannot be used. `value` is the row itself, where it could be read."""

    number: int
    example: Example | None
    problem: str | None
    value: Mapping[str, object] | None = None


@dataclass
class RowReader:
    """Reads one source once, row by row, in bounded memory.

    `mapping` is settled from the first 200 readable rows when it is made; `DataError` where no format fits or nothing
    can be read.
    """

    named: NamedRows
    offset: int = 0
    stream: RowStream = field(init=False)
    mapping: RowMapping = field(init=False)
    first: Sequence[Mapping[str, object]] = field(init=False)

    def __post_init__(self) -> None:
        self.stream = open_rows(self.named.source)
        rows = iter(self.stream)
        first = _first_readable(rows)
        readable = [row.value for row in first if row.value is not None]
        if not readable:
            raise _nothing_readable(self.stream.name, first)
        self.first = readable
        self.mapping = detect_mapping(readable, row_format=self.named.row_format, columns=self.named.columns)
        self._rows = chain(first, rows)

    def __iter__(self) -> Iterator[ReadRow]:
        mapping, offset = self.mapping, self.offset
        for row in self._rows:
            number = offset + row.number
            if row.value is None:
                yield ReadRow(number, None, f"{row.place} {row.problem}")
                continue
            try:
                yield ReadRow(number, to_example(row.value, mapping), None, row.value)
            except RowError as error:
                yield ReadRow(number, None, str(error), row.value)


def _first_readable(rows: Iterator[RawRow]) -> list[RawRow]:
    first: list[RawRow] = []
    readable = 0
    for row in rows:
        first.append(row)
        readable += row.value is not None
        if readable == _SAMPLE_FOR_MAPPING:
            break
    return first


def _nothing_readable(name: str, rows: Sequence[RawRow]) -> DataError:
    if not rows:
        return DataError(f"The dataset {name} has no rows.", next_step="Give a dataset with at least one row.")
    reasons = "".join(f"\n  - {row.place}: {row.problem}" for row in islice(rows, _REASONS_SHOWN))
    return DataError(
        f"None of the {len(rows)} rows of {name} can be read:{reasons}",
        next_step="Mend the file; rows of JSON Lines are one JSON object each, in UTF-8.",
    )


class EvenSample:
    """At most `most` examples of a stream of unknown length, spread evenly over it, and the same every time.

    Every stride-th example is kept; when there are too many, every other one goes and the stride doubles.
    """

    def __init__(self, most: int) -> None:
        self.seen = 0
        self._most = most
        self._stride = 1
        self._characters = 0
        self._kept: list[tuple[int, Example]] = []

    def offer(self, number: int, example: Example) -> None:
        """See one more example."""
        if self.seen % self._stride == 0:
            self._kept.append((number, example))
            self._characters += len(all_text(example))
            if len(self._kept) > 2 * self._most or (self._characters > _SAMPLE_CHARACTERS and len(self._kept) > 1):
                self._kept = self._kept[::2]
                self._characters = sum(len(all_text(kept)) for _, kept in self._kept)
                self._stride *= 2
        self.seen += 1

    def rows(self) -> list[tuple[int, Example]]:
        """The examples with their numbers, in order."""
        if len(self._kept) <= self._most:
            return list(self._kept)
        return [self._kept[index * len(self._kept) // self._most] for index in range(self._most)]


@dataclass(frozen=True)
class SampledRows:
    """Examples spread evenly over the usable rows of a dataset."""

    examples: tuple[Example, ...]
    numbers: tuple[int, ...]
    usable: int


def sample_rows(sources: Sequence[NamedRows], most: int) -> SampledRows:
    """At most `most` examples of the sources. Raises `DataError` where none can be used."""
    sample = EvenSample(most)
    problems: list[tuple[int, str]] = []
    for row in _all_rows(sources):
        if row.example is not None:
            sample.offer(row.number, row.example)
        elif len(problems) < _REASONS_SHOWN:
            problems.append((row.number, row.problem or ""))
    rows = sample.rows()
    if not rows:
        raise _nothing_usable(sources, problems)
    return SampledRows(tuple(example for _, example in rows), tuple(number for number, _ in rows), sample.seen)


def _all_rows(
    sources: Sequence[NamedRows], on_source: Callable[[int], None] = lambda offset: None
) -> Iterator[ReadRow]:
    number = 0
    for named in sources:
        on_source(number)
        for row in RowReader(named, offset=number):
            last = row.number
            yield row
        number = last


def _nothing_usable(sources: Sequence[NamedRows], problems: Sequence[tuple[int, str]]) -> DataError:
    names = ", ".join(named.source.path for named in sources)
    reasons = "".join(f"\n  - row {number}: {reason}" for number, reason in problems)
    return DataError(
        f"No row of {names} can be used:{reasons}",
        next_step="Mend the rows, or set data.format and data.columns; `qlora data inspect` proposes them.",
    )


@dataclass(frozen=True)
class NumberedExamples:
    """Examples with their row numbers."""

    examples: tuple[Example, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class DatasetRows:
    """All rows that a config names. `starts` has the number of the row before each source's first."""

    training: NumberedExamples
    evaluation: NumberedExamples | None
    unusable: tuple[tuple[int, str], ...]
    evaluation_unusable: tuple[tuple[int, str], ...]
    starts: tuple[int, ...]
    weights: tuple[float, ...]

    def epoch(self, numbers: Sequence[int], seed: int) -> list[int]:
        """Places in `numbers` (rows of the training set) as often as their source's weight says."""
        if set(self.weights) == {1.0}:
            return list(range(len(numbers)))
        members: list[list[int]] = [[] for _ in self.starts]
        for place, number in enumerate(numbers):
            members[bisect_right(self.starts, number - 1) - 1].append(place)
        chosen: list[int] = []
        for index, (places, weight) in enumerate(zip(members, self.weights, strict=True)):
            part = Random(f"{seed}/{index}").sample(places, round(weight % 1 * len(places)))
            chosen += [*places * int(weight), *sorted(part)]
        return chosen


def read_dataset(data: DataConfig, seed: int) -> DatasetRows:
    """Every row of training and evaluation. Raises `DataError` where there is none to train on, or a source is unusable."""
    sources, starts = training_sources(data), list[int]()
    training, unusable = _read(sources, starts.append)
    kept, held = split_for_evaluation(len(training.examples), data.evaluation_fraction, seed)
    evaluation = _chosen(training, held) if held else None
    evaluation_unusable: tuple[tuple[int, str], ...] = ()
    if (source := evaluation_source(data)) is not None:
        evaluation, evaluation_unusable = _read((source,), lambda offset: None)
    return DatasetRows(
        training=_chosen(training, kept) if held else training,
        evaluation=evaluation,
        unusable=unusable,
        evaluation_unusable=evaluation_unusable,
        starts=tuple(starts),
        weights=tuple(named.weight for named in sources),
    )


def _read(
    sources: Sequence[NamedRows], on_source: Callable[[int], None]
) -> tuple[NumberedExamples, tuple[tuple[int, str], ...]]:
    examples: list[Example] = []
    numbers: list[int] = []
    unusable: list[tuple[int, str]] = []
    for row in _all_rows(sources, on_source):
        if row.example is None:
            unusable.append((row.number, row.problem or ""))
        else:
            examples.append(row.example)
            numbers.append(row.number)
    if not examples:
        raise _nothing_usable(sources, unusable[:_REASONS_SHOWN])
    return NumberedExamples(tuple(examples), tuple(numbers)), tuple(unusable)


def _chosen(rows: NumberedExamples, places: Sequence[int]) -> NumberedExamples:
    return NumberedExamples(
        tuple(rows.examples[place] for place in places), tuple(rows.numbers[place] for place in places)
    )
