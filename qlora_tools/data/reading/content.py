"""What the first bytes of a file look like when they are not what its name says."""

import codecs
import re

from .byte_streams import HEAD_BYTES

_PICKLE = ("a pickle, which can run code when it is read and is not opened", "Save the rows as JSON Lines or CSV.")
_PACKED = ("a compressed file inside a compressed file", "Unpack it once, and give the file inside.")
_SHEET = ("an Excel or Word file", "Export the sheet as CSV in UTF-8, and give that file.")
_MEDIA = ("a picture, a sound or a film", "Give the file with the rows of text.")
_BINARY = ("binary data, not text", "Give a file of text, Parquet or Arrow, with the suffix that says so.")
_PAGE = ("a web page", "Fetch the file itself: the page's link to the raw file or to its download.")
_STARTS: tuple[tuple[bytes, tuple[str, str]], ...] = (
    (b"PAR1", ("a Parquet file", "Rename it to end in .parquet.")),
    (b"ARROW1", ("an Arrow file", "Rename it to end in .arrow.")),
    (b"version https://git-lfs", ("a pointer of Git LFS, not the file itself", "Fetch the file: git lfs pull")),
    (b"\x1f\x8b", _PACKED),
    (b"BZh", _PACKED),
    (b"\xfd7zXZ", _PACKED),
    (b"\x28\xb5\x2f\xfd", _PACKED),
    (b"PK\x03\x04", ("a zip file", "Unpack it, and give the file inside.")),
    (b"Rar!", ("a RAR archive", "Unpack it, and give the file inside.")),
    (b"7z\xbc\xaf", ("a 7z archive", "Unpack it, and give the file inside.")),
    (b"\xd0\xcf\x11\xe0", _SHEET),
    (b"SQLite format 3", ("an SQLite database", "Export the table as CSV, and give that file.")),
    (b"%PDF", ("a PDF document", "Save its text as .txt, and give that file.")),
    (b"\x93NUMPY", ("a NumPy array, which can hold a pickle and is not opened", "Save the rows as JSON Lines or CSV.")),
    (b"\x89HDF", ("an HDF5 file", "Save the rows as JSON Lines, CSV or Parquet.")),
    (b"\x7fELF", ("a program", "Give a file of rows.")),
    (b"\x89PNG", _MEDIA),
    (b"\xff\xd8\xff", _MEDIA),
    (b"GIF8", _MEDIA),
    (b"RIFF", _MEDIA),
    (b"\xff\xfe\0\0", ("UTF-32 text", "Save the file in UTF-8.")),
)
_SCRIPT = re.compile(rb"^(#!|import \w|from [\w.]+ import |def \w+\(|class \w+[(:])", re.MULTILINE)
_WEB_PAGE = re.compile(rb"<(!doctype html|html|head|body)\b", re.IGNORECASE)
_MOSTLY = 0.3


def looks_like(head: bytes, kind: str) -> tuple[str, str] | None:
    """What a file that cannot be read as `kind` seems to be, and what to do about it; None where nothing is known."""
    for start, found in _STARTS:
        if head.startswith(start):
            return None if found[1].endswith(f" {kind}.") else found
    if re.match(rb"\x80[\x02-\x05]", head):
        return _PICKLE
    if head[257:262] == b"ustar":
        return "a tar archive", "Unpack it, and give the file inside."
    return _kind_of_bytes(head) if _is_binary(head) else _kind_of_text(head.lstrip())


def _is_binary(head: bytes) -> bool:
    return head.count(0) > len(head) * _MOSTLY / 10


def _kind_of_bytes(head: bytes) -> tuple[str, str]:
    halves = head[0::2].count(0), head[1::2].count(0)
    if max(halves) > len(head) / 2 * _MOSTLY and min(halves) < max(halves) / 10:
        return "UTF-16 text without its byte-order mark", "Save the file in UTF-8."
    return _BINARY


def _kind_of_text(text: bytes) -> tuple[str, str] | None:
    if _WEB_PAGE.match(text):
        return _PAGE
    if text.startswith(b"<?xml"):
        return "an XML file", "Convert it to JSON Lines, CSV or text."
    if _SCRIPT.search(text) and not text.startswith((b"{", b"[")):
        return "a script, which is not run", "Run it yourself, and give the data file that it makes."
    if re.match(rb"\{\s*\n|\{\s*\"[^\"]*\":\s*[\[{]\s*\n", text):
        return "one JSON document over several lines", "Rename it to end in .json."
    if b"\r" in text and b"\n" not in text:
        return "text whose lines end in a lone carriage return", "Save the file with line ends of Unix or Windows."
    return _kind_of_encoding(text)


def _kind_of_encoding(text: bytes) -> tuple[str, str] | None:
    try:
        # The head may end within a character.
        codecs.getincrementaldecoder("utf-8")().decode(text, final=len(text) < HEAD_BYTES // 2)
    except UnicodeDecodeError:
        letters = sum(byte >= 0x20 or byte in b"\t\r\n" for byte in text)
        if letters > len(text) * (1 - _MOSTLY / 10):
            return "text in another encoding than UTF-8, such as Windows-1252", "Save the file in UTF-8."
        return _BINARY
    return None
