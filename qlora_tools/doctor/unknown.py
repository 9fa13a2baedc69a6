"""What can be said of an error that no entry of the table tells: its kind, whose code raised it, where to go on."""

import re
from dataclasses import dataclass

from .log_text import LogText

UNKNOWN_ERROR = "unknown_error"
_RAISED = re.compile(
    r"^[^\w\"']{0,20}(?:\[?\w{0,12}\]?:? ?)?(?:[A-Za-z_]\w{0,60}\.){0,8}"
    r"(?P<name>[A-Z]\w{0,60}(?:Error|Exception|Exit|Interrupt))(?::|$)"
)
_FRAME = re.compile(r"(?:site|dist)-packages[/\\](?P<library>[A-Za-z]\w{0,60})[/\\.]")
_FRAMES_BEFORE = 80
_KINDS: dict[str, tuple[str, str]] = {
    "ImportError ModuleNotFoundError": (
        "A package or a name in it is missing: it is not installed, or of another version than the importing code expects.",
        "Install or upgrade the package that it names, with those that use it; restart a notebook's kernel.",
    ),
    "TypeError AttributeError NameError NotImplementedError": (
        "The code calls something that does not exist in this form: mostly a script and a library of different versions.",
        "Compare the call with the documentation of the installed version; upgrade the libraries together.",
    ),
    "KeyError IndexError StopIteration": (
        "A name or a row that the code counts on is not there: mostly a column, a key of a config, or an empty list.",
        "Look at the line of your own code nearest the error, and at what it was given.",
    ),
    "ValueError AssertionError ZeroDivisionError": (
        "A value was refused: mostly a setting, a shape, or a row that the code cannot use.",
        "Read what it asks for; compare the setting or row with that.",
    ),
    "OSError FileNotFoundError PermissionError ConnectionError TimeoutError": (
        "A file, a folder or a server could not be used.",
        "Check that it exists, may be read, and can be reached from this machine.",
    ),
    "RuntimeError": (
        "An operation failed while the program ran: mostly tensors of unfit shape, dtype or device, or a compiled library.",
        "Run with CUDA_LAUNCH_BLOCKING=1, so that the line it shows is the right one; run `qlora doctor` for the machine.",
    ),
}
_OTHER_KIND = (
    "An error that the table of failures does not hold.",
    "Read the first traceback above it, from the bottom up.",
)


@dataclass(frozen=True)
class UnknownError:
    """An error that was raised: its class, the library whose frame raised it, where it stands, what its kind tells.

    `index` counts the lines that were kept from 0, `line` those of the file from 1.
    """

    name: str
    library: str | None
    index: int
    line: int
    text: str
    cause: str
    next_step: str

    @property
    def title(self) -> str:
        """The class of the error and where it comes from."""
        return f"{self.name} in {self.library}" if self.library else self.name


def unknown_error(log: LogText) -> UnknownError | None:
    """The error that ended the log, as its last traceback tells; None where no error was raised."""
    for index in range(len(log.lines) - 1, -1, -1):
        match = _RAISED.match(log.lines[index].text)
        if match:
            cause, next_step = _kind(match["name"])
            line = log.lines[index]
            return UnknownError(match["name"], _library(log, index), index, line.number, line.text, cause, next_step)
    return None


def _library(log: LogText, raised: int) -> str | None:
    for line in reversed(log.lines[max(0, raised - _FRAMES_BEFORE) : raised]):
        if "Traceback (most recent call last)" in line.text:
            return None
        if match := _FRAME.search(line.text):
            return match["library"]
    return None


def _kind(name: str) -> tuple[str, str]:
    return next((told for names, told in _KINDS.items() if name in names.split()), _OTHER_KIND)
