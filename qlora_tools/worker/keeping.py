"""The warm process: keeps a base and its adapters loaded and answers one request after another.

`python -m qlora_tools.worker.keeping` is talked to in JSON lines. On stdin: first the settings (`workspace`,
`idle_seconds`, `memory_limit_bytes`), then requests `{"id": N, "arguments": {...}}` and `{"cancel": N}`. On stdout, for each
request: `{"id": N, "begun": true}`, events `{"id": N, "event": {...}}`, then one of `{"id": N, "result": {...}}` and
`{"id": N, "error": {...}}`.

It ends, and with it all that it holds in memory: when stdin closes, so also when the caller is killed; when nobody asked
for `idle_seconds`; when a job of the workspace runs or waits, or another warm worker is asked for. On a GPU a job may not
wait: what is being answered then gets ten seconds. On a CPU it is answered to its end.
"""

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from ..errors import MachineError, QloraError
from ..events import RunEvent
from ..generation.request import Request
from ..generation.stopping import AnsweringStopped
from ..jobs.devices import devices_here
from ..jobs.layout import Workspace
from ..requirements import quiet_libraries
from .giving_way import GivingWay
from .keeper import Keeper

Document = dict[str, Any]
_LOOK_SECONDS = 0.25
_PROGRESS_SECONDS = 0.1


class Keeping:
    """Requests as they come in, and the life of the process around them."""

    def __init__(self, settings: Document, lines: "queue.Queue[Document]", stream: TextIO, way: GivingWay) -> None:
        self._lines = lines
        self._stream = stream
        self._way = way
        self._idle_seconds = float(settings["idle_seconds"])
        self._keeper = Keeper(settings.get("memory_limit_bytes"))
        self._cancelled: set[int] = set()

    def run(self) -> None:
        """Answer until there is a reason to end."""
        since = time.monotonic()
        while time.monotonic() - since < self._idle_seconds:
            try:
                line = self._lines.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self._way.wanted():
                    return
                continue
            if "cancel" in line:
                continue  # That answer was on its way already.
            self._answer(line)
            since = time.monotonic()

    def _answer(self, line: Document) -> None:
        number = int(line["id"])
        self._tell({"id": number, "begun": True})
        try:
            self._require_way()
            result = self._answered(number, line["arguments"])
        except QloraError as error:
            self._tell({"id": number, "error": error.as_dict()})
        else:
            self._tell({"id": number, "result": result})

    def _require_way(self) -> None:
        """Raise `MachineError` where this worker may not be on the machine now."""
        if self._way.on_gpu and self._way.wanted():
            raise self._gave_way()
        self._way.claim()

    def _answered(self, number: int, arguments: Document) -> Document:
        began, told = time.monotonic(), [0.0]

        def tell(event: RunEvent) -> None:
            now = time.monotonic()
            due = now - told[0] >= _PROGRESS_SECONDS
            if event.kind != "progress" or due:
                told[0] = now if event.kind == "progress" else told[0]
                values = dict(event.values)
                self._tell({"id": number, "event": {"kind": event.kind, "message": event.message, "values": values}})

        def stop() -> bool:
            self._read_cancels()
            return number in self._cancelled or self._way.overdue()

        request = Request.of(**arguments)
        sessions = self._keeper.sessions(request.adapters, request.base_precision, tell)
        try:
            return request.answered(sessions, began=began, on_event=tell, stop=stop).model_dump(mode="json")
        except AnsweringStopped as stopped:
            if number in self._cancelled:
                raise
            raise self._gave_way(stopped) from None

    def _gave_way(self, stopped: AnsweringStopped | None = None) -> MachineError:
        so_far = f" {stopped.done} of {stopped.total} prompts were answered." if stopped else ""
        return MachineError(
            f"The model is not kept in memory now: {self._way.reason}.{so_far}",
            next_step="Ask again when that has ended (get_job waits for a job), or stop the job with a checkpoint first.",
        )

    def _read_cancels(self) -> None:
        """Take the cancels out of what came in; requests behind them keep their order."""
        if self._lines.empty():
            return
        later = []
        while not self._lines.empty():
            line = self._lines.get()
            if "cancel" in line:
                self._cancelled.add(int(line["cancel"]))
            else:
                later.append(line)
        for line in later:
            self._lines.put(line)

    def _tell(self, document: Document) -> None:
        self._stream.write(json.dumps(document) + "\n")
        self._stream.flush()


def main() -> None:
    """Serve the process that started this one. A bug shows its traceback on stderr and ends with code 1."""
    settings = json.loads(sys.stdin.readline())
    lines: queue.Queue[Document] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), name="stdin", daemon=True).start()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    way = GivingWay(Workspace.at(Path(settings["workspace"])), on_gpu=bool(devices_here(visible)))
    keeping = Keeping(settings, lines, os.fdopen(os.dup(1), "w", encoding="utf-8"), way)
    # What libraries print is no answer.
    os.dup2(2, 1)
    quiet_libraries()
    keeping.run()
    # Threads of libraries and a loaded GPU take seconds to wind down, and a job may be waiting.
    os._exit(0)


def _read(lines: "queue.Queue[Document]") -> None:
    for line in sys.stdin:
        lines.put(json.loads(line))
    os._exit(0)  # Nobody is there to be answered.


if __name__ == "__main__":
    main()
