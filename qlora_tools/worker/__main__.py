"""The process of one piece of work; see the package."""

import json
import os
import sys
import threading
import time
from typing import Any, TextIO

from ..errors import QloraError
from ..events import RunEvent
from .tasks import TASKS

_PROGRESS_SECONDS = 0.2


class _Telling:
    """Writes JSON lines for the parent; of progress not more than it can look at."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told = 0.0

    def __call__(self, event: RunEvent) -> None:
        now = time.monotonic()
        if event.kind == "progress" and now - self._told < _PROGRESS_SECONDS:
            return
        self._told = now
        self.tell({"event": {"kind": event.kind, "message": event.message, "values": dict(event.values)}})

    def tell(self, document: dict[str, Any]) -> None:
        """One line."""
        self._stream.write(json.dumps(document) + "\n")
        self._stream.flush()


def main() -> None:
    """Do the work that stdin asks for. A bug shows its traceback on stderr and ends with code 1."""
    telling = _Telling(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    # What libraries print is no answer.
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_parent, name="parent-watcher", daemon=True).start()
    try:
        telling.tell({"result": TASKS[asked["task"]](asked["arguments"], telling)})
    except QloraError as error:
        telling.tell({"error": error.as_dict()})


def _end_with_the_parent() -> None:
    """The parent keeps our stdin open as long as it wants the answer."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
