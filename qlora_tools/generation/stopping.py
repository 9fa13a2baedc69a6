"""Where an answer ends, and answering that was asked to end."""

from collections.abc import Sequence
from typing import Any, ClassVar

from ..errors import QloraError


class AnsweringStopped(QloraError):  # noqa: N818 - it names an outcome
    """Answering ended early because it was asked to."""

    exit_code: ClassVar[int] = 130

    def __init__(self, done: int, total: int) -> None:
        super().__init__(
            f"Answering was stopped: {done} of {total} prompts were answered.",
            next_step="Ask again; where answers go to a file, those that are in it are kept.",
        )
        self.done = done
        self.total = total


def holds_stop_string(tokenizer: Any, answer: Sequence[int], strings: Sequence[str]) -> bool:
    """Whether the end of an answer in tokens holds one of `strings`; earlier parts were looked at before."""
    # A token may be one byte, and a character four of them.
    reach = 4 * max(map(len, strings)) + 8
    tail = tokenizer.decode(answer[-reach:], skip_special_tokens=True)
    return any(text in tail for text in strings)


def answer_text(tokenizer: Any, answer: Sequence[int], strings: Sequence[str]) -> str:
    """The text of an answer, up to the first of `strings`."""
    text = str(tokenizer.decode(answer, skip_special_tokens=True))
    return text[: min((place for one in strings if (place := text.find(one)) >= 0), default=len(text))]


def partial_text(tokenizer: Any, answer: Sequence[int]) -> str:
    """The text of an unfinished answer, without a last character of which only some bytes are there."""
    return str(tokenizer.decode(answer, skip_special_tokens=True)).rstrip("\ufffd")
