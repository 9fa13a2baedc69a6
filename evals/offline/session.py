"""What an agent says to a server and hears from it, with every call counted; the connection may be lost."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from qlora_tools.server import ServerOptions, build_server
from qlora_tools.server.work import WorkRoom

from qlora_tools.access import Access

# JSON has about 3.4 characters a token in the tokenizer of SmolLM2, and more in those of larger models.
CHARACTERS_PER_TOKEN = 3.4
_LOST = "Error: The connection to the server was lost before it answered."
_HANGS_UP = (MCPError, anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream, ExceptionGroup)
_SERVER = "evals.offline.served"
Connect = Callable[[], Any]


@dataclass(frozen=True)
class Call:
    """A tool and its arguments."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def with_arguments(self, **more: Any) -> "Call":
        """The same call with some arguments changed."""
        return Call(self.tool, {**self.arguments, **more})


@dataclass(frozen=True)
class Reply:
    """What came back. `lost` says that nothing did."""

    text: str
    structured: Mapping[str, Any]
    is_error: bool
    lost: bool = False


@dataclass
class Counted:
    """Calls, those that wait for a job, and characters; the folder of a task counts as `/data`, wherever it is."""

    calls: int = 0
    waits: int = 0
    sent: int = 0
    received: int = 0


class Session:
    """A connection to one server. `mishap` is asked after each call is sent, and may take the answer away."""

    def __init__(self, connect: Connect, folder: Path, mishap: Callable[[Call], bool] | None = None) -> None:
        self._connect = connect
        self._folder = str(folder)
        self._mishap = mishap
        self._closing: list[Any] = []
        self.counted = Counted()
        self.tools: dict[str, dict[str, Any]] = {}
        self.list_characters = 0

    def __enter__(self) -> "Session":
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def call(self, call: Call) -> Reply:
        """Make a call. Whatever goes wrong is a reply."""
        self.counted.calls += 1
        self.counted.waits += "wait_seconds" in call.arguments
        self.counted.sent += self._characters({"name": call.tool, "arguments": dict(call.arguments)})
        answer = self._portal.start_task_soon(self._client.call_tool, call.tool, dict(call.arguments))
        taken = self._mishap is not None and self._mishap(call)
        try:
            result = answer.result()
        except _HANGS_UP:
            taken = True
        if taken:
            self.counted.received += len(_LOST)
            return Reply(_LOST, {}, is_error=True, lost=True)
        text = "\n".join(part.text for part in result.content if part.type == "text")
        structured = result.structured_content or {}
        self.counted.received += self._characters(text) + (self._characters(structured) if structured else 0)
        return Reply(text, structured, is_error=bool(result.is_error))

    def open_again(self) -> None:
        """Begin anew, as a client does whose server is gone."""
        self._close()
        self._open()

    def _open(self) -> None:
        holding = start_blocking_portal()
        self._portal: BlockingPortal = holding.__enter__()
        client = self._portal.wrap_async_context_manager(Client(self._connect()))
        self._client: Client = client.__enter__()
        self._closing = [client, holding]
        listed = self._portal.call(self._client.list_tools).tools
        shown = [json.loads(tool.model_dump_json(by_alias=True, exclude_none=True)) for tool in listed]
        self.tools = {tool["name"]: tool for tool in shown}
        self.list_characters = self._characters(shown)

    def _close(self) -> None:
        for context in self._closing:
            with suppress(*_HANGS_UP):
                context.__exit__(None, None, None)
        self._closing = []

    def _characters(self, value: Any) -> int:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return len(text.replace(self._folder, "/data"))


@contextmanager
def in_memory(folder: Path, *, read_only: bool = False) -> Iterator[Connect]:
    """A server in this process."""
    room = WorkRoom(folder)
    yield lambda: build_server(ServerOptions(Access(folder), read_only=read_only), room)
    room.close()


@contextmanager
def over_stdio(folder: Path, pid_file: Path) -> Iterator[Connect]:
    """The command `qlora mcp` in a process of its own, whose id it writes to `pid_file`."""
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", _SERVER, str(pid_file), "mcp", "--workspace", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        cwd=folder,
    )
    with pid_file.with_suffix(".log").open("w", encoding="utf-8") as log:
        yield lambda: stdio_client(parameters, errlog=log)
