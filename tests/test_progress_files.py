"""The metrics file is read while it grows, after kills, and from its end; pace and words of time."""

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.progress import CourseReader, Pace, duration_words, read_course, status_line, tail


def line(step: int, **values: Any) -> str:
    return json.dumps({"step": step, **values}) + "\n"


def losses(count: int, start: int = 1) -> str:
    return "".join(line(step, loss=1 / step) for step in range(start, start + count))


def test_a_course_has_its_records_in_order_and_the_latest_value_of_each_key(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, loss=2.0, learning_rate=1e-4) + line(2, loss=1.5) + line(2, evaluation_loss=1.6))
    course = read_course(path)
    assert course.losses == {1: 2.0, 2: 1.5}
    assert course.evaluation_losses == {2: 1.6}
    assert course.last == {"step": 2, "loss": 1.5, "evaluation_loss": 1.6, "learning_rate": 1e-4}
    assert course.unreadable_lines == 0


def test_a_file_that_is_not_there_yet_is_an_empty_course(tmp_path: Path) -> None:
    missing = tmp_path / "metrics.jsonl"
    assert read_course(missing).records == []
    assert read_course(missing).last == {}
    assert tail(missing, 3) == []
    assert CourseReader(missing).new_records() == []


def test_steps_that_a_resumed_run_makes_again_are_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(losses(8) + line(5, event="resumed") + line(6, loss=60) + line(7, loss=70))
    course = read_course(path)
    assert list(course.losses) == [1, 2, 3, 4, 5, 6, 7]
    assert (course.losses[6], course.losses[7]) == (60, 70)
    assert course.events == [{"step": 5, "event": "resumed"}]


def test_a_step_told_again_without_a_word_replaces_the_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(losses(8) + line(6, evaluation_loss=9) + line(4, loss=40))
    assert list(read_course(path).losses) == [1, 2, 3, 4]
    assert read_course(path).losses[4] == 40


def test_torn_and_foreign_lines_are_passed_by_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    garbage = b'\x00\xff\x00\n[1]\n{"step": "x"}\n{"step": -1}\n' + b"[" * 100_000 + b"\n" + b"x" * 200_000 + b"\n"
    path.write_bytes(losses(3).encode() + garbage + line(4, loss=0.5).encode() + b'{"step": 5, "lo')
    course = read_course(path)
    assert list(course.losses) == [1, 2, 3, 4]
    assert course.unreadable_lines == 7


def test_a_line_glued_to_one_that_a_kill_tore_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(losses(8) + '{"step": 9, "lo' + line(5, event="resumed") + line(6, loss=60))
    assert list(read_course(path).losses) == [1, 2, 3, 4, 5, 6]


def test_numbers_that_are_none_become_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN}\n{"step": 2, "loss": 1e999}\n{"step": 3, "loss": null, "note": "x"}\n')
    assert read_course(path).series("loss") == {1: None, 2: None, 3: None}
    assert read_course(path).losses == {}
    assert "note" not in read_course(path).last


