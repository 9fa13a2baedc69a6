"""Serving on stdin and stdout: nothing but the protocol there, no thread for a message, and an end within two seconds."""

import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.stdio import stdio_server

from qlora_tools.errors import UsageError

from .ending import Ending
from .unreadable import answering

_GRACE_SECONDS = 0.8
_ANSWER_SECONDS = 0.6
_READ_BYTES = 64 * 1024
_LONGEST_LINE = 32 * 2**20
_TOO_LONG = "a line of more than 32 MiB"


def serve_stdio(server: MCPServer, *, at_end: Sequence[Callable[[], None]] = ()) -> None:
    """Serve until stdin ends, the parent dies, or SIGTERM, SIGINT or SIGHUP comes; then end the process with code 0.

    Raises `UsageError` where stdin or stdout is closed from the start.
    """
    if sys.stdin is None or sys.stdout is None:
        raise UsageError(
            "The server speaks on stdin and stdout, and one of them is closed.",
            next_step="Let an MCP client start it, or serve with --http.",
        )
    with Ending(grace_seconds=_GRACE_SECONDS, with_parent=True, at_end=at_end) as ending:
        anyio.run(_serve, server, ending)


def _taken_streams() -> tuple[int, int]:
    """Descriptors of the client's stdin and stdout, which nobody else has any more.

    What code or its children print goes to stderr from here on, and who asks for input gets none.
    """
    incoming, outgoing = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    sys.stdin, sys.stdout = None, sys.stderr
    return incoming, outgoing


async def _serve(server: MCPServer, ending: Ending) -> None:
    under_way = _UnderWay()
    server.middleware.append(under_way)
    stdin, stdout = _taken_streams()
    incoming = _Incoming(stdin, ending, under_way)
    # `MCPServer` runs on streams of its own choice only, which read and write in threads: half a millisecond a message.
    low = server._lowlevel_server
    streams: Any = stdio_server(stdin=incoming, stdout=_Outgoing(stdout))  # type: ignore[arg-type]
    async with streams as (read, write), anyio.create_task_group() as tasks:
        tasks.start_soon(incoming.end_when_told)
        await low.run(answering(read, write), write, low.create_initialization_options())
        tasks.cancel_scope.cancel()


class _UnderWay:
    """Counts requests that are being worked on."""

    def __init__(self) -> None:
        self._count = 0

    async def __call__(self, ctx: Any, call_next: Callable[[Any], Any]) -> Any:
        self._count += 1
        try:
            return await call_next(ctx)
        finally:
            self._count -= 1

    async def answered(self) -> None:
        """Wait until they are answered, but not for long: the SDK drops what is not when input ends."""
        moment = 0.03
        with anyio.move_on_after(_ANSWER_SECONDS):
            await anyio.sleep(moment)
            while self._count:
                await anyio.sleep(moment)
            await anyio.sleep(moment)


class _Incoming:
    """The client's lines, until stdin ends or the process is told to end: both are the end of input to the SDK."""

    def __init__(self, wire: int, ending: Ending, under_way: _UnderWay) -> None:
        self._wire = wire
        self._ending = ending
        self._under_way = under_way
        self._rest = bytearray()
        self._ended = False
        self._reading = anyio.CancelScope()

    def __aiter__(self) -> "_Incoming":
        return self

    async def __anext__(self) -> str:
        looked_at, too_long = 0, False
        while (end := self._rest.find(b"\n", looked_at)) < 0:
            if len(self._rest) > _LONGEST_LINE:
                too_long = True
                self._rest.clear()
            looked_at = len(self._rest)
            data = await self._more()
            if not data:
                break
            self._rest += data
        if end < 0 and not self._rest and not too_long:
            raise StopAsyncIteration
        line = self._rest[:end] if end >= 0 else self._rest[:]
        del self._rest[: end + 1 if end >= 0 else None]
        # What cannot be parsed is answered as such.
        return _TOO_LONG if too_long else line.decode("utf-8", errors="replace")

    async def end_when_told(self) -> None:
        """Wait for the process to be told to end, and then for no more input."""
        await anyio.wait_readable(self._ending.fileno())
        if not self._ended:
            self._ended = True
            self._reading.cancel()

    async def _more(self) -> bytes:
        if self._ended:
            return b""
        with anyio.CancelScope() as self._reading:
            # Files and the null device are always ready, and epoll takes none.
            with suppress(PermissionError):
                await anyio.wait_readable(self._wire)
            data = os.read(self._wire, _READ_BYTES)
            if not data:
                self._ended = True
                self._ending.begin()
                await self._under_way.answered()
            return data
        return b""


class _Outgoing:
    """Writes whole lines to the client."""

    def __init__(self, wire: int) -> None:
        self._wire = wire
        self._ready = select.poll()
        self._ready.register(wire, select.POLLOUT)

    async def write(self, text: str) -> None:
        """Write `text`; raises `BrokenPipeError` where nobody reads any more."""
        data = text.encode()
        # So much a pipe that is ready takes without waiting; what is longer waits in a thread for the client to read.
        if len(data) <= select.PIPE_BUF and self._ready.poll(0):
            os.write(self._wire, data)
        else:
            await anyio.to_thread.run_sync(partial(self._write_all, data))

    async def flush(self) -> None:
        """Nothing is held back."""

    def _write_all(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            # A client may have made the pipe one that never waits.
            self._ready.poll()
            with suppress(BlockingIOError):
                left = left[os.write(self._wire, left) :]
