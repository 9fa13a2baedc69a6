"""Rows of Parquet and Arrow files, a thousand at a time, as plain values: dates and decimals become their text.

Columns of bytes (pictures, sound) are left out with a note, unless they hold text.
"""

import io
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any

from ...requirements import require_training_libraries
from .byte_streams import UnreadableError
from .text_rows import Row

BATCH_ROWS = 1000
# Compressed ones are unpacked into memory, since their table of contents stands at the end.
_LARGEST_UNPACKED_BYTES = 512 * 2**20


def typed_rows(stream: io.BufferedReader, kind: str, notes: list[str]) -> Iterator[Row]:
    """Rows of an open Parquet or Arrow file (IPC file or stream).

    Raises `UnreadableError` for damage, here or while reading, and `MissingLibraryError` without pyarrow.
    """
    require_training_libraries(f"reading {'a Parquet' if kind == '.parquet' else 'an Arrow'} file")
    import pyarrow

    file = stream if isinstance(stream.raw, io.FileIO) else _unpacked(stream)
    batches = _parquet_batches(file) if kind == ".parquet" else _arrow_batches(file)
    number = 0
    plain: PlainColumns | None = None
    try:
        for batch in batches:
            plain = plain or PlainColumns(batch, notes)
            for value, problem in plain.rows(batch):
                number += 1
                yield f"row {number}", value, problem
    except MemoryError:
        # Lengths that are damaged ask for more than any machine has.
        step = "Fetch the file again, or write it in smaller batches of rows."
        reason = "it is damaged, or one of its batches needs more memory than there is"
        raise UnreadableError(reason, next_step=step) from None
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        step = "Fetch or write the file again."
        raise UnreadableError(f"it is damaged or of another kind ({first_line(error)})", next_step=step) from None


def first_line(error: Exception) -> str:
    """What an error of a library says, on one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _unpacked(stream: io.BufferedReader) -> io.BufferedReader:
    data = stream.read(_LARGEST_UNPACKED_BYTES + 1)
    if len(data) > _LARGEST_UNPACKED_BYTES:
        raise UnreadableError(
            f"it is compressed from outside and unpacks to more than {_LARGEST_UNPACKED_BYTES // 2**20} MiB",
            next_step="Unpack it, and give the file inside; Parquet is compressed within.",
        )
    return io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]


def _parquet_batches(file: io.BufferedReader) -> Iterator[Any]:
    import pyarrow.parquet

    # With a buffer a column is read in pieces, however large its row groups are.
    reader = pyarrow.parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
    _check_names(reader.schema_arrow)
    yield from reader.iter_batches(batch_size=BATCH_ROWS)


def _arrow_batches(file: io.BufferedReader) -> Iterator[Any]:
    import pyarrow

    if file.peek(6).startswith(b"ARROW1"):
        reader = pyarrow.ipc.open_file(file)
        batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        batches = reader = pyarrow.ipc.open_stream(file)
    _check_names(reader.schema)
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            # Offsets of a damaged file may point anywhere; this costs little beside making Python values.
            part.validate(full=True)
            yield part


def _check_names(schema: Any) -> None:
    names = schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        what = f"it names the columns {', '.join(twice)} more than once" if twice else "it has no columns"
        raise UnreadableError(what, next_step="Write the file again with each column named once.")


class PlainColumns:
    """How the columns of a table become plain values: chosen once, from the types and the first batch."""

    def __init__(self, first: Any, notes: list[str]) -> None:
        self._bytes_as_text: set[str] = set()
        self._odd: set[str] = set()
        self._kept: list[str] = []
        dropped = []
        for field in first.schema:
            if not _holds(field.type, _is_bytes):
                self._kept.append(field.name)
                if _holds(field.type, _is_odd):
                    self._odd.add(field.name)
            elif _is_text(first.column(field.name)):
                self._kept.append(field.name)
                self._bytes_as_text.add(field.name)
            else:
                dropped.append(field.name)
        if dropped:
            notes.append(f"Left out, since they hold bytes (such as pictures or sound): {', '.join(dropped)}.")

    def rows(self, batch: Any) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
        """Each row of a batch, or why it cannot be read."""
        batch = _without_nanoseconds(batch.select(self._kept))
        for value, problem in _values(batch):
            if value is None or not (self._odd or self._bytes_as_text):
                yield value, problem
                continue
            try:
                yield {name: self._plain(name, item) for name, item in value.items()}, None
            except UnicodeDecodeError:
                yield None, "is not UTF-8 text"

    def _plain(self, name: str, value: Any) -> Any:
        if name in self._bytes_as_text:
            return None if value is None else value.decode()
        return _plain_value(value) if name in self._odd else value


def _values(batch: Any) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
    unreadable = _unreadable()
    try:
        rows = batch.to_pylist(maps_as_pydicts="strict")
    except unreadable:
        rows = None
    if rows is not None:
        yield from ((row, None) for row in rows)
        return
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist(maps_as_pydicts="strict")[0], None
        except unreadable as error:
            text = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"has no plain value ({error})"
            yield None, text


def _unreadable() -> tuple[type[Exception], ...]:
    import pyarrow

    return ValueError, OverflowError, KeyError, pyarrow.ArrowException


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _is_odd(kind: Any) -> bool:
    """Whether values of a type are no values of JSON."""
    from pyarrow import types

    return bool(types.is_temporal(kind) or types.is_decimal(kind) or types.is_float16(kind))


def _holds(kind: Any, wanted: Any) -> bool:
    """Whether a type or a type within it is a wanted one."""
    import pyarrow
    from pyarrow import types

    if isinstance(kind, pyarrow.BaseExtensionType):
        return _holds(kind.storage_type, wanted)
    if types.is_dictionary(kind):
        return _holds(kind.value_type, wanted)
    if types.is_nested(kind):
        return any(_holds(kind.field(index).type, wanted) for index in range(kind.num_fields))
    return bool(wanted(kind))


def _is_text(column: Any) -> bool:
    """Whether bytes are text, as some programs write it."""
    import pyarrow

    try:
        column.cast(pyarrow.string())
    except pyarrow.ArrowException:
        return False
    return not pyarrow.types.is_nested(column.type)


def _without_nanoseconds(batch: Any) -> Any:
    """Python's dates end at microseconds."""
    import pyarrow
    from pyarrow import types

    for index, field in enumerate(batch.schema):
        kind = field.type
        coarser = None
        if types.is_timestamp(kind) and kind.unit == "ns":
            coarser = pyarrow.timestamp("us", kind.tz)
        elif types.is_duration(kind) and kind.unit == "ns":
            coarser = pyarrow.duration("us")
        if coarser is not None:
            batch = batch.set_column(index, field.name, batch.column(index).cast(coarser, safe=False))
    return batch


def _plain_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