def test_only_the_wanted_values_are_held(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, loss=1, tokens=5, seconds=2) + line(1, host_bytes=3) + line(2, tokens=6))
    assert read_course(path, keys=("tokens",)).records == [
        {"step": 1, "loss": 1, "tokens": 5},
        {"step": 2, "tokens": 6},
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 5_000, 20_000])
def test_the_tail_is_the_end_of_the_course(tmp_path: Path, count: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(losses(9_000))
    everything = read_course(path).records
    assert tail(path, count) == (everything[-count:] if count else [])


def test_the_tail_of_a_file_that_ends_in_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(losses(5) + '{"step": 6')
    assert [record["step"] for record in tail(path, 3)] == [4, 5]


def test_a_reader_gives_each_record_once_while_the_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = CourseReader(path)
    seen = []
    for start in range(1, 30, 3):
        with path.open("a") as file:
            text = losses(3, start)
            file.write(text[:-4])
            file.flush()
            seen += reader.new_records()
            file.write(text[-4:])
        seen += reader.new_records()
    assert [record["step"] for record in seen] == list(range(1, 31))
    assert reader.new_records() == []
    assert reader.restarts == reader.unreadable_lines == 0


def test_a_reader_starts_anew_when_the_file_is_replaced_emptied_or_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = CourseReader(path)
    path.write_text(losses(4))
    assert len(reader.new_records()) == 4
    path.write_text(losses(2))
    assert len(reader.new_records()) == 2
    path.write_text(losses(9, start=3))
    assert [record["step"] for record in reader.new_records()] == list(range(3, 12))
    (tmp_path / "other").write_text(losses(9, start=3) + losses(1, start=50))
    (tmp_path / "other").rename(path)
    assert len(reader.new_records()) == 10
    path.unlink()
    assert reader.new_records() == []
    path.write_text(losses(1))
    assert len(reader.new_records()) == 1
    assert reader.restarts == 4


def test_a_reader_can_begin_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(losses(50))
    reader = CourseReader(path, last=2)
    assert [record["step"] for record in reader.new_records()] == [49, 50]
    with path.open("a") as file:
        file.write(losses(1, 51))
    assert [record["step"] for record in reader.new_records()] == [51]
    assert reader.restarts == 0


def test_a_reader_takes_a_long_file_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(losses(1) + "x" * (9 * 2**20) + "\n" + losses(3, 2))
    reader, seen = CourseReader(path), []
    for _ in range(4):
        seen += reader.new_records()
    assert [record["step"] for record in seen] == [1, 2, 3, 4]


def test_the_pace_is_that_of_recent_steps_and_one_slow_step_changes_nothing() -> None:
    pace = Pace(1000)
    assert (pace.step_seconds, pace.eta_seconds) == (None, None)
    clock = 0.0
    for step in range(1, 101):
        clock += 60.0 if step in (1, 95) else (2.0 if step < 60 else 0.5)
        pace.feed(step, clock)
    assert pace.step_seconds == pytest.approx(0.5)
    assert pace.eta_seconds == pytest.approx(450, rel=0.05)


def test_evaluations_and_checkpoints_count_apart_from_steps() -> None:
    pace = Pace(1000)
    clock = 0.0
    for step in range(1, 401):
        clock += 1.0
        pace.feed(step, clock, step_seconds=1.0)
        if step % 100 == 0:
            clock += 50.0
            pace.feed(step, clock)
    assert pace.step_seconds == pytest.approx(1.0)
    assert pace.pause_seconds == pytest.approx(0.5, rel=0.02)
    assert pace.eta_seconds == pytest.approx(600 * 1.5, rel=0.02)


def test_one_long_pause_is_not_expected_again() -> None:
    pace = Pace(1000)
    pace.feed(1, 1, step_seconds=1)
    pace.feed(2, 302, step_seconds=1)
    assert pace.eta_seconds == pytest.approx(998)


def test_a_clock_or_step_that_goes_back_gives_no_negative_time() -> None:
    pace = Pace(10)
    for step, clock in ((1, 100.0), (2, 101.0), (3, 5.0), (4, 6.0), (2, 7.0), (3, 6.5), (20, 8.0)):
        pace.feed(step, clock)
        assert (pace.step_seconds or 0) >= 0
        assert (pace.eta_seconds or 0) >= 0
    assert pace.eta_seconds == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0.0 s"), (0.42, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"),
     (3599.6, "1 h 00 min"), (3900, "1 h 05 min"), (86_399, "1 d 00 h"), (183_600, "2 d 03 h")],
)  # fmt: skip
def test_time_is_told_with_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words


def test_the_status_line_shows_what_is_known() -> None:
    values = {"step": 120, "planned_steps": 900, "loss": 1.2341, "evaluation_loss": 1.31, "tokens_per_second": 5120.4,
              "peak_allocated_bytes": 9.4 * 2**30, "eta_seconds": 3900}  # fmt: skip
    assert status_line(values) == "step 120/900 · loss 1.234 · eval 1.310 · 5,120 tokens/s · 9.4 GiB · ETA 1 h 05 min"
    assert status_line({"step": 1, "loss": None, "evaluation_loss": float("nan")}) == "step 1"
    assert status_line({"step": 1, "peak_allocated_bytes": 0, "host_bytes": 2**31}) == "step 1 · 2.0 GiB"
