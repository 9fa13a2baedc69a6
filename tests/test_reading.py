"""Reading datasets: every form of file gives the same rows, in bounded memory, with values as they were written."""

import bz2
import gzip
import importlib.util
import io
import json
import lzma
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.config import DataConfig
from qlora_tools.data.dataset import read_dataset
from qlora_tools.data.examples import PlainText
from qlora_tools.data.reading.sources import DATA_SUFFIXES, is_on_hub
from qlora_tools.data.reading.stream import DataSource, RawRow, RowStream, open_rows
from qlora_tools.errors import DataError, MachineError, MissingLibraryError

# What guessing readers change into dates, numbers, nothing or true; and what breaks lines and delimiters.
VALUES = ["2024-01-05", "007", "NA", "1e5", "true", "null", " a ", 'say "hi", then\ngo; tab\tbar|é😀']
ROWS = [{"question": f"q{number}", "answer": value} for number, value in enumerate(VALUES)]


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    import csv

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]], row_group_size: int | None = None) -> bytes:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=row_group_size)
    return file.getvalue()


def arrow(rows: list[dict[str, Any]], *, stream: bool = False) -> bytes:
    import pyarrow

    content, file = pyarrow.Table.from_pylist(rows), io.BytesIO()
    with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(file, content.schema) as writer:
        writer.write_table(content)
    return file.getvalue()


FORMS: dict[str, Callable[[], bytes]] = {
    "rows.jsonl": lambda: json_lines(ROWS),
    "rows.ndjson": lambda: json_lines(ROWS),
    "lines.json": lambda: json_lines(ROWS),
    "array.json": lambda: json.dumps(ROWS).encode(),
    "array.jsonl": lambda: json.dumps(ROWS, indent=1).encode(),
    "indented.json": lambda: json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "several.json": lambda: b"\n".join(json.dumps(row, indent=2).encode() for row in ROWS),
    "wrapped.json": lambda: json.dumps({"version": 1, "data": ROWS}).encode(),
    "columns.json": lambda: json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode(),
    "pandas.json": lambda: json.dumps(
        {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]}
    ).encode(),
    "rows.csv": lambda: table(ROWS),
    "semicolons.csv": lambda: table(ROWS, ";"),
    "tabs.csv": lambda: table(ROWS, "\t"),
    "bars.csv": lambda: table(ROWS, "|"),
    "rows.tsv": lambda: table(ROWS, "\t"),
    "rows.parquet": lambda: parquet(ROWS),
    "rows.arrow": lambda: arrow(ROWS),
    "stream.arrow": lambda: arrow(ROWS, stream=True),
    "no_suffix": lambda: json_lines(ROWS),
    "parquet_without_suffix": lambda: parquet(ROWS),
    "CAPITALS.JSONL": lambda: json_lines(ROWS),
    "rows[1]*.jsonl": lambda: json_lines(ROWS),
    "rows[1]*.parquet": lambda: parquet(ROWS),
    "utf-16.jsonl": lambda: json_lines(ROWS).decode().encode("utf-16"),
    "utf-16.csv": lambda: table(ROWS).decode().encode("utf-16"),
    "mark.jsonl": lambda: b"\xef\xbb\xbf" + json_lines(ROWS),
    "mark.json": lambda: b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "mark.csv": lambda: b"\xef\xbb\xbf" + table(ROWS),
}


def zipped(data: bytes, name: str = "rows.jsonl") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def zstandard(data: bytes) -> bytes:
    import pyarrow

    return bytes(pyarrow.Codec("zstd").compress(data))


def source(path: Path, **kinds: Any) -> DataSource:
    return DataSource(str(path), **kinds)


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read(path: Path, **kinds: Any) -> tuple[list[RawRow], RowStream]:
    stream = open_rows(source(path, **kinds))
    return list(stream), stream


def values(path: Path, **kinds: Any) -> list[Any]:
    return [row.value for row in read(path, **kinds)[0]]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_file_gives_the_same_rows_as_they_were_written(name: str, tmp_path: Path) -> None:
    rows, stream = read(written(tmp_path / name, FORMS[name]()))
    assert [row.value for row in rows] == ROWS
    assert [row.number for row in rows] == list(range(1, len(ROWS) + 1))
    assert [row.problem for row in rows] == [None] * len(ROWS)
    assert stream.done_bytes == stream.total_bytes == (tmp_path / name).stat().st_size


