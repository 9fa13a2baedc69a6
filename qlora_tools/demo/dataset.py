"""The demonstration dataset: spoken requests to a home assistant, each answered by one JSON call.

The rows are drawn from phrasings and word lists with a seeded generator, so the committed files can be rewritten byte
for byte with `python -m qlora_tools.demo.dataset`. No answer of the held-out split occurs in the training split.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TypeAlias, TypedDict, TypeVar

from qlora_tools.demo import vocabulary as words
from qlora_tools.demo.vocabulary import Phrasings, Pool

SYSTEM_PROMPT = "Turn the request into one JSON call."
TRAIN_ROWS = 900
HELD_OUT_ROWS = 150
LONGEST_SENTENCE = 14
KEPT_VALUES = 0.4  # how often a held-out row takes a value that training never sees

Choice = TypeVar("Choice")
Value: TypeAlias = str | int
Answer: TypeAlias = dict[str, Value]
Slots: TypeAlias = dict[str, str]


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class Row(TypedDict):
    """One example in the chat format: the system prompt, the request and the call."""

    messages: list[Message]


class Draw:
    """Seeded choices for one split; only the held-out split draws values that are kept for it."""

    def __init__(self, rng: Random, held_out: bool) -> None:
        self._rng = rng
        self._held_out = held_out

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._rng.random() < probability

    def one(self, options: Sequence[Choice]) -> Choice:
        """One of the options, each as likely."""
        return self._rng.choice(options)

    def word(self, pool: Pool) -> str:
        """A value of the pool that this split may use."""
        return self.one(pool.held_out if self._held_out and self.chance(KEPT_VALUES) else pool.shared)


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase.startswith(('8', '11 ', '18 ')) else 'a'} {phrase}"


def _timer(draw: Draw, _pattern: str) -> tuple[Slots, Answer]:
    minutes = draw.one(range(2, 91))
    slots = {"duration": f"{minutes} minutes", "sized": _with_article(f"{minutes} minute")}
    label = draw.word(words.TIMER_LABELS)
    return slots | {"label": label}, {"label": label, "minutes": minutes}


def _message(draw: Draw, _pattern: str) -> tuple[Slots, Answer]:
    slots = {"place": draw.word(words.PLACES), "food": draw.word(words.FOODS), "thing": draw.word(words.THINGS)}
    slots |= {"day": draw.one(words.WEEKDAYS), "hour": draw.one(words.HOURS), "delay": draw.one(words.DELAYS)}
    text = draw.one(words.TEXTS).format(**slots)
    to = draw.word(words.NAMES)
    return {"to": to, "text": text}, {"to": to, "text": text}


def _list_item(draw: Draw, _pattern: str) -> tuple[Slots, Answer]:
    kind = draw.one(words.LISTS)
    name, item = draw.word(kind.names), draw.word(kind.items)
    return {"list": name, "item": item}, {"list": name, "item": item}


def _device(draw: Draw, pattern: str) -> tuple[Slots, Answer]:
    room, device = draw.word(words.ROOMS), draw.word(words.SWITCHED)
    slots = {"room": room, "device": device, "on": "on", "off": "off"}
    slots["it"] = "them" if device.endswith("s") else "it"
    return slots, {"room": room, "device": device, "state": "off" if "{off}" in pattern else "on"}


def _music(draw: Draw, _pattern: str) -> tuple[Slots, Answer]:
    what = draw.word(words.GENRES)
    if draw.chance(0.6):
        what = f"{draw.word(words.STYLES)} {what}"
    said = f"{draw.one(('some ', 'a bit of ', ''))}{what}"
    room = draw.word(words.ROOMS)
    return {"music": said, "room": room}, {"what": what, "room": room}


Fill: TypeAlias = Callable[[Draw, str], tuple[Slots, Answer]]
CALLS: dict[str, tuple[Phrasings, Fill]] = {
    "set_timer": (words.TIMER, _timer),
    "send_message": (words.MESSAGE, _message),
    "add_to_list": (words.LIST, _list_item),
    "set_device": (words.DEVICE, _device),
    "play_music": (words.MUSIC, _music),
}


def _lead_in(draw: Draw, is_command: bool) -> tuple[list[str], bool]:
    openings, question = [], False
    if draw.chance(0.35):
        deferring = is_command and draw.chance(0.4)
        openings.append(f"{draw.one(words.DEFERENCE if deferring else words.ATTENTION)},")
    if is_command and draw.chance(0.5):
        question = draw.chance(0.6)
        openings.append(draw.one(words.QUESTIONS if question else words.REQUESTS))
    return openings, question


def _sentence(draw: Draw, pattern: str, slots: Slots, is_command: bool) -> str:
    openings, question = _lead_in(draw, is_command)
    sentence = " ".join([*openings, pattern.format(**slots)])
    # After a dictated text a courtesy could be part of the text.
    if draw.chance(0.15) and not question and "please" not in sentence and not pattern.endswith("{text}"):
        courtesies = ("please", *words.THANKS) if is_command else words.THANKS
        sentence += f", {draw.one(courtesies)}"
    if draw.chance(0.6):
        sentence = sentence[0].upper() + sentence[1:]
    return sentence + draw.one(("?" if question else ".", ""))


def _example(draw: Draw, call: str) -> tuple[str, str]:
    phrasings, fill = CALLS[call]
    pattern = draw.one(phrasings.commands + phrasings.plain)
    slots, answer = fill(draw, pattern)
    sentence = _sentence(draw, pattern, slots, pattern in phrasings.commands)
    return sentence, json.dumps({"call": call, **answer}, ensure_ascii=False, separators=(",", ":"))


def _normalised(sentence: str) -> str:
    return "".join(character for character in sentence.lower() if character.isalnum())


def _fresh_examples(draw: Draw, count: int, taken: set[str]) -> list[tuple[str, str]]:
    examples: list[tuple[str, str]] = []
    seen: set[str] = set()
    names = tuple(CALLS)
    while len(examples) < count:
        sentence, answer = _example(draw, names[len(examples) % len(names)])
        if answer in taken or _normalised(sentence) in seen or len(sentence.split()) > LONGEST_SENTENCE:
            continue
        seen.add(_normalised(sentence))
        examples.append((sentence, answer))
    return examples


def _row(sentence: str, answer: str) -> Row:
    turns = (("system", SYSTEM_PROMPT), ("user", sentence), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def generate(seed: int = 20261121) -> tuple[list[Row], list[Row]]:
    """The training rows and the held-out rows, in shuffled order, calls balanced in each."""
    rng = Random(seed)
    # The held-out split is drawn first, so that its answers can be kept out of training.
    held_out = _fresh_examples(Draw(rng, held_out=True), HELD_OUT_ROWS, taken=set())
    train = _fresh_examples(Draw(rng, held_out=False), TRAIN_ROWS, taken={answer for _, answer in held_out})
    rng.shuffle(train)
    rng.shuffle(held_out)
    return [_row(*example) for example in train], [_row(*example) for example in held_out]


def write(directory: Path) -> None:
    """Write `train.jsonl` and `heldout.jsonl`, one compact row a line."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train.jsonl", "heldout.jsonl"), generate(), strict=True):
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows]
        (directory / name).write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
