"""Answers in the terminal, token by token."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

import click

from ..events import RunEvent
from ..requirements import quiet_libraries, require_training_libraries
from ..untrusted import visible_text


class TextStream:
    """Prints an answer as it grows on stdout; phases go to stderr."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = ""

    def __call__(self, event: RunEvent) -> None:
        """Show what is new."""
        if event.kind == "progress" and "partial" in event.values:
            self._show(visible_text(event.message))
        elif event.kind in ("phase", "warning", "note"):
            self.end()
            click.secho(visible_text(event.message), dim=True, err=True)

    def end(self) -> None:
        """End the line of an answer."""
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()
        self._shown = ""

    def _show(self, text: str) -> None:
        if not text.startswith(self._shown):
            self.end()  # A sequence for the terminal came in pieces: only the whole of it could be told and taken out.
        self._stream.write(text[len(self._shown) :])
        self._stream.flush()
        self._shown = text


@contextmanager
def streaming() -> Iterator[TextStream]:
    """A stream to stdout; what libraries print meanwhile goes to stderr.

    Raises `MissingLibraryError` where the light install cannot answer.
    """
    require_training_libraries("generating text")
    quiet_libraries()
    stream = TextStream(sys.stdout)
    with redirect_stdout(sys.stderr):
        yield stream
    stream.end()
