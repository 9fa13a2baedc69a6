"""Serving on stdin and stdout: nothing but the protocol there, and an end within two seconds."""

import io
import os
import select
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.from_thread
from mcp.server import MCPServer

from qlora_tools.errors import UsageError

from .ending import Ending

_GRACE_SECONDS = 0.8
_ANSWER_SECONDS = 0.6


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
        under_way = _UnderWay()
        server.middleware.append(under_way)
        # The SDK asks for its buffer, once.
        sys.stdin = SimpleNamespace(buffer=io.BufferedReader(_Incoming(ending, under_way)))  # type: ignore[assignment]
        anyio.run(server.run_stdio_async)


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


class _Incoming(io.RawIOBase):
    """What comes on stdin, until it ends or the process is told to end: both look like the end of input to the SDK.

    The SDK reads in a thread, which nothing could wake from a plain read.
    """

    def __init__(self, ending: Ending, under_way: _UnderWay) -> None:
        super().__init__()
        self._ending = ending
        self._under_way = under_way
        self._wire = os.dup(0)
        self._events = select.poll()
        self._events.register(self._wire, select.POLLIN)
        self._events.register(ending, select.POLLIN)
        # Ready as soon as nobody reads our stdout any more.
        self._events.register(os.dup(1), 0)
        # Children of tools inherit an empty stdin instead of the client's messages.
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for bytes and put them into `buffer`; 0 is the end."""
        # The SDK reads after it has taken both streams. What code prints from here on is log, and it gets no input.
        sys.stdin, sys.stdout = None, sys.stderr
        ready = {descriptor for descriptor, _ in self._events.poll()}
        if ready != {self._wire}:
            self._ending.begin()
            return 0
        data = os.read(self._wire, len(buffer))
        buffer[: len(data)] = data
        if not data:
            self._ending.begin()
            anyio.from_thread.run(self._under_way.answered)
        return len(data)
