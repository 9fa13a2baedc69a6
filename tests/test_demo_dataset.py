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
    "set_timer": ["call", "label", "minutes"],
    "send_message": ["call", "to", "text"],
    "add_to_list": ["call", "list", "item"],
    "set_device": ["call", "room", "device", "state"],
    "play_music": ["call", "what", "room"],
}
SPLITS = ("train", "heldout")


def committed_bytes(split: str) -> bytes:
    return (files("qlora_tools.demo") / "data" / f"{split}.jsonl").read_bytes()


def data_card() -> str:
    return (files("qlora_tools.demo") / "data" / "README.md").read_text(encoding="utf-8")


def turns(split: str) -> list[tuple[str, str, str]]:
    rows = [json.loads(line) for line in committed_bytes(split).decode("utf-8").splitlines()]
    for row in rows:
        assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    return [tuple(turn["content"] for turn in row["messages"]) for row in rows]


def sentences(split: str) -> list[str]:
    return [user for _, user, _ in turns(split)]


def answers(split: str) -> list[dict[str, Any]]:
    return [json.loads(assistant) for _, _, assistant in turns(split)]


def pools() -> list[vocabulary.Pool]:
    single = [value for value in vars(vocabulary).values() if isinstance(value, vocabulary.Pool)]
    return single + [pool for kind in vocabulary.LISTS for pool in kind]


def says(sentence: str, value: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", sentence) is not None


def normalised(sentence: str) -> str:
    return " ".join(re.findall(r"\w+", sentence.lower()))


@pytest.mark.parametrize("split", SPLITS)
def test_committed_files_are_what_the_generator_writes(tmp_path: Path, split: str) -> None:
    dataset.write(tmp_path)
    assert (tmp_path / f"{split}.jsonl").read_bytes() == committed_bytes(split)


def test_another_seed_gives_other_rows() -> None:
    assert dataset.generate(1) == dataset.generate(1)
    assert dataset.generate(1) != dataset.generate(2)


def test_the_splits_have_900_and_150_rows_with_as_many_of_each_call() -> None:
    for split, of_each in (("train", 180), ("heldout", 30)):
        assert Counter(answer["call"] for answer in answers(split)) == dict.fromkeys(FIELDS, of_each)


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
def test_every_value_is_copied_whole_from_the_sentence(split: str) -> None:
    for sentence, answer in zip(sentences(split), answers(split), strict=True):
        for field in FIELDS[answer["call"]][1:]:
            assert says(sentence, str(answer[field])), (sentence, field)


@pytest.mark.parametrize("split", SPLITS)
def test_minutes_are_whole_numbers_and_states_are_on_or_off(split: str) -> None:
    for answer in answers(split):
        for field, value in answer.items():
            assert isinstance(value, int) == (field == "minutes")
    assert {answer["state"] for answer in answers(split) if "state" in answer} == {"on", "off"}
    assert {answer["minutes"] for answer in answers(split) if "minutes" in answer} <= set(range(2, 91))


@pytest.mark.parametrize("split", SPLITS)
def test_sentences_are_short_and_clean(split: str) -> None:
    for sentence in sentences(split):
        assert len(sentence.split()) <= 14
        assert not re.search(r"\s\s|[{}_|]|^\s|\s$|,,|\s[,.?]", sentence), sentence
        assert sentence[-1].isalnum() or sentence[-1] in ".?", sentence
        assert not re.search(r"\ba (8\d?|11|18) |\ban (?!8\d? |11 |18 )", sentence), sentence


def test_heldout_rows_vary_in_opening_and_value() -> None:
    held, trained = answers("heldout"), answers("train")
    assert len({" ".join(normalised(sentence).split()[:2]) for sentence in sentences("heldout")}) >= 50
    known = {value for answer in trained for value in answer.values()}
    with_new_value = [answer for answer in held if not known.issuperset(answer.values())]
    assert len(with_new_value) >= len(held) * 0.6


def test_half_of_the_heldout_sentences_say_a_word_that_training_never_says() -> None:
    kept = [value for pool in pools() for value in pool.held_out]
    trained = "\n".join(sentences("train"))
    assert [value for value in kept if says(trained, value)] == []
    with_kept_value = [said for said in sentences("heldout") if any(says(said, value) for value in kept)]
    assert len(with_kept_value) >= len(sentences("heldout")) / 2
    assert f"{len(with_kept_value)} of its 150 sentences" in data_card()


def test_the_rows_shown_in_the_data_card_are_training_rows() -> None:
    shown = re.findall(r"^\| (.+) \| `(\{.+\})` \|$", data_card(), flags=re.MULTILINE)
    assert len(shown) == len(FIELDS)
    assert set(shown) <= {(sentence, assistant) for _, sentence, assistant in turns("train")}


def test_a_value_kept_for_the_heldout_split_is_in_one_list_only() -> None:
    shared = {value for pool in pools() for value in pool.shared}
    kept = Counter(value for pool in pools() for value in pool.held_out)
    assert [value for value, count in kept.items() if count > 1 or value in shared] == []
    assert all(len(set(pool.shared)) == len(pool.shared) and pool.held_out for pool in pools())
