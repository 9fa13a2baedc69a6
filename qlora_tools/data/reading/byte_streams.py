"""The bytes of a data file: decompressed whatever the suffix says, with damage in words, and counted for a progress bar.

Everything is streamed; nothing is written to disk.
"""

import bz2
import codecs
import gzip
import importlib.util
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from ...errors import MissingLibraryError

HEAD_BYTES = 4096
_BUFFER_BYTES = 2**20
# Small, since a few bytes of zstd can unpack to 128 KiB each.
_ZSTD_PIECE_BYTES = 1024
_UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


# How notes begin that say that a file has more rows than could be read.
ROWS_MISSING = "Rows are missing: "


class DamagedStreamError(Exception):
    """The bytes end or break off where they should go on."""


class UnreadableError(Exception):
    """Why a file as a whole cannot be read, and what to do about it; whoever knows its name makes a `DataError` of it."""

    def __init__(self, reason: str, *, next_step: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.next_step = next_step


class ByteCount:
    """How many bytes of the files on disk were read; what is read twice does not count twice."""

    def __init__(self) -> None:
        self._finished = 0
        self._current = 0
        self._limit = 0

    @property
    def done(self) -> int:
        """Bytes of the finished files, and of the one that is being read."""
        return self._finished + min(self._current, self._limit)

    def start(self, size: int) -> None:
        """Begin a file of `size` bytes."""
        self._current, self._limit = 0, size

    def add(self, size: int) -> None:
        """Count `size` bytes of this file."""
        self._current += size

    def reach(self, size: int) -> None:
        """Say that `size` bytes of this file are read."""
        self._current = size

    def finish(self) -> None:
        """Count the file as read whole."""
        self._finished, self._current, self._limit = self._finished + self._limit, 0, 0


class _Source(Protocol):
    def read1(self, size: int, /) -> bytes: ...


class _Counted(io.FileIO):
    def __init__(self, path: Path, count: ByteCount) -> None:
        super().__init__(path)
        self._count = count

    def readinto(self, buffer: Any, /) -> int:
        size = super().readinto(buffer) or 0
        self._count.add(size)
        return size


class _Guarded(io.RawIOBase):
    """Bytes of a decompressor, whose many errors become one."""

    def __init__(self, source: _Source, damage: tuple[type[Exception], ...]) -> None:
        super().__init__()
        self._source = source
        self._damage = damage

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            # One piece at a time: what was unpacked before the damage is handed on.
            data = self._source.read1(len(buffer))
        except self._damage as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DamagedStreamError(str(error) or type(error).__name__) from None
        buffer[: len(data)] = data
        return len(data)


class _FromUtf16(io.RawIOBase):
    """UTF-16 text as UTF-8; half characters become bytes that are no UTF-8, so that their row is refused."""

    def __init__(self, source: _Source) -> None:
        super().__init__()
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")
        self._waiting = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = b"end"
        while data and not self._waiting:
            data = self._source.read1(_BUFFER_BYTES)
            try:
                self._waiting = self._decoder.decode(data, final=not data).encode("utf-8", "surrogatepass")
            except UnicodeDecodeError:
                raise DamagedStreamError("it ends in the middle of a UTF-16 character") from None
        size = min(len(buffer), len(self._waiting))
        buffer[:size], self._waiting = self._waiting[:size], self._waiting[size:]
        return size


class _ZstandardPackage:
    """zstd frames through the `zstandard` package, whose own reader does not notice that a file was cut off."""

    def __init__(self, file: _Source, new_frame: Callable[[], Any]) -> None:
        self._file = file
        self._new_frame = new_frame
        self._waiting = b""
        self._frame: Any = None

    def read1(self, _size: int, /) -> bytes:
        while True:
            piece = self._waiting or self._file.read1(_ZSTD_PIECE_BYTES)
            if not piece and self._frame is not None:
                raise EOFError("the compressed file ends before its end-of-stream marker")
            if not piece:
                return b""
            self._frame = self._frame or self._new_frame()
            data: bytes = self._frame.decompress(piece)
            self._waiting = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame
            if data:
                return data


def _gzip(file: Any) -> io.RawIOBase:
    return _Guarded(gzip.GzipFile(fileobj=file), (EOFError, OSError, zlib.error))


def _bz2(file: Any) -> io.RawIOBase:
    return _Guarded(bz2.BZ2File(file), (EOFError, OSError, ValueError))


def _xz(file: Any) -> io.RawIOBase:
    return _Guarded(lzma.LZMAFile(file), (EOFError, lzma.LZMAError))


def _zstd(file: Any) -> io.RawIOBase:
    if sys.version_info >= (3, 14) and importlib.util.find_spec("_zstd") is not None:
        zstd: Any = importlib.import_module("compression.zstd")
        return _Guarded(zstd.ZstdFile(file), (EOFError, zstd.ZstdError))
    if importlib.util.find_spec("zstandard") is None:
        raise MissingLibraryError(
            "Reading a file compressed with zstd needs the package zstandard, which is not installed.",
            next_step="Run: pip install zstandard, or unpack the file (zstd -d) and give the unpacked one.",
        )
    package: Any = importlib.import_module("zstandard")
    frames = _ZstandardPackage(file, lambda: package.ZstdDecompressor().decompressobj())
    return _Guarded(frames, (EOFError, package.ZstdError))


_COMPRESSIONS: dict[bytes, Callable[[Any], io.RawIOBase]] = {
    b"\x1f\x8b\x08": _gzip,
    b"BZh": _bz2,
    b"\xfd7zXZ\0": _xz,
    b"\x28\xb5\x2f\xfd": _zstd,
}
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


@contextmanager
def open_bytes(path: Path, member: str | None, count: ByteCount) -> Iterator[io.BufferedReader]:
    """The unpacked bytes of a file, or of a member of a zip file. `count` counts the bytes read from the disk.

    Raises `OSError`, `UnreadableError`, `DamagedStreamError` (also later, while reading), and `MissingLibraryError`.
    """
    with ExitStack() as opened:
        stream = opened.enter_context(_buffered(_Counted(path, count)))
        if member is not None:
            stream = opened.enter_context(_buffered(_member(stream, member, opened)))
        head = stream.peek(8)
        for magic, unpacked in _COMPRESSIONS.items():
            if head.startswith(magic):
                stream = opened.enter_context(_buffered(unpacked(stream)))
                break
        yield stream


def _buffered(raw: io.RawIOBase) -> io.BufferedReader:
    return io.BufferedReader(raw, _BUFFER_BYTES)


def _member(stream: io.BufferedReader, name: str, opened: ExitStack) -> io.RawIOBase:
    damage = (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, OSError)
    try:
        archive = opened.enter_context(zipfile.ZipFile(stream))
        member: Any = opened.enter_context(archive.open(name))
        return _Guarded(member, damage)
    except zipfile.BadZipFile as error:
        raise DamagedStreamError(str(error)) from None
    except (NotImplementedError, RuntimeError) as error:
        # A password is a RuntimeError, a method that zipfile lacks a NotImplementedError.
        step = "Unpack it yourself, and give the data file."
        raise UnreadableError(f"it cannot be unpacked ({error})", next_step=step) from None


def without_mark(stream: io.BufferedReader, notes: list[str]) -> io.BufferedReader:
    """Text behind its byte-order mark, as UTF-8; UTF-16 is recoded, with a note."""
    head = stream.peek(4)
    if head.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    elif head.startswith(_UTF16_BOMS) and head[:4] != codecs.BOM_UTF32_LE:
        notes.append("The text is UTF-16 and is read as such.")
        return _buffered(_FromUtf16(stream))
    return stream
