"""Secrets are taken out of whatever a job writes or shows: values of the environment, and keys by their form."""

import os
import re
import threading
from contextlib import AbstractContextManager
from functools import cache
from typing import TextIO

from .disk import DISK_FULL

_NAMES = ("TOKEN", "KEY", "SECRET", "PASSWORD")
_LEAST_CHARACTERS = 8
_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[opsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|AKIA[0-9A-Z]{16}|xox[abprs]-[A-Za-z0-9-]{10,}|glpat-[\w-]{16,})"
)
_LONGEST_LINE = 64 * 1024


def hidden_secrets(text: str) -> str:
    """`text` with `[secret]` in the place of each."""
    for value in _values():
        text = text.replace(value, "[secret]")
    return _FORMS.sub("[secret]", text)


@cache
def _values() -> tuple[str, ...]:
    """Values of variables whose names tell that they are secret, the longest first."""
    found = {
        value.strip()
        for name, value in os.environ.items()
        if any(word in name.upper() for word in _NAMES) and _is_secret(value.strip())
    }
    return tuple(sorted(found, key=len, reverse=True))


def _is_secret(value: str) -> bool:
    # A path to a key and a switch (TOKENIZERS_PARALLELISM=false) say nothing.
    return len(value) >= _LEAST_CHARACTERS and not value.startswith("/")


# Of all streams, since both of a runner go to one log. A second signal may come in the middle of a line, in the same thread.
_locks = [threading.RLock()]


def writing() -> AbstractContextManager[bool]:
    """Inside it no other thread of this process writes to a stream that hides secrets."""
    return _locks[0]


def _renew_lock() -> None:
    """In a child that was forked while another thread wrote, nobody would ever give the lock back."""
    _locks[:] = [threading.RLock()]


os.register_at_fork(after_in_child=_renew_lock)


class HidingStream:
    """Stands before a text stream: whole lines pass, without secrets, and a full disk is no reason to fail.

    Any thread may write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""

    def write(self, text: str) -> int:
        """Take `text`; it appears when its line ends."""
        with writing():
            self._line += text
            end = max(self._line.rfind("\n"), self._line.rfind("\r")) + 1
            if not end and len(self._line) > _LONGEST_LINE:
                end = len(self._line)
            whole, self._line = self._line[:end], self._line[end:]
            if whole:
                self._pass_on(whole)
        return len(text)

    def flush(self) -> None:
        """Pass on the stream's own buffer; an unfinished line stays, since half a secret is not recognised."""
        with writing():
            self._pass_on("")

    def finish(self) -> None:
        """Pass on the unfinished line too."""
        with writing():
            line, self._line = self._line, ""
            self._pass_on(line)

    def isatty(self) -> bool:
        """Never: a log is no terminal."""
        return False

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def _pass_on(self, text: str) -> None:
        try:
            self._stream.write(hidden_secrets(text))
            self._stream.flush()
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
