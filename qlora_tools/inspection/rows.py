"""A row as the content checks see it: its texts, computed once."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

from ..data.examples import Conversation, Example, Message, PlainText, answer_texts, prompt_text
from .identify import language_of, prose_of

_WORD = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\\W_]+")
_ASCII_GAPS = {code: " " for code in range(128) if not chr(code).isalnum()}
_WORDS_READ = 4000  # of the longest rows, so that one of 100 MB costs no more than a long page


@dataclass(frozen=True)
class CheckedRow:
    """An example with its row number in the file, from 1."""

    number: int
    example: Example

    @cached_property
    def prompt(self) -> str:
        """All turns before the last answer; empty for plain text."""
        return prompt_text(self.example)

    @cached_property
    def asked(self) -> str:
        """What users wrote before the last answer: the prompt without system turns, results of tools and answers."""
        if isinstance(self.example, PlainText):
            return ""
        return "\n".join(turn["content"] for turn in self.example.messages if turn["role"] == "user")

    @property
    def last_question(self) -> str:
        """The last turn before the answer, where a user wrote it."""
        turns = () if isinstance(self.example, PlainText) else self.example.messages
        return next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), "")

    @property
    def answer_list(self) -> list[str]:
        """The texts of the assistant's turns."""
        return answer_texts(self.example)

    @cached_property
    def answer(self) -> str:
        """The last answer; the whole of plain text; empty where nobody answers, or only by calling tools."""
        texts = answer_texts(self.example)
        return texts[-1] if texts else ""

    @cached_property
    def answers(self) -> str:
        """All that is learnt as an answer, a line each."""
        texts = answer_texts(self.example)
        return texts[0] if len(texts) == 1 else "\n".join(texts)

    @cached_property
    def every_text(self) -> str:
        """Everything in the row that a person wrote or a model would learn: turns, thoughts and calls of tools."""
        if isinstance(self.example, PlainText):
            return self.example.text
        return "\n".join(text for turn in self.example.messages for text in _texts_of_turn(turn))

    @cached_property
    def language(self) -> str | None:
        """The language of the answers, or of the whole row where they are too short to tell."""
        answered = prose_of(self.answers)
        return language_of(answered) or language_of(f"{prose_of(self.asked)} {answered}")

    @cached_property
    def prompt_language(self) -> str | None:
        """The language of what users wrote, where there is enough to tell."""
        return language_of(prose_of(self.asked))

    @cached_property
    def digest(self) -> int:
        """Equal for rows that say the same, whitespace and case aside."""
        return text_digest(folded_example(self.example))

    @property
    def is_plain(self) -> bool:
        """Whether the row is text to continue rather than a conversation."""
        return isinstance(self.example, PlainText)


def words_of(row: CheckedRow) -> list[str]:
    """The words that tell a row from others, in lower case; letters where a script has no spaces between words.

    System turns are left out, since many rows share them.
    """
    text = f"{row.asked}\n{row.answers}"
    text = text[: 8 * _WORDS_READ].lower()
    words = text.translate(_ASCII_GAPS).split() if text.isascii() else _WORD.findall(text)
    return words[:_WORDS_READ]


def word_count(text: str) -> int:
    """Words; letters where a script has no spaces between words."""
    return len(text.split()) if text.isascii() else len(_WORD.findall(text))


def _texts_of_turn(turn: Message) -> list[str]:
    texts = [turn["content"]]
    if thought := turn.get("reasoning_content"):
        texts.append(thought)
    if calls := turn.get("tool_calls"):
        texts.extend(_texts_within(calls))
    return texts


def _texts_within(value: Any) -> Iterator[str]:
    """Keys and texts of a nested value: what a tool was called with."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _texts_within(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts_within(item)
    elif value is not None:
        yield str(value)


def text_digest(text: str) -> int:
    """64 bits of BLAKE2b: two of ten million texts share them by chance once in three hundred thousand data sets."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def folded(text: str) -> str:
    """The text with whitespace and case folded, for comparing."""
    return " ".join(text.split()).casefold()


def folded_example(example: Example) -> str:
    """All of an example, whitespace and case folded, with its roles; equal for rows that say the same."""
    if isinstance(example, Conversation):
        turns = (f"{turn['role']}\x1f{folded(chr(10).join(_texts_of_turn(turn)))}" for turn in example.messages)
        return "\x1e".join(turns)
    return folded(example.text)
