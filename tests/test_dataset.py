"""The rows that a config names: several sources, weights, splits and samples, the same every time."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlora_tools.config import DataConfig
from qlora_tools.data.dataset import EvenSample, read_dataset, sample_rows, training_sources
from qlora_tools.data.examples import PlainText
from qlora_tools.errors import DataError

from .conftest import write_rows


def texts(path: Path, name: str, count: int) -> str:
    return str(write_rows(path / f"{name}.jsonl", [{"text": f"{name} {index}"} for index in range(count)]))


def data_of(path: str, **fields: Any) -> DataConfig:
    return DataConfig.model_validate({"path": path, **fields})


def learnt(config: DataConfig, seed: int = 0) -> list[str]:
    """The texts of one epoch, in the order of the sources."""
    rows = read_dataset(config, seed)
    numbers = rows.training.numbers
    found = dict(zip(numbers, rows.training.examples, strict=True))
    chosen = [found[numbers[place]] for place in rows.epoch(numbers, seed)]
    return [example.text for example in chosen if isinstance(example, PlainText)]


def test_sources_follow_one_another_and_rows_are_numbered_through_all_of_them(tmp_path: Path) -> None:
    first, second = texts(tmp_path, "a", 3), texts(tmp_path, "b", 2)
    rows = read_dataset(data_of(first, more_sources=[{"path": second}]), 0)
    assert rows.training.numbers == (1, 2, 3, 4, 5)
    assert rows.starts == (0, 3)
    assert rows.training.examples[3] == PlainText("b 0")


def test_a_weight_says_how_often_each_row_comes_in_an_epoch(tmp_path: Path) -> None:
    first, second = texts(tmp_path, "a", 10), texts(tmp_path, "b", 10)
    config = data_of(first, weight=0.3, more_sources=[{"path": second, "weight": 2.5}])
    epoch = Counter(learnt(config))
    assert {name: sum(count for text, count in epoch.items() if text.startswith(name)) for name in "ab"} == {
        "a": 3,
        "b": 25,
    }
    assert Counter(count for text, count in epoch.items() if text.startswith("b")) == {2: 5, 3: 5}
    assert max(count for text, count in epoch.items() if text.startswith("a")) == 1


def test_the_same_seed_mixes_the_same_rows_and_another_seed_others(tmp_path: Path) -> None:
    config = data_of(texts(tmp_path, "a", 40), weight=0.5)
    assert learnt(config, 1) == learnt(config, 1)
    assert learnt(config, 1) != learnt(config, 2)
    assert learnt(data_of(config.path)) == [f"a {index}" for index in range(40)]


def test_a_row_that_is_held_out_is_never_trained_whatever_its_weight(tmp_path: Path) -> None:
    config = data_of(texts(tmp_path, "a", 50), weight=3.0, evaluation_fraction=0.2)
    rows = read_dataset(config, 7)
    assert rows.evaluation is not None
    assert len(rows.evaluation.numbers) == 10
    assert set(rows.training.numbers).isdisjoint(rows.evaluation.numbers)
    assert len(rows.epoch(rows.training.numbers, 7)) == 120


def test_held_out_rows_can_be_another_split_of_the_same_folder(tmp_path: Path) -> None:
    texts(tmp_path, "train", 4)
    texts(tmp_path, "validation", 2)
    rows = read_dataset(data_of(str(tmp_path), evaluation_split="validation"), 0)
    assert rows.evaluation is not None
    assert [example.text for example in rows.evaluation.examples if isinstance(example, PlainText)] == [
        "validation 0",
        "validation 1",
    ]
    assert len(rows.training.examples) == 4


def test_rows_that_cannot_be_used_are_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"text": 3}\nnot json\n{"text": "four"}\n', encoding="utf-8")
    rows = read_dataset(data_of(str(path)), 0)
    assert rows.training.numbers == (1, 4)
    assert [number for number, _ in rows.unusable] == [2, 3]
    assert "a number, not text" in rows.unusable[0][1]


def test_a_dataset_without_a_usable_row_names_the_reasons(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": turns}] * 2)
    with pytest.raises(DataError, match="row 1: turn 2"):
        read_dataset(data_of(str(path)), 0)


def test_columns_of_other_names_are_read_as_the_config_says(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"frage": "Wer?", "antworten": {"text": ["Ich."]}}] * 3)
    config = data_of(str(path), format="question_answer", columns={"question": "frage", "answer": "antworten.text.0"})
    example = read_dataset(config, 0).training.examples[0]
    assert [turn["content"] for turn in example.messages] == ["Wer?", "Ich."]  # type: ignore[union-attr]


@given(st.integers(1, 400), st.integers(1, 50))
def test_a_sample_is_spread_evenly_and_never_too_large(count: int, most: int) -> None:
    sample = EvenSample(most)
    for number in range(count):
        sample.offer(number, PlainText("x"))
    kept = [number for number, _ in sample.rows()]
    assert sample.seen == count
    assert kept == sorted(set(kept))
    assert min(count, most) >= len(kept) >= min(count, most) // 2
    if count <= most:
        assert kept == list(range(count))
    if len(kept) > 2:
        gaps = [right - left for left, right in pairwise(kept)]
        assert max(gaps) <= 2 * min(gaps)


def test_a_sample_of_long_rows_holds_fewer_of_them() -> None:
    sample = EvenSample(1000)
    for number in range(100):
        sample.offer(number, PlainText("x" * 2_000_000))
    kept = sample.rows()
    assert 10 <= len(kept) <= 33
    assert sum(len(example.text) for _, example in kept if isinstance(example, PlainText)) <= 64_000_000


def test_a_sample_of_two_sources_counts_every_usable_row(tmp_path: Path) -> None:
    config = data_of(texts(tmp_path, "a", 30), more_sources=[{"path": texts(tmp_path, "b", 30)}])
    sample = sample_rows(training_sources(config), 20)
    assert (sample.usable, len(sample.examples)) == (60, 20)
    assert sum(number <= 30 for number in sample.numbers) == 10


def test_a_column_of_thoughts_that_is_not_read_is_told(tmp_path: Path) -> None:
    from qlora_tools.inspection import inspect_dataset

    rows = [
        {
            "question": f"What is {n} + 1?",
            "reasoning": f"One more than {n} is {n + 1}.",
            "answer": f"It is {n + 1}.",
            "id": n,
        }
        for n in range(60)
    ]
    report = inspect_dataset(str(write_rows(tmp_path / "rows.jsonl", rows)))
    told = {found.check: found.message for found in report.findings}
    assert told["columns_not_read"] == "Columns with text are not read: reasoning"
