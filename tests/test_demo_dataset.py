"""The committed demonstration dataset is what its generator writes, and is fit to train and score on."""

import json
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.demo import dataset, vocabulary

FIELDS = {
    "set_alarm": ["call", "time", "label"],
    "set_timer": ["call", "minutes", "label"],
    "add_event": ["call", "title", "day", "time"],
    "send_message": ["call", "to", "text"],
    "add_to_list": ["call", "list", "item", "quantity"],
    "set_device": ["call", "room", "device", "state", "level"],
    "play_music": ["call", "what", "room"],
}
SPLITS = ("train", "heldout")


def committed_bytes(split: str) -> bytes:
    return (files("qlora_tools.demo") / "data" / f"{split}.jsonl").read_bytes()


def turns(split: str) -> list[tuple[str, str, str]]:
    rows = [json.loads(line) for line in committed_bytes(split).decode("utf-8").splitlines()]
    for row in rows:
        assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    return [tuple(turn["content"] for turn in row["messages"]) for row in rows]


def sentences(split: str) -> list[str]:
    return [user for _, user, _ in turns(split)]


def answers(split: str) -> list[dict[str, Any]]:
    return [json.loads(assistant) for _, _, assistant in turns(split)]


def normalised(sentence: str) -> str:
    return " ".join(re.findall(r"\w+", sentence.lower()))


@pytest.mark.parametrize("split", SPLITS)
def test_committed_files_are_what_the_generator_writes(tmp_path: Path, split: str) -> None:
    dataset.write(tmp_path)
    assert (tmp_path / f"{split}.jsonl").read_bytes() == committed_bytes(split)


def test_another_seed_gives_other_rows() -> None:
    assert dataset.generate(1) == dataset.generate(1)
    assert dataset.generate(1) != dataset.generate(2)


def test_the_splits_have_960_and_160_rows_with_balanced_calls() -> None:
    for split, size in (("train", 960), ("heldout", 160)):
        counts = Counter(answer["call"] for answer in answers(split))
        assert sum(counts.values()) == size
        assert counts.keys() == FIELDS.keys()
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_sentence_is_repeated_within_or_across_the_splits() -> None:
    said = [normalised(sentence) for split in SPLITS for sentence in sentences(split)]
    assert [sentence for sentence, count in Counter(said).items() if count > 1] == []


def test_no_heldout_answer_occurs_in_training() -> None:
    trained = {assistant for _, _, assistant in turns("train")}
    assert [assistant for _, _, assistant in turns("heldout") if assistant in trained] == []


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_compact_json_with_the_fields_of_their_call_in_order(split: str) -> None:
    for system, _, assistant in turns(split):
        answer = json.loads(assistant)
        assert system == dataset.SYSTEM_PROMPT
        assert list(answer) == FIELDS[answer["call"]]
        assert assistant == json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("split", SPLITS)
def test_values_are_in_range(split: str) -> None:
    for answer in answers(split):
        assert re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", answer.get("time", "00:00"))
        assert 2 <= answer.get("minutes", 2) <= 180
        assert answer.get("state", "on") in ("on", "off")
        assert answer.get("level") is None or (answer["state"] == "on" and 0 < answer["level"] < 100)
        assert answer.get("quantity") is None or answer["quantity"] >= 2


@pytest.mark.parametrize("split", SPLITS)
def test_free_text_values_are_copied_from_the_sentence(split: str) -> None:
    for sentence, answer in zip(sentences(split), answers(split), strict=True):
        for field in ("label", "title", "to", "text", "list", "item", "room", "device", "state", "what"):
            implied = field == "state" and answer["call"] == "set_device" and answer["level"] is not None
            if answer.get(field) is not None and not implied:
                assert answer[field] in sentence
        if "day" in answer:
            assert answer["day"] in sentence.lower()


@pytest.mark.parametrize("split", SPLITS)
def test_sentences_are_short_and_clean(split: str) -> None:
    for sentence in sentences(split):
        assert len(sentence.split()) <= 16
        assert not re.search(r"\s\s|[{}_|]|^\s|\s$|,,|\s[,.?]", sentence), sentence
        assert sentence[-1].isalnum() or sentence[-1] in '.?%"', sentence
        assert not re.search(r"\ba (8|11|18|eight|eleven)\b|\ban? [aeiou]\w* timer\b", sentence), sentence


def test_heldout_rows_vary_in_call_opening_and_value() -> None:
    held, trained = answers("heldout"), answers("train")
    assert min(Counter(answer["call"] for answer in held).values()) >= 15
    assert len({" ".join(normalised(sentence).split()[:2]) for sentence in sentences("heldout")}) >= 25
    known = {value for answer in trained for value in answer.values()}
    with_new_value = [answer for answer in held if not known.issuperset(answer.values())]
    assert len(with_new_value) >= len(held) / 2


@pytest.mark.parametrize(
    ("hour", "minute", "wordings"),
    [
        (6, 45, ["6:45 am", "6:45 in the morning", "six forty five am", "quarter to seven in the morning", "06:45"]),
        (18, 30, ["6:30 pm", "6:30 in the evening", "six thirty pm", "half past six in the evening", "18:30"]),
        (13, 5, ["1:05 pm", "1:05 in the afternoon", "one oh five pm", "five past one in the afternoon", "13:05"]),
        (22, 0, ["10 pm", "10 at night", "ten pm", "ten o'clock at night", "22:00"]),
        (10, 30, ["10:30 am", "10:30 in the morning", "ten thirty am", "half past ten in the morning"]),
    ],
)
def test_a_time_is_only_said_in_ways_that_settle_the_half_of_the_day(
    hour: int, minute: int, wordings: list[str]
) -> None:
    assert dataset.clock_wordings(hour, minute) == wordings


def test_values_kept_for_the_heldout_split_are_not_shared() -> None:
    pools = [value for value in vars(vocabulary).values() if isinstance(value, vocabulary.Pool)]
    pools += [pool for kind in vocabulary.LISTS for pool in (kind.names, kind.counted, kind.uncounted)]
    assert len(pools) > 20
    for pool in pools:
        assert len({*pool.shared, *pool.held_out}) == len(pool.shared) + len(pool.held_out)
