"""Why a path is refused. `Access` says which field it came in."""

import re

_MOST_SHOWN = 120
_CUT_WORD_BEFORE = re.compile(r"[\w-]+\Z")
_CUT_WORD_AFTER = re.compile(r"\A[\w-]+")


class PathRefusedError(ValueError):
    """A path that may not be used: the reason, worded to follow the path, and what to do instead."""

    def __init__(self, reason: str, next_step: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.next_step = next_step


def shown(text: str) -> str:
    """`text` of unknown origin in quotes, with everything escaped that is not plain to see; a long one without its middle.

    No word is cut: whoever hides secrets further on would not know a part of one.
    """
    if len(text) <= _MOST_SHOWN:
        return repr(text)
    half = _MOST_SHOWN // 2
    return repr(f"{_CUT_WORD_BEFORE.sub('', text[:half])}...{_CUT_WORD_AFTER.sub('', text[-half:])}")
