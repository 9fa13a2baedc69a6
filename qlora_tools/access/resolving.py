"""From the text of a path to the place it means, with all links followed, and whether that place is allowed."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from .folders import Allowed, check_folder
from .names import check_letters, expanded
from .refusal import PathRefusedError

# What Linux takes in one call; a longer path cannot be resolved to its end.
_MAX_PATH_BYTES = 4096


@dataclass(frozen=True)
class Rule:
    """What is allowed for one purpose: relative text counts from `start`; `allowed` says `is_allowed` in words."""

    start: Path
    is_allowed: Allowed
    allowed: str
    next_step: str

    def resolve(self, text: str) -> Path:
        """The place that `text` means, without links. Raises `PathRefusedError` where it is not allowed.

        Nothing is asked about a place outside, not even whether it exists.
        """
        check_letters(text)
        path = real_path(self.start / expanded(text))
        if not self.is_allowed(path):
            raise PathRefusedError(f"lies outside; allowed is what lies {self.allowed}", self.next_step)
        # The target of a link has a name that nobody typed.
        check_letters(f"./{path.relative_to(self.start)}" if path.is_relative_to(self.start) else str(path))
        self._check_kind(path)
        return path

    def _check_kind(self, path: Path) -> None:
        try:
            if any(part.is_symlink() for part in (path, *path.parents)):
                raise PathRefusedError("is a link that leads in a circle", "Give the file or folder itself.")
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise PathRefusedError(f"cannot be looked at: {error.strerror}", "Check the permissions.") from None
        if stat.S_ISDIR(mode):
            check_folder(path, self.is_allowed)
        elif not stat.S_ISREG(mode):
            raise PathRefusedError("is a pipe, a socket or a device; allowed are files and folders", "Give a file.")


def real_path(path: Path) -> Path:
    """The absolute path with every link followed and every `..` taken; what does not exist stays as it is written."""
    real = os.path.realpath(path)
    if len(os.fsencode(real)) >= _MAX_PATH_BYTES:
        raise PathRefusedError(f"leads to a path of over {_MAX_PATH_BYTES:,} bytes", "Give a shorter path.")
    return Path(real)
