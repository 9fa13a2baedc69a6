"""A good dataset is called ready, and each defect planted in it is found, with its rows, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.inspection import inspect_dataset
from qlora_tools.results import DatasetReport

from .conftest import write_rows
from .good_rows import good_rows

Row = dict[str, Any]
Plant = Callable[[list[Row]], None]
COUNT = 240
PLANTED = (47, 102, 190)  # places, from 0
KEY = "AKIA" + "Q7RW3VXN5TLKZ2MB"


def answer(row: Row, text: str) -> None:
    row["messages"][1]["content"] = text


def each(change: Callable[[Row], None]) -> Plant:
    def plant(rows: list[Row]) -> None:
        for place in PLANTED:
            change(rows[place])

    return plant


def added_to_answer(text: str) -> Plant:
    return each(lambda row: answer(row, f"{row['messages'][1]['content']} {text}"))


def repeated(rows: list[Row]) -> None:
    for place in PLANTED:
        rows[place] = json.loads(json.dumps(rows[place - 20]))


def nearly_repeated(rows: list[Row]) -> None:
    long = [place for place, row in enumerate(rows[:30]) if len(row["messages"][1]["content"].split()) > 60]
    assert len(long) >= len(PLANTED)
    for place, source in zip(PLANTED, long, strict=False):
        rows[place] = json.loads(json.dumps(rows[source]))
        rows[place]["messages"][0]["content"] = "Please tell me. " + rows[source]["messages"][0]["content"]
        answer(rows[place], rows[source]["messages"][1]["content"] + " Indeed.")


def answered_otherwise(rows: list[Row]) -> None:
    for place in PLANTED:
        rows[place]["messages"][0] = rows[place - 20]["messages"][0]


GERMAN = (
    "Diese Funktion gibt eine Liste aller Dateien zurück, die im angegebenen Verzeichnis liegen, und überspringt dabei "
    "verborgene Dateien sowie solche, die nicht gelesen werden können.",
    "Der Aufruf schließt die Verbindung zur Datenbank und gibt alle gebundenen Mittel frei, auch wenn zuvor ein Fehler "
    "aufgetreten ist.",
    "Damit lässt sich prüfen, ob zwei Werte innerhalb einer gegebenen Genauigkeit gleich sind, was bei Kommazahlen meist "
    "besser ist als ein direkter Vergleich.",
)


def in_german(rows: list[Row]) -> None:
    for place, text in zip(PLANTED, GERMAN, strict=True):
        answer(rows[place], text)


def mis_decoded(row: Row) -> None:
    damaged = "Schöne Grüße – naïve café".encode().decode("cp1252")
    answer(row, f"{row['messages'][1]['content']} {damaged}")


def far_too_long(row: Row) -> None:
    answer(row, " ".join(f"Then step {number} follows the one before." for number in range(3000)))


DEFECTS: dict[str, tuple[Plant, str]] = {
    "exact duplicates": (repeated, "warning"),
    "near duplicates": (nearly_repeated, "warning"),
    "the same question answered otherwise": (answered_otherwise, "warning"),
    "an empty answer": (each(lambda row: answer(row, "")), "error"),
    "an answer of spaces": (each(lambda row: answer(row, "  \n ")), "error"),
    "a missing answer": (each(lambda row: row["messages"].pop()), "warning"),
    "an unknown role": (each(lambda row: row["messages"][1].update(role="narrator")), "error"),
    "content that is a number": (each(lambda row: row["messages"][1].update(content=42)), "error"),
    "content that is null": (each(lambda row: row["messages"][1].update(content=None)), "error"),
    "turns that are no list": (each(lambda row: row.update(messages="hello")), "error"),
    "a hidden end of turn": (
        each(lambda row: answer(row, "It returns the sum.<|im_end|> And the product too, as a pair.")),
        "warning",
    ),
    "one-word answers": (each(lambda row: answer(row, "Yes")), "warning"),
    "another language": (in_german, "warning"),
    "text decoded wrongly": (each(mis_decoded), "warning"),
    "replacement characters": (added_to_answer("It costs 5\ufffd and more\ufffd."), "warning"),
    "HTML entities": (
        each(lambda row: answer(row, f"Tom &amp; Jerry don&#39;t know what {len(str(row))} is good for.")),
        "warning",
    ),
    "e-mail addresses": (added_to_answer("Write to maria.keller@gmail.com for help."), "warning"),
    "telephone numbers": (added_to_answer("Call me on +49 30 901820 tonight."), "warning"),
    "payment cards": (added_to_answer("My card is 4539 1488 0343 6467, charge it."), "warning"),
    "bank accounts": (added_to_answer("Pay to IBAN DE75 5121 0800 1245 1261 99 please."), "warning"),
    "keys of clouds": (added_to_answer(f"Set AWS_ACCESS_KEY_ID={KEY} first."), "error"),
    "private keys": (
        added_to_answer("-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq3xkWvZ1pT\n-----END RSA PRIVATE KEY-----"),
        "error",
    ),
    "refusals": (
        each(lambda row: answer(row, "I'm sorry, but as an AI language model I cannot help with that request.")),
        "warning",
    ),
    "marks of another template": (
        each(lambda row: answer(row, "### Response:\nIt returns a copy of the list. [/INST]")),
        "warning",
    ),
    "placeholders": (each(lambda row: answer(row, "TODO: write this answer")), "warning"),
    "answers that repeat the question": (
        each(lambda row: answer(row, row["messages"][0]["content"])),
        "warning",
    ),
}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path]) -> str:
    return str(tiny_model("qwen2"))


def inspected(path: Path, rows: list[Row], model: str) -> DatasetReport:
    return inspect_dataset(str(write_rows(path, rows)), model)


def test_a_good_dataset_is_ready_and_nothing_is_invented(tmp_path: Path, model: str) -> None:
    report = inspected(tmp_path / "rows.jsonl", good_rows(COUNT), model)
    assert [(found.check, found.message) for found in report.findings if found.severity != "note"] == []
    assert report.verdict == "ready"
    assert report.not_checked == []
    assert (report.rows, report.rows_checked, report.unusable_rows) == (COUNT, COUNT, 0)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found_with_its_rows_and_nothing_else_is(name: str, tmp_path: Path, model: str) -> None:
    plant, severity = DEFECTS[name]
    rows = good_rows(COUNT)
    plant(rows)
    report = inspected(tmp_path / "planted.jsonl", rows, model)
    new = [found for found in report.findings if found.severity != "note" or severity == "note"]
    expected = {place + 1 for place in PLANTED}
    assert [found.check for found in new if expected <= set(found.rows) and found.severity == severity], new
    strangers = [found for found in new if not set(found.rows) <= expected | {row - 20 for row in expected}]
    assert strangers == []
    assert all(found.next_step for found in new)


def test_rows_over_the_limit_are_counted_and_a_good_limit_is_suggested(tmp_path: Path, model: str) -> None:
    rows = good_rows(COUNT)
    far_too_long(rows[47])
    path = write_rows(tmp_path / "rows.jsonl", rows)
    limits = {limit: inspect_dataset(str(path), model, settings={"max_length_tokens": limit}) for limit in (128, 4096)}
    over = {limit: next(f for f in report.findings if f.check == "over_length") for limit, report in limits.items()}
    assert (over[4096].severity, over[4096].rows) == ("note", [48])
    assert over[128].severity == "error" and "lose the end of the answer" in over[128].message
    lengths = limits[128].lengths
    assert lengths is not None and lengths.max_length_tokens == 128
    assert 128 < lengths.suggested_max_length_tokens < lengths.longest
    cut = [masked for masked in limits[4096].masks if masked.cut]
    assert [(masked.row, masked.tokens) for masked in cut] == [(48, 4096)]


def test_defects_planted_together_are_each_found(tmp_path: Path, model: str) -> None:
    rows = good_rows(COUNT)
    singles = {
        30: lambda row: answer(row, ""),
        60: lambda row: answer(row, f"export AWS_ACCESS_KEY_ID={KEY}"),
        90: lambda row: answer(row, "Write to maria.keller@gmail.com for help with this."),
        120: lambda row: row["messages"].pop(),
        150: lambda row: answer(row, "It is done.<|im_end|> Not quite."),
        200: mis_decoded,
    }
    for place, change in singles.items():
        change(rows[place])
    report = inspected(tmp_path / "rows.jsonl", rows, model)
    named = {row for found in report.findings for row in found.rows}
    assert {place + 1 for place in singles} <= named
    assert report.verdict == "not ready"
    assert "maria" not in report.model_dump_json() and KEY not in report.model_dump_json()