@pytest.mark.parametrize("form", ["rows.jsonl", "indented.json", "rows.csv", "rows.parquet", "stream.arrow"])
@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip", ""])
def test_every_compression_is_told_by_its_bytes(suffix: str, form: str, tmp_path: Path) -> None:
    packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(suffix, gzip.compress)
    data = zipped(FORMS[form](), form) if suffix == ".zip" else packed(FORMS[form]())
    rows, stream = read(written(tmp_path / f"{form}{suffix}", data))
    assert [row.value for row in rows] == ROWS
    assert stream.done_bytes == stream.total_bytes


def test_zstd_is_read_or_the_package_that_reads_it_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl.zst", zstandard(json_lines(ROWS)) + zstandard(json_lines(ROWS)))
    if sys.version_info >= (3, 14) or importlib.util.find_spec("zstandard"):
        assert values(path) == ROWS * 2
        rows, stream = read(written(tmp_path / "cut.jsonl.zst", path.read_bytes()[:-30]))
        assert [row.value for row in rows[: len(ROWS)]] == ROWS
        assert rows[-1].problem is not None
        assert "cut off" in stream.notes[-1]
    else:
        with pytest.raises(MissingLibraryError) as caught:
            open_rows(source(path))
        assert "pip install zstandard" in caught.value.next_step


def test_text_is_a_row_a_line_and_blank_lines_are_counted(tmp_path: Path) -> None:
    rows, stream = read(written(tmp_path / "rows.txt", b"  one \r\n\n007\n \nlast"))
    assert rows == [
        RawRow(1, "line 1", {"text": "  one "}, None),
        RawRow(2, "line 3", {"text": "007"}, None),
        RawRow(3, "line 5", {"text": "last"}, None),
    ]
    assert stream.notes == ["2 blank lines were skipped."]


def test_a_row_of_a_table_is_named_by_the_lines_it_takes(tmp_path: Path) -> None:
    rows, _ = read(written(tmp_path / "rows.csv", b'a,b\n1,2\n\n"x\ny",3\n4,5\n'))
    assert [(row.number, row.place) for row in rows] == [(1, "line 2"), (2, "lines 4 to 5"), (3, "line 6")]


def test_the_index_that_pandas_writes_is_left_out_with_a_note(tmp_path: Path) -> None:
    rows, stream = read(written(tmp_path / "rows.csv", b",question,answer\n0,a,b\n1,c,d\n"))
    assert [row.value for row in rows] == [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]
    assert "index" in stream.notes[0]


def test_a_field_may_be_longer_than_the_limit_that_csv_readers_set(tmp_path: Path) -> None:
    long = "a word, " * 50_000
    assert values(written(tmp_path / "rows.csv", table([{"text": long}]))) == [{"text": long}]


def test_one_row_of_turns_is_a_row_and_not_a_list_of_rows(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"messages": turns}
    assert values(written(tmp_path / "one.json", json.dumps(row, indent=1).encode())) == [row]
    preference = {"chosen": turns, "rejected": turns}
    assert values(written(tmp_path / "two.json", json.dumps(preference).encode())) == [preference]


