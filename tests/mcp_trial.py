"""Servers on stdio whose tools hang, print and start jobs, forked from one process that has imported everything.

Each line on stdin is a request: `{"folder": ..., "kind": ...}`. The answer is a line with the ids of the server and of its
parent. The server reads `folder/in`, writes `folder/out` (both named pipes) and logs to `folder/log`; its parent writes the
exit code to `folder/code` when it ends.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp.server import MCPServer
from qlora_tools.server.logs import log_to_stderr
from qlora_tools.server.stdio import serve_stdio

from qlora_tools.jobs import launch

from .job_workspace import Jobs


@asynccontextmanager
async def broken(server: MCPServer) -> AsyncIterator[None]:
    """A bug in what surrounds all requests."""
    raise ZeroDivisionError("a bug")
    yield


def trial_server(folder: Path, kind: str) -> MCPServer:
    server: MCPServer = MCPServer("trial", lifespan=broken if kind == "bug" else None)

    @server.tool()
    def sleep(seconds: float) -> str:
        (folder / "sleeping").touch()
        time.sleep(seconds)
        return "slept"

    @server.tool()
    async def wait(seconds: float) -> str:
        (folder / "waiting").touch()
        await anyio.sleep(seconds)
        return "waited"

    @server.tool()
    def chatter() -> str:
        print("printed by Python")
        sys.stdout.write("without an end of line")
        os.write(1, b"written to descriptor 1\n")
        subprocess.run(["sh", "-c", "echo printed by a child; cat"], check=True)
        logging.getLogger("trial").warning("the key is %s", os.environ["TRIAL_KEY"])
        return repr(sys.stdin)

    @server.tool()
    def flood() -> str:
        return "x" * 2**21

    @server.tool()
    def train() -> str:
        launch.RUNNER_MODULE = "tests.job_trial"
        return Jobs(folder).start(steps=60).id

    return server


def serve(folder: Path, kind: str) -> None:
    os.dup2(os.open(folder / "in", os.O_RDONLY), 0)
    os.dup2(os.open(folder / "out", os.O_WRONLY), 1)
    os.dup2(os.open(folder / "log", os.O_WRONLY | os.O_CREAT), 2)
    # Another process of the test must not hold a pipe open by having been forked from this one.
    os.closerange(3, 64)
    streams = [open(number, mode, closefd=False) for number, mode in enumerate("rww")]  # noqa: SIM115
    sys.stdin, sys.stdout, sys.stderr = streams
    log_to_stderr()
    at_end = [(folder / "closed").touch, threading.Event().wait] if kind == "closing" else []
    serve_stdio(trial_server(folder, kind), at_end=at_end)


def parent(folder: Path, kind: str) -> None:
    """Start a server and tell how it ended."""
    child = os.fork()
    if not child:
        serve(folder, kind)
    (folder / "pids.new").write_text(json.dumps({"server": child, "parent": os.getpid()}))
    (folder / "pids.new").rename(folder / "pids")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    (folder / "code.new").write_text(str(code))
    (folder / "code.new").rename(folder / "code")
    os._exit(0)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            parent(Path(request["folder"]), request["kind"])


if __name__ == "__main__":
    main()
