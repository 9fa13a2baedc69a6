"""A log as numbered lines and as one flat text to look for phrases in; bounded memory whatever its size."""

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO

from ..untrusted import visible_text
from .vocabulary import in_english

_BLOCK_BYTES = 2**17
_HEAD_BLOCKS, _MARKED_BLOCKS, _TAIL_BLOCKS = 2, 4, 4
_MARKS = (b"Traceback (most recent call last)", b"Error: ", b"ERROR", b"Killed", b": nan")
_LINE_CHARACTERS = 2000
_TRACEBACK = "traceback (most recent call last)"
_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]")
_BOX = re.compile("[\u2500-\u257f\u2770-\u2771]")
_RANK = re.compile(r"^\[rank ?\d+\]: ?")
_LOSS = re.compile(r"\bloss\b['\" ]{0,3}[:=]? ?['\"]?\d")
_LEAST_LOSSES = 3
_FIELD = re.compile(
    r"torch|cuda|\bgpu|nvidia|nccl|transformers|\bpeft|lora|\btrl\b|accelerat|datasets?\b|hugging|\bhf[_-]|unsloth|llama|qwen"
    r"|mistral|gemma|gguf|ggml|vllm|deepspeed|token|tensor|checkpoint|bitsandbytes|adapter|epoch|\bloss|train|fine-?tun|model"
    r"|generat|flash.attn|triton|arrow|jsonl?\b|template|embedding|batch|wandb|quanti|swift|axolotl|numpy"
    r"|pip install|wheel|\.so\b|dll"
)
_LAUNCHER = re.compile(
    r"in simple_launcher|childfailederror|in elastic_launch|in launch_agent|in deepspeed_launcher|in cli_main"
)
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_NO_APOSTROPHE = re.compile(r"\b(do|does|did|is|are|was|wo|ca|have|has|could|would|should)nt\b", re.IGNORECASE)
_PROGRESS = re.compile(r"\d+%\|[^|]{0,500}\|")


@dataclass(frozen=True)
class Line:
    """One line, or one of the texts that carriage returns wrote over each other on it. Numbers count from 1."""

    number: int
    text: str


@dataclass
class LogText:
    """The lines that were kept. `flat` is all of them in lower-case ASCII with
    single spaces, for phrases to be found in."""

    lines: list[Line]
    starts: list[int] = field(init=False)
    flat: str = field(init=False)

    def __post_init__(self) -> None:
        parts, self.starts, length = [], [], 0
        for line in self.lines:
            part = _flat(line.text)
            self.starts.append(length)
            parts.append(part)
            length += len(part) + 1
        self.flat = " ".join(parts)

    def line_at(self, offset: int) -> Line:
        """The line of an offset in `flat`."""
        return self.lines[bisect_right(self.starts, offset) - 1]

    def offset_of(self, index: int) -> int:
        """The offset in `flat` at which a line starts."""
        return self.starts[index]

    def span_at(self, offset: int) -> tuple[int, int]:
        """Start and end in `flat` of the line of an offset."""
        index = bisect_right(self.starts, offset) - 1
        end = self.starts[index + 1] - 1 if index + 1 < len(self.starts) else len(self.flat)
        return self.starts[index], end

    @cached_property
    def is_of_this_field(self) -> bool:
        """Whether it speaks of models at all, or is one line only, which is what somebody wanted explained."""
        return len(self.lines) == 1 or _FIELD.search(self.flat) is not None

    @cached_property
    def last_survived(self) -> int:
        """Before this offset the run went on: the start of its last traceback, or its last loss."""
        losses = [match.start() for match in _LOSS.finditer(self.flat)]
        return max(self.last_chain, losses[-1] if len(losses) >= _LEAST_LOSSES else 0)

    @cached_property
    def has_traceback(self) -> bool:
        """Whether a traceback stands in it."""
        return _TRACEBACK in self.flat

    def _tracebacks(self) -> list[int]:
        """Where tracebacks start, without those of launchers, which only tell that a process ended."""
        starts = [match.start() for match in re.finditer(re.escape(_TRACEBACK), self.flat)]
        ends = [*starts[1:], len(self.flat)]
        own = [start for start, end in zip(starts, ends, strict=False) if not _LAUNCHER.search(self.flat, start, end)]
        return own or starts[:1]

    @cached_property
    def last_chain(self) -> int:
        """Where the last traceback starts, with those that it was raised from; 0 without one."""
        starts = self._tracebacks()
        links = ("during handling of the above exception", "direct cause of the following exception")
        for earlier, later in zip(reversed(starts[:-1]), reversed(starts[1:]), strict=True):
            if not any(self.flat.rfind(link, earlier, later) >= 0 for link in links):
                return later
        return starts[0] if starts else 0


def _flat(text: str) -> str:
    plain = in_english(_RANK.sub("", text).translate(_QUOTES))
    plain = _NO_APOSTROPHE.sub(r"\1n't", plain)
    return " ".join(plain.split()).encode("ascii", "replace").decode().lower()


def text_of(text: str) -> LogText:
    """The log in a text."""
    return LogText(list(_lines(enumerate(text.split("\n"), start=1))))


def read_log(stream: BinaryIO) -> LogText:
    """The log in a file: its beginning, its end, and between them the first places that speak of errors."""
    head: list[tuple[int, bytes]] = []
    tail: deque[tuple[int, bytes]] = deque(maxlen=_TAIL_BLOCKS)
    marked = 0
    for number, block in _blocks(stream):
        if len(head) < _HEAD_BLOCKS + marked:
            head.append((number, block))
        elif marked < _MARKED_BLOCKS and any(mark in block for mark in _MARKS):
            marked += 1
            head.append((number, block))
        else:
            tail.append((number, block))
    numbered = (
        (number + index, line.decode("utf-8", "replace"))
        for number, block in (*head, *tail)
        for index, line in enumerate(block.split(b"\n"))
    )
    return LogText(list(_lines(numbered)))


def _blocks(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 1
    while block := stream.read(_BLOCK_BYTES):
        block += stream.readline(_BLOCK_BYTES)
        yield number, block.removesuffix(b"\n")
        number += block.count(b"\n")


def _lines(numbered: Iterable[tuple[int, str]]) -> Iterator[Line]:
    """Without colours, frames and progress bars; of overwritten texts each one."""
    for number, raw in numbered:
        for part in _SEQUENCE.sub("", raw).split("\r"):
            text = _PROGRESS.sub(" ", _BOX.sub(" ", part)) if not part.isascii() or "%|" in part else part
            if text.strip():
                yield Line(number, _shortened(text))


def _shortened(text: str) -> str:
    if len(text) <= _LINE_CHARACTERS:
        return text
    return f"{text[: _LINE_CHARACTERS // 2]} ... {text[-_LINE_CHARACTERS // 2 :]}"


def shown_line(text: str, limit: int) -> str:
    """A line as it may be shown: one line, nothing invisible, of at most `limit` characters."""
    plain = " ".join(visible_text(text[: 4 * limit]).split())
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"