def test_a_json_document_with_a_list_for_each_split_gives_the_wanted_one(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.json", json.dumps({"train": ROWS[:1], "test": ROWS[1:]}).encode())
    assert values(path, split="test") == ROWS[1:]
    rows, stream = read(path)
    assert [row.value for row in rows] == ROWS[:1]
    assert stream.notes == ["Of the lists train, test, only train is read."]
    with pytest.raises(DataError, match="several lists of rows: train, test"):
        open_rows(source(path, split="other"))


def test_an_array_is_read_piece_by_piece_whatever_the_pieces_cut_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": 'a "b" \\ 😀é', "n": [True, None, -1.5e3, {"x": []}]}, {}, {"text": "😀"}] * 3
    for text in (json.dumps(rows), json.dumps(rows, ensure_ascii=False, indent=1)):
        path = written(tmp_path / "rows.json", text.encode())
        for size in range(1, 40):
            monkeypatch.setattr("qlora_tools.data.reading.json_arrays._PIECE_BYTES", size)
            assert values(path) == json.loads(path.read_bytes())


def test_types_of_columns_become_plain_values_and_pictures_are_left_out(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    moment = datetime(2024, 1, 5, 10, 30, tzinfo=UTC)
    content = pyarrow.table(
        {
            "text": pyarrow.array(["007", None]),
            "day": pyarrow.array([date(2024, 1, 5), None]),
            "moment": pyarrow.array([moment, moment], pyarrow.timestamp("ns", "UTC")),
            "price": pyarrow.array([Decimal("1.50"), None]),
            "nested": pyarrow.array([[{"day": date(2024, 1, 5)}], []]),
            "written": pyarrow.array(["é".encode(), None], pyarrow.binary()),
            "picture": pyarrow.array([{"bytes": b"\x89PNG\xff", "path": "a.png"}, None]),
            "raw": pyarrow.array([b"\xff\xfe\x00", None], pyarrow.binary()),
            "score": pyarrow.array([0.5, None]),
            "kind": pyarrow.array(["a", "b"]).dictionary_encode(),
            "parts": pyarrow.array([[("a", 1)], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        }
    )
    pyarrow.parquet.write_table(content, tmp_path / "rows.parquet")
    rows, stream = read(tmp_path / "rows.parquet")
    assert rows[0].value == {
        "text": "007",
        "day": "2024-01-05",
        "moment": "2024-01-05T10:30:00+00:00",
        "price": "1.50",
        "nested": [{"day": "2024-01-05"}],
        "written": "é",
        "score": 0.5,
        "kind": "a",
        "parts": {"a": 1},
    }
    assert stream.notes == ["Left out, since they hold bytes (such as pictures or sound): picture, raw."]


def test_a_folder_is_read_in_order_with_mixed_suffixes_and_hidden_files_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    written(folder / "b.csv", table(ROWS[2:4]))
    written(folder / "a.jsonl", json_lines(ROWS[:2]))
    written(folder / "sub" / "c.jsonl.gz", gzip.compress(json_lines(ROWS[4:6])))
    written(folder / "z.zip", zipped(json_lines(ROWS[6:]), "part/d.jsonl"))
    written(folder / ".hidden.jsonl", b"not rows")
    written(folder / ".git" / "rows.jsonl", b"not rows")
    written(folder / "README.md", b"# Data")
    written(folder / "license.txt", b"Apache")
    written(folder / "empty.jsonl", b"")
    (folder / "gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    (folder / "loop").symlink_to(folder)
    rows, stream = read(folder)
    assert [row.value for row in rows] == ROWS
    assert [row.number for row in rows] == list(range(1, len(ROWS) + 1))
    places = [row.place for row in rows[::2]]
    assert places == ["a.jsonl, line 1", "b.csv, line 2", "sub/c.jsonl.gz, line 1", "z.zip/part/d.jsonl, line 1"]
    assert stream.notes == [
        "Left out, since they are no data files: README.md, gone.jsonl, license.txt.",
        "empty.jsonl is empty (0 bytes).",
    ]
    assert stream.done_bytes == stream.total_bytes


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "test.jsonl"),
        ("data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"),
        ("train/rows.jsonl", "test/rows.jsonl"),
        ("Training_set.jsonl", "my-evaluation.jsonl"),
        ("rows.jsonl", "rows_test.jsonl"),
    ],
)
def test_only_the_files_of_the_wanted_split_are_read(names: tuple[str, str], tmp_path: Path) -> None:
    for name, part in zip(names, (ROWS[:3], ROWS[3:]), strict=True):
        written(tmp_path / "set" / name, json_lines(part))
    rows, stream = read(tmp_path / "set")
    assert [row.value for row in rows] == ROWS[:3]
    assert stream.notes == [f"Of {tmp_path / 'set'}, only train is read; beside it are: test (1 file)."]
    assert values(tmp_path / "set", split="test") == ROWS[3:]
    with pytest.raises(DataError, match="no files of the split 'validation'"):
        open_rows(source(tmp_path / "set", split="validation"))
    # A file that is named itself is read whatever its name says.
    assert values(tmp_path / "set" / names[1]) == ROWS[3:]


def test_a_split_of_ones_own_is_found_by_its_name(tmp_path: Path) -> None:
    written(tmp_path / "set" / "hard_cases.jsonl", json_lines(ROWS[:1]))
    written(tmp_path / "set" / "train.jsonl", json_lines(ROWS[1:]))
    assert values(tmp_path / "set", split="hard_cases") == ROWS[:1]


def test_a_saved_dataset_is_read_with_its_splits(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    whole, part = Dataset.from_list(ROWS), Dataset.from_list(ROWS[:2])
    whole.select([1, 0]).save_to_disk(tmp_path / "saved [1]")
    DatasetDict({"train": whole, "test": part}).save_to_disk(tmp_path / "splits")
    assert values(tmp_path / "saved [1]") == [ROWS[1], ROWS[0]]
    rows, stream = read(tmp_path / "splits")
    assert [row.value for row in rows] == ROWS
    assert stream.notes == [f"Of {tmp_path / 'splits'}, only train is read; beside it are: test."]
    assert stream.done_bytes == stream.total_bytes
    assert values(tmp_path / "splits", split="test") == ROWS[:2]
    with pytest.raises(DataError, match="no split 'dev'; it has train, test"):
        open_rows(source(tmp_path / "splits", split="dev"))


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("owner/name", True),
        ("owner/name-1.2_b", True),
        ("owner/rows.jsonl", False),
        ("owner/rows.csv.gz", False),
        ("./owner/name", False),
        ("/owner/name", False),
        ("~/name", False),
        ("../name", False),
        ("owner/name/more", False),
        ("name", False),
        ("owner/", False),
        ("owner/script.py", False),
        ("my data/rows", False),
    ],
)
def test_a_name_goes_by_its_form_alone(name: str, hub: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_on_hub(DataSource(name)) is hub
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert is_on_hub(DataSource(name)) is hub
    assert not is_on_hub(DataSource(name, source="local"))


def test_the_hub_is_not_asked_for_a_name_that_it_cannot_have() -> None:
    with pytest.raises(DataError, match="owner/name"):
        open_rows(DataSource("./rows.jsonl", source="hub"))


def test_a_hub_dataset_that_cannot_be_reached_tells_of_the_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MachineError, match="the Hub cannot be reached") as caught:
        open_rows(DataSource("owner/name"))
    assert "./owner/name" not in caught.value.next_step
    written(tmp_path / "owner" / "name" / "rows.jsonl", json_lines(ROWS))
    with pytest.raises(MachineError, match="the Hub cannot be reached") as caught:
        open_rows(DataSource("owner/name"))
    assert "write ./owner/name" in caught.value.next_step
    assert values(Path("owner/name"), source="local") == ROWS


def test_what_the_library_says_of_splits_subsets_and_scripts_becomes_a_data_error(tmp_path: Path) -> None:
    import datasets

    from qlora_tools.data.reading.library_rows import _hub_error

    card = "---\nconfigs:\n- {config_name: a, data_files: a.jsonl}\n- {config_name: b, data_files: b.jsonl}\n---\n"
    for name, data in {"a.jsonl": b'{"x": "1"}\n', "b.jsonl": b'{"x": "1"}\n', "README.md": card.encode()}.items():
        written(tmp_path / "set" / name, data)
    written(tmp_path / "script" / "script.py", b"raise SystemExit")

    def said(path: Path, subset: str | None, split: str) -> str:
        try:
            datasets.load_dataset(str(path), subset, split=split, streaming=True)
        except (ValueError, RuntimeError) as error:
            found = _hub_error(DataSource("owner/name", split=split, subset=subset), error)
        assert isinstance(found, DataError)
        assert found.next_step
        return found.message

    assert said(tmp_path / "set", None, "train") == "The dataset owner/name has several subsets: a, b."
    assert said(tmp_path / "set", "c", "train") == "The dataset owner/name has no subset 'c': a, b."
    assert said(tmp_path / "set", "a", "test") == "The dataset owner/name has no split 'test'; it has train."
    assert "a script, which is not run" in said(tmp_path / "script", None, "train")
    gated = datasets.exceptions.DatasetNotFoundError("Dataset 'owner/name' is a gated dataset on the Hub.")
    assert "Accept its terms" in _hub_error(DataSource("owner/name"), gated).next_step


# Of this process alone: the peak that getrusage tells of starts at that of the process which started it.
MEASURE = r"""
import re, sys
from pathlib import Path
from qlora_tools.data.reading.stream import DataSource, open_rows
def peak(): return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024
list(open_rows(DataSource(sys.argv[1])))
before = peak()
rows = sum(row.value is not None for row in open_rows(DataSource(sys.argv[2])))
print(rows, peak() - before)
"""


def growth(small: Path, large: Path) -> tuple[int, int]:
    """Rows of the large file, and by how many MiB the process grew beyond what reading a small one takes."""
    command = [sys.executable, "-c", MEASURE, str(small), str(large)]
    rows, grown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.split()
    return int(rows), int(grown)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_a_large_text_file_is_read_in_bounded_memory(name: str, tmp_path: Path) -> None:
    count, text = (6000 if name == "rows.jsonl" else 3000), "word " * 10_000
    line = f'"{text}"\n' if name == "rows.csv" else json.dumps({"text": text}) + "\n"
    first, between, last = {"rows.json": ("[", ",", "]"), "rows.csv": ("text\n", "", "")}.get(name, ("", "", ""))
    with (tmp_path / name).open("w") as file:
        file.write(first + line)
        file.writelines(between + line for _ in range(count - 1))
        file.write(last)
    assert (tmp_path / name).stat().st_size >= count * 50_000
    rows, grown = growth(written(tmp_path / "small.jsonl", json_lines(ROWS)), tmp_path / name)
    assert rows == count
    assert grown < 60


def test_a_row_group_larger_than_the_bound_is_read_in_pieces(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    text = [f"{number} {'word ' * 2000}" for number in range(10_000)]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": text}), tmp_path / "rows.parquet", row_group_size=10_000, use_dictionary=False
    )
    rows, grown = growth(written(tmp_path / "small.parquet", parquet(ROWS)), tmp_path / "rows.parquet")
    assert rows == 10_000
    assert grown < 100


def test_the_bytes_that_are_done_grow_with_the_rows(tmp_path: Path) -> None:
    data = json_lines([{"text": os.urandom(500).hex()} for _ in range(5000)])
    packed = {"rows.jsonl": data, "rows.jsonl.gz": gzip.compress(data, 1), "rows.zip": zipped(data)}
    for name, content in packed.items():
        stream = open_rows(source(written(tmp_path / name, content)))
        assert stream.total_bytes is not None
        done = [stream.done_bytes for _ in stream]
        assert done == sorted(done)
        assert 0 < done[0] < stream.total_bytes
        assert stream.total_bytes / 4 < done[len(done) // 2] <= stream.total_bytes
        assert stream.done_bytes == stream.total_bytes


def test_all_rows_become_examples_and_the_others_are_counted_with_their_numbers(tmp_path: Path) -> None:
    lines = [b'{"text": "one"}', b"", b'{"text": ', b'{"text": 3}', b'{"text": "caf\xe9"}', b"[1]", b'{"text": "two"}']
    read = read_dataset(DataConfig(path=str(written(tmp_path / "rows.jsonl", b"\n".join(lines)))), 0)
    assert read.training.examples == (PlainText("one"), PlainText("two"))
    assert read.training.numbers == (1, 6)
    assert [number for number, _ in read.unusable] == [2, 3, 4, 5]
    reasons = [reason for _, reason in read.unusable]
    assert reasons[0].startswith("line 3 is not JSON (Expecting value at column 9")
    assert "number" in reasons[1]
    assert reasons[2:] == [
        "line 5 is not UTF-8 text (byte 14 of the line is 0xe9)",
        "line 6 is not a JSON object but a list",
    ]


def test_a_source_without_a_usable_row_is_refused_with_the_first_reasons(tmp_path: Path) -> None:
    rows = [{"prompt": f"a{number}", "completion": ""} for number in range(7)]
    path = written(tmp_path / "rows.jsonl", json_lines(rows))
    with pytest.raises(DataError, match=r"No row of .* can be used") as caught:
        read_dataset(DataConfig(path=str(path), format="prompt_completion"), 0)
    assert caught.value.message.count("\n") == 5
    assert "row 5: " in caught.value.message


@pytest.mark.parametrize(("name", "data"), [("rows.jsonl", b"\n\n"), ("rows.csv", b"a,b\n"), ("rows.json", b"[]")])
def test_a_source_without_rows_is_refused(name: str, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        read_dataset(DataConfig(path=str(written(tmp_path / name, data))), 0)
    assert read(tmp_path / name)[0] == []


def test_the_suffixes_that_are_known_are_those_that_are_read(tmp_path: Path) -> None:
    contents = {Path(name).suffix: data for name, data in FORMS.items()} | {".txt": lambda: b"a\n"}
    assert set(DATA_SUFFIXES) <= set(contents)
    for suffix in DATA_SUFFIXES:
        assert values(written(tmp_path / f"file{suffix}", contents[suffix]()))
