"""Answers of the process that keeps base and adapters loaded, as work that a caller may wait for and come back to."""

import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qlora_tools.errors import MachineError, QloraError

if TYPE_CHECKING:
    from qlora_tools.events import RunEvent
    from qlora_tools.worker.warm import WarmWorker

Document = dict[str, Any]


class WarmWork:
    """One request to the warm process. It is asked in a thread; the process outlives it."""

    def __init__(self, worker: "WarmWorker", arguments: Mapping[str, Any]) -> None:
        self.event: Document = {"kind": "phase", "message": "Starting", "values": {}}
        self.began = time.monotonic()
        self.ended: float | None = None
        self._worker, self._arguments = worker, dict(arguments)
        self._answer: Document | None = None
        self._error: QloraError | None = None
        self._unexpected: BaseException | None = None
        self._given_up = False

    def start(self) -> None:
        """Ask. Once."""
        threading.Thread(target=self._ask, name="warm-work", daemon=True).start()

    @property
    def answer(self) -> Document:
        """The result. Raises what the process said is wrong, `MachineError` for what nobody foresaw."""
        if self._error is not None:
            raise self._error
        if self._answer is None:
            raise MachineError(
                f"Answering ended with an error of its own: {type(self._unexpected).__name__}: {self._unexpected}",
                next_step="This is a bug: report it with the server's log, which has the traceback.",
            )
        return self._answer

    def kill(self) -> None:
        """Give the answer up; the model stays loaded for the next request."""
        self._given_up = True

    def _ask(self) -> None:
        try:
            self._answer = self._worker.ask(
                "generate", self._arguments, on_event=self._take, stop=lambda: self._given_up
            )
        except QloraError as error:
            self._error = error
        finally:
            # Not caught: the thread's end writes the traceback to the log.
            self._unexpected = sys.exception()
            self.ended = time.monotonic()

    def _take(self, event: "RunEvent") -> None:
        self.event = {"kind": event.kind, "message": event.message, "values": dict(event.values)}
