"""Broken datasets: each gives a clear error or counted rows with reasons; never a traceback, never a silent drop."""

import gzip
import json
import lzma
import os
import random
import re
import stat
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qlora_tools.config import DataConfig
from qlora_tools.data.dataset import read_dataset
from qlora_tools.data.reading.stream import DataSource, RawRow, open_rows
from qlora_tools.errors import DataError, QloraError

from .test_reading import FORMS, ROWS, json_lines, parquet, read, source, table, written, zipped

GOOD = json_lines(ROWS)
PICKLE = b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94"

# A file that is refused as a whole, and what the error says.
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "empty": ("rows.jsonl", b"", "is empty"),
    "a pickle": ("rows.pkl", PICKLE, "ends in .pkl: a file that can run code"),
    "a pickle under a compression": ("rows.pkl.gz", gzip.compress(PICKLE), "ends in .pkl"),
    "a checkpoint": ("model.pt", zipped(PICKLE, "archive/data.pkl"), "ends in .pt"),
    "a checkpoint under another name": ("rows.json", zipped(PICKLE, "archive/data.pkl"), "a PyTorch file"),
    "a pickle under another name": ("rows.jsonl", PICKLE, "looks like a pickle"),
    "a pickle as CSV": ("rows.csv", PICKLE, "looks like a pickle"),
    "a script": ("rows.py", b"raise SystemExit", "ends in .py: a program, and is not run"),
    "a script under another name": ("rows.jsonl", b"import os\nos.abort()\n", "looks like a script"),
    "a spreadsheet": ("rows.xlsx", zipped(b"", "xl/workbook.xml"), "ends in .xlsx: a spreadsheet"),
    "a spreadsheet under another name": ("rows.csv", zipped(b"<a/>", "[Content_Types].xml"), "an Office document"),
    "an old spreadsheet under another name": ("rows.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 9, "an Excel or Word"),
    "a document": ("rows.docx", b"PK\x03\x04", "ends in .docx: a document"),
    "a database": ("rows.db", b"SQLite format 3\0", "ends in .db: a database"),
    "a database under another name": ("rows.json", b"SQLite format 3\0" + bytes(99), "an SQLite database"),
    "an array of NumPy": ("rows.npy", b"\x93NUMPY", "ends in .npy"),
    "a tar archive": ("rows.tar.gz", gzip.compress(b"a" * 999), "ends in .tar: an archive"),
    "an unknown suffix": ("rows.xyz", b"some text\n", "ends in .xyz; known are .jsonl"),
    "no suffix and no sign": ("rows", b"some text\n", "ends in nothing"),
    "a web page": ("rows.jsonl", b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "looks like a web page"),
    "a pointer of Git LFS": ("rows.parquet", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "Parquet under another name": ("rows.jsonl", parquet(ROWS), "looks like a Parquet file"),
    "UTF-16 without a mark": ("rows.jsonl", GOOD.decode().encode("utf-16-le"), "looks like UTF-16 text without"),
    "UTF-32": ("rows.jsonl", GOOD.decode().encode("utf-32"), "UTF-32"),
    "another encoding": ("rows.csv", "text\ncafé\nthé\n".encode("latin-1"), "another encoding than UTF-8"),
    "zeros": ("rows.jsonl", bytes(5000), "looks like binary data"),
    "zeros as text": ("rows.txt", bytes(5000), "looks like binary data"),
    "a document of JSON as lines": ("rows.jsonl", json.dumps(ROWS[0], indent=2).encode(), "one JSON document"),
    "old line ends": ("rows.jsonl", GOOD.replace(b"\n", b"\r"), "lone carriage return"),
    "lists instead of rows": ("rows.jsonl", b"[1, 2]\n[3]\n", "line 1 is not a JSON object but a list"),
    "numbers instead of rows": ("rows.json", b"[1, 2]", "row 1 is not a JSON object but a number"),
    "text instead of rows": ("rows.json", b'"rows"', "line 1 is not a JSON object but text"),
    "two lists": ("rows.json", b'{"a": [{"x": 1}], "b": [{"x": 1}]}', "several lists of rows: a, b"),
    "one broken row": ("rows.jsonl", b'{"text": \n', "line 1 is not JSON"),
    "a document that is cut off": ("rows.json", b'{\n "data": [\n  {"text": "a"},\n', "row 1 is not JSON"),
    "a hundred broken rows": ("rows.jsonl", b"{\n" * 99 + b"x\n" * 50 + GOOD, "none of the first 100 rows"),
    "a gzip file without content": ("rows.jsonl.gz", gzip.compress(GOOD)[:9], "cannot be read"),
    "a gzip file with a broken start": ("rows.jsonl.gz", gzip.compress(GOOD)[:14], "ended before the end-of-stream"),
    "xz that breaks at once": ("rows.jsonl.xz", lzma.compress(GOOD)[:20], "damaged or cut off|cannot be read"),
    "gzip in gzip": ("rows.jsonl.gz", gzip.compress(gzip.compress(GOOD)), "a compressed file inside"),
    "a zip file that is cut off": ("rows.zip", zipped(GOOD)[:-30], "cut off or damaged"),
    "a zip file without data": ("rows.zip", zipped(b"a", "a.py"), "without a data file; it holds rows.zip/a.py"),
    "damaged Parquet": ("rows.parquet", b"PAR1 this is not Parquet", "damaged or of another kind"),
    "Parquet that is cut off": ("rows.parquet", parquet(ROWS)[:-20], "damaged or of another kind"),
    "damaged Arrow": ("rows.arrow", b"ARROW1\0\0" + bytes(50), "damaged or of another kind"),
    "Arrow that is text": ("rows.arrow", GOOD, "damaged or of another kind"),
    "a header twice": ("rows.csv", b"text,text\na,b\n", "first line names text more than once"),
    "a header with a gap": ("rows.csv", b"question,,answer\na,b,c\n", "a column without a name"),
    "a header that is no text": ("rows.csv", b"\xe9,b\nc,d\n", "first line is not text in UTF-8"),
    "a quote that is never closed": (
        "rows.csv",
        b'a,b\n1,2\n3,"4\n5,6\n',
        "opened in line 3 or after it is not closed",
    ),
}

# A file with rows that cannot be read: how many can, and which cannot with why.
COUNTED: dict[str, tuple[str, bytes, int, dict[int, str]]] = {
    "one row": ("rows.jsonl", GOOD.splitlines()[0], 1, {}),
    "a mark": ("rows.jsonl", b"\xef\xbb\xbf" + GOOD, 8, {}),
    "NUL bytes": ("rows.jsonl", GOOD + b'{"text": "a\0"}\n', 8, {9: "holds NUL bytes"}),
    "NUL bytes in a table": ("rows.csv", b"a,b\n1,2\n\0,3\n", 1, {2: "holds NUL bytes"}),
    "NUL bytes in text": ("rows.txt", b"a\nb\0\n", 1, {2: "holds NUL bytes"}),
    "mixed encodings": (
        "rows.jsonl",
        GOOD + '{"text": "é"}\n'.encode("latin-1"),
        8,
        {9: "byte 11 of the line is 0xe9"},
    ),
    "mixed encodings in a table": ("rows.csv", b"a,b\n1,\xe9\n2,\xc3\xa9\n", 1, {1: "is not UTF-8 text"}),
    "mixed encodings in an array": ("rows.json", b'[{"a": "\xe9"}, {"a": "\xc3\xa9"}]', 1, {1: "is not UTF-8 text"}),
    "mixed encodings in text": ("rows.txt", b"a\n\xff\n", 1, {2: "is not UTF-8 text"}),
    "nested nulls": ("rows.jsonl", b'{"a": {"b": [null, {"c": null}]}, "d": null}\n', 1, {}),
    "rows that are cut in half": ("rows.jsonl", GOOD + GOOD[:20], 8, {9: "is not JSON"}),
    "two rows on a line": ("rows.jsonl", GOOD + b"{}{}\n", 8, {9: "Extra data at column 3"}),
    "quotes of Python": ("rows.jsonl", GOOD + b"{'a': 1}\n", 8, {9: "is not JSON"}),
    "a number of 5,000 digits": ("rows.jsonl", GOOD + b'{"a": ' + b"9" * 5000 + b"}\n", 8, {9: "is not JSON"}),
    "infinite numbers and keys twice": ("rows.jsonl", b'{"a": NaN, "b": -Infinity, "a": 1}\n', 1, {}),
    "half a character": ("rows.jsonl", GOOD + b'{"a": "\\ud83d"}\n', 8, {9: r"half a character \(\\ud83d\)"}),
    "half a character in an array": (
        "rows.json",
        b'[{"a": "\\udc00"}, {"a": "\\ud83d\\ude00"}]',
        1,
        {1: "half a char"},
    ),
    "deep nesting": ("rows.jsonl", b'{"a": ' + b"[" * 10**5 + b"\n" + GOOD, 8, {1: "nested too deep"}),
    "deep nesting in an array": (
        "rows.json",
        b'[{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b'}, {"a": "]"}]',
        1,
        {1: "nested too deep"},
    ),
    "nesting as deep as can be read": ("rows.jsonl", GOOD + b'{"a": ' + b"[" * 400 + b"]" * 400 + b"}\n", 9, {}),
    "a broken entry": (
        "rows.json",
        b'[{"a": 1}, {"a": x, "b": "]"}, {"a": 3}, 4]',
        2,
        {2: "is not JSON", 4: "a number"},
    ),
    "an array that is cut off": ("rows.json", b'[{"a": 1}, {"a": "b', 1, {2: "is not JSON.*nothing after it is read"}),
    "an array that is not closed": ("rows.json", b'[{"a": 1}, {"a": 2}', 2, {3: "not closed: the file was cut off"}),
    "an array without a comma": ("rows.json", b'[{"a": 1} {"a": 2}]', 1, {2: "where a comma belongs"}),
    "text after an array": ("rows.json", b'[{"a": 1}]\n{"a": 2}', 1, {2: "followed by more text"}),
    "a document after another": ("rows.json", b'{\n"a": 1}\n{\n"a": }', 1, {2: "is not JSON.*line 4 column 6"}),
    "JSON Lines with a broken start": ("rows.json", b'{"a": 1\n{"a": 2}\n', 1, {1: "is not JSON"}),
    "too many and too few fields": ("rows.csv", b"a,b\n1\n1,2\n1,2,3\n", 1, {1: "has 1 field", 3: "has 3 fields"}),
    "text after a quote": ("rows.csv", b'a,b\n"x"y,1\n2,3\n', 1, {1: "is not CSV"}),
    "gzip that is cut off": ("rows.jsonl.gz", gzip.compress(GOOD * 50, 0)[:5000], -1, {-1: "is missing: the file is"}),
    "gzip with something behind": ("rows.jsonl.gz", gzip.compress(GOOD) + b"junk", 8, {9: "is missing: the file is"}),
    "UTF-16 that is cut off": ("rows.jsonl", GOOD.decode().encode("utf-16")[:-1], 7, {8: "is not JSON|is missing"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_no_dataset_is_refused_in_words_with_a_next_step(case: str, tmp_path: Path) -> None:
    name, data, said = REFUSED[case]
    with pytest.raises(DataError, match=said) as caught:
        read(written(tmp_path / name, data))
    assert str(tmp_path / name) in caught.value.message
    assert caught.value.next_step


@pytest.mark.parametrize("case", COUNTED)
def test_a_row_that_cannot_be_read_is_counted_with_its_reason(case: str, tmp_path: Path) -> None:
    name, data, readable, problems = COUNTED[case]
    rows, _ = read(written(tmp_path / name, data))
    bad = {row.number: row.problem for row in rows if row.problem is not None}
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    if readable < 0:
        problems = {len(rows): problems[-1]}
        readable = len(rows) - 1
        assert readable > 10
    assert sum(row.value is not None for row in rows) == readable
    assert bad.keys() == problems.keys()
    for number, said in problems.items():
        assert re.search(said, bad[number] or ""), bad[number]


def test_a_line_over_the_limit_is_counted_with_its_size_and_never_held(tmp_path: Path) -> None:
    for name, first in (("rows.jsonl", b""), ("rows.txt", b""), ("rows.csv", b"text\n")):
        with (tmp_path / name).open("wb") as file:
            file.write(first + b'"')
            # A hole in the file, which takes no room on the disk.
            file.seek(100 * 2**20)
            file.write(b'"\n{"text": "ok"}\n'.replace(b'{"text": "ok"}', b"ok" if first else b'{"text": "ok"}'))
        rows, _ = read(tmp_path / name)
        assert len(rows) == 2
        assert rows[0].problem == "has 100 MiB, more than the 32 MiB that a row may have"
        assert rows[1].value is not None


def test_an_entry_over_the_limit_is_passed_over(tmp_path: Path) -> None:
    long = b'{"text": "' + b'a \\" ] } ' * (4 * 2**20) + b'"}'
    rows, _ = read(written(tmp_path / "rows.json", b"[" + long + b', {"text": "ok"}]'))
    assert [row.value for row in rows] == [None, {"text": "ok"}]
    assert "more than the 32 MiB" in (rows[0].problem or "")


def test_text_of_a_column_that_is_not_utf_8_spoils_its_row_alone(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    data = pyarrow.array([b"good", b"\xff\xfe", b"fine"], pyarrow.binary())
    content = pyarrow.table({"text": pyarrow.Array.from_buffers(pyarrow.string(), 3, data.buffers())})
    pyarrow.parquet.write_table(content, tmp_path / "rows.parquet")
    with pyarrow.ipc.new_file(tmp_path / "rows.arrow", content.schema) as writer:
        writer.write_table(content)
    rows, _ = read(tmp_path / "rows.parquet")
    assert [row.value for row in rows] == [{"text": "good"}, None, {"text": "fine"}]
    assert rows[1] == RawRow(2, "row 2", None, "is not UTF-8 text")
    with pytest.raises(DataError, match="damaged"):
        list(open_rows(source(tmp_path / "rows.arrow")))


def test_columns_with_one_name_are_refused(tmp_path: Path) -> None:
    import pyarrow

    content = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    with pyarrow.ipc.new_file(tmp_path / "rows.arrow", content.schema) as writer:
        writer.write_table(content)
    with pytest.raises(DataError, match="names the columns text more than once"):
        open_rows(source(tmp_path / "rows.arrow"))


def test_a_zip_file_with_a_password_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(GOOD))
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(sign) + offset] |= 1
    with pytest.raises(DataError, match="encrypted"):
        open_rows(source(written(tmp_path / "rows.zip", bytes(data))))


def test_links_inside_a_zip_file_are_not_followed(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.jsonl")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../../outside.jsonl", GOOD)
    rows, stream = read(tmp_path / "rows.zip")
    assert [row.value for row in rows] == ROWS
    assert stream.notes == ["Left out, since they are no data files: rows.zip/link.jsonl."]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.zip"]


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="not a regular file but a pipe"):
        open_rows(source(tmp_path / "rows.jsonl"))
    with pytest.raises(DataError, match="not a regular file"):
        open_rows(DataSource("/dev/zero"))


