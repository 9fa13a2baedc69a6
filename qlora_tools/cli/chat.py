"""`qlora generate --chat`: a conversation in the terminal."""

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from ..errors import UsageError
from ..events import StopAsked
from ..generation.adapters_asked import BasePrecision, opened
from ..generation.chat import Chat
from ..generation.sampling import Sampling
from ..untrusted import visible_text
from .text_stream import streaming

_HELP = (
    "/exit or Ctrl-D ends, /new begins anew, /use NAME lets another adapter or `base` answer, Ctrl-C ends an answer."
)


def run_chat(
    adapters: Mapping[str, Path], *, base_precision: BasePrecision, sampling: Sampling, system: str | None, base: bool
) -> None:
    """Talk until /exit, the end of stdin, or Ctrl-C at the prompt. `base` lets the base answer first."""
    with streaming() as stream:
        sessions = opened(adapters, base_precision, stream)
    chat = Chat(sessions, sampling, system, None if base else next(iter(sessions)))
    click.secho(_HELP, dim=True, err=True)
    while (line := _line(chat)) is not None:
        if line.strip():
            _turn(chat, line)


def _line(chat: Chat) -> str | None:
    """The next message; None where the person has had enough."""
    who = visible_text(chat.who or "base")
    try:
        line = input(f"{who}> ") if sys.stdin.isatty() else sys.stdin.readline() or None
    except (EOFError, KeyboardInterrupt):
        click.echo(err=True)
        return None
    return None if line is None or line.strip() == "/exit" else line.rstrip("\n")


def _turn(chat: Chat, line: str) -> None:
    word, _, rest = line.partition(" ")
    try:
        if word == "/new":
            chat.turns.clear()
        elif word == "/use":
            chat.use(rest.strip())
        elif word.startswith("/") and word[1:].isalpha():
            click.secho(_HELP, dim=True, err=True)
        else:
            with streaming() as stream, _interruptible() as stop:
                chat.say(line, stream, stop)
    except UsageError as error:
        click.echo(f"{error.message} {error.next_step}", err=True)


@contextmanager
def _interruptible() -> Iterator[StopAsked]:
    """Whether Ctrl-C was pressed: it ends the answer and not the chat."""
    pressed: list[int] = []

    def press(number: int, frame: FrameType | None) -> None:
        pressed.append(number)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