def test_links_are_followed_and_those_to_nothing_are_said(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(written(tmp_path / "rows.jsonl", GOOD))
    assert len(read(tmp_path / "link.jsonl")[0]) == len(ROWS)
    (tmp_path / "nowhere.jsonl").symlink_to(tmp_path / "missing.jsonl")
    (tmp_path / "circle.jsonl").symlink_to(tmp_path / "circle.jsonl")
    for name, said in (("nowhere.jsonl", "a link to nothing"), ("circle.jsonl", "link"), ("missing", "no dataset")):
        with pytest.raises(DataError, match=said):
            open_rows(source(tmp_path / name))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "holds no data file"),
        (("script.py",), "holds no data file; it holds script.py"),
        (("README.md", "dataset_infos.json", "license.txt"), "holds no data file"),
        (("empty.jsonl",), "is empty"),
    ],
)
def test_a_folder_without_rows_to_read_is_refused(names: Sequence[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in names:
        written(tmp_path / "set" / name, b"")
    with pytest.raises(DataError, match=said) as caught:
        open_rows(source(tmp_path / "set"))
    assert caught.value.next_step


def test_a_broken_file_in_a_folder_is_named_and_its_rows_are_placed(tmp_path: Path) -> None:
    written(tmp_path / "set" / "a.jsonl", GOOD + b"{\n")
    written(tmp_path / "set" / "b.jsonl", GOOD)
    rows, _ = read(tmp_path / "set")
    assert [(row.number, row.place) for row in rows if row.problem] == [(9, "a.jsonl, line 9")]
    written(tmp_path / "set" / "b.jsonl", PICKLE)
    with pytest.raises(DataError, match=r"b\.jsonl cannot be read. It looks like a pickle"):
        read(tmp_path / "set")


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("spoilt", [b"", b"[]", b"{}", b"\xff\x00", b'{"_data_files": [{"filename": "../x"}]}'])
def test_a_saved_dataset_that_is_damaged_is_refused(spoilt: bytes, name: str, tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    written(tmp_path / "saved" / name, spoilt)
    try:
        rows, _ = read(tmp_path / "saved")
    except DataError as error:
        assert "cannot be read" in error.message
        assert error.next_step
    else:
        # Without its description a dataset still has its rows.
        assert name == "dataset_info.json"
        assert [row.value for row in rows] == ROWS


MUTATED: dict[str, Callable[[], bytes]] = {
    **{name: FORMS[name] for name in ("rows.jsonl", "indented.json", "wrapped.json", "rows.csv", "utf-16.jsonl")},
    **{name: FORMS[name] for name in ("rows.parquet", "rows.arrow", "stream.arrow")},
    "rows.jsonl.gz": lambda: gzip.compress(GOOD),
    "rows.json.xz": lambda: lzma.compress(FORMS["array.json"]()),
    "rows.zip": lambda: zipped(table(ROWS), "rows.csv"),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The data with a piece cut, changed, taken out, doubled or zeroed."""
    start, length = chance.randrange(len(data)), chance.choice((1, 2, 8, 100))
    end = start + length
    return chance.choice(
        (
            data[:start],
            data[:start] + bytes([chance.randrange(256)]) + data[start + 1 :],
            data[:start] + data[end:],
            data[:end] + data[start:],
            data[:start] + bytes(len(data[start:end])) + data[end:],
        )
    )


@pytest.mark.parametrize("name", MUTATED)
def test_no_damage_gives_anything_but_rows_reasons_and_errors_in_words(name: str, tmp_path: Path) -> None:
    chance, data = random.Random(name), MUTATED[name]()
    for _ in range(40):
        path = written(tmp_path / name, mutated(data, chance))
        try:
            rows, _ = read(path)
        except QloraError as error:
            assert error.next_step
            continue
        for row in rows:
            assert (row.value is None) == bool(row.problem)
            # What was read can be written again: no half characters.
            json.dumps(row.value, ensure_ascii=False).encode()


def test_a_wrong_column_and_numbers_as_text_are_told_by_row(tmp_path: Path) -> None:
    bad = [{"question": "a", "anwser": "b"}, {"question": "a", "answer": 3}, {"question": "a", "answer": None}]
    rows = [*[{"question": "a", "answer": f"b{number}"} for number in range(50)], *bad]
    read_rows = read_dataset(DataConfig(path=str(written(tmp_path / "rows.jsonl", json_lines(rows)))), 0)
    assert read_rows.training.numbers == tuple(range(1, 51))
    assert [number for number, _ in read_rows.unusable] == [51, 52, 53]
    assert all("answer" in reason for _, reason in read_rows.unusable)
    with pytest.raises(DataError, match="No known format fits the columns"):
        read_dataset(DataConfig(path=str(written(tmp_path / "other.jsonl", b'{"a": 1, "b": 2}\n'))), 0)
