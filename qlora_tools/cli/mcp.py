"""`qlora mcp`."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
from click.core import ParameterSource

from ..access import Access
from ..errors import UsageError
from ..hiding import hidden_secrets
from ..jobs.layout import WORKSPACE_VARIABLE
from ..paths import as_path

_ONLY_HTTP = {"host": "--host", "port": "--port", "allow_host": "--allow-host", "allow_origin": "--allow-origin"}


@click.command("mcp")
@click.option("--workspace", metavar="DIR", help=f"What the tools work in. Default: {WORKSPACE_VARIABLE}, else here.")
@click.option("--allow-read", multiple=True, metavar="DIR", help="A directory they may read beside it; repeatable.")
@click.option("--read-only", is_flag=True, help="Leave out every tool that changes anything.")
@click.option("--http", is_flag=True, help="Serve Streamable HTTP instead of stdin and stdout.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on, with --http.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
@click.option("--allow-host", multiple=True, metavar="HOST[:PORT]", help="A name clients call this by; repeatable.")
@click.option("--allow-origin", multiple=True, metavar="ORIGIN", help="A web page's origin that may call; repeatable.")
def command(
    workspace: str | None,
    allow_read: tuple[str, ...],
    read_only: bool,
    http: bool,
    host: str,
    port: int,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
) -> None:
    """Serve the tools over MCP, for agents such as Claude Code, Codex or Cursor. They start it; you register it.

    \b
      Claude Code    claude mcp add qlora -- qlora mcp --workspace /path/to/project
      Codex          codex mcp add qlora -- qlora mcp --workspace /path/to/project
      Cursor         .cursor/mcp.json: {"mcpServers": {"qlora": {"command": "qlora",
                       "args": ["mcp", "--workspace", "/path/to/project"]}}}

    Tools write only inside the workspace, and read only there, in the model cache and what --allow-read names. The server
    ends with its client; training jobs go on, and the next server knows them.

    With --http it stays until Ctrl-C or SIGTERM and serves http://127.0.0.1:8765/mcp. Where other machines can reach it, it
    starts only with --allow-host and a bearer token of at least 16 characters in the variable QLORA_MCP_TOKEN:

    \b
      export QLORA_MCP_TOKEN=$(python -c "import secrets; print(secrets.token_urlsafe(32))")
      qlora mcp --http --host 0.0.0.0 --allow-host gpu-box.example.org

    Exit codes: 0 ended as it was told to, 2 wrong usage, 4 the port is taken.
    """
    _refuse_without_effect(http)
    token = _taken_token()
    access = Access(_workspace(workspace), tuple(_directory(path, "--allow-read") for path in allow_read))
    with _without_collections():
        serve = _over_http(host, port, token, allow_host, allow_origin) if http else _over_stdio()
        serve = _with_tools(serve, access, read_only)
    if not http:
        _greet(access.workspace)
    serve()


@contextmanager
def _without_collections() -> Iterator[None]:
    """Imports make some 100,000 objects, all to stay: looking for garbage among them takes a tenth of the start."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _over_http(
    host: str, port: int, token: str | None, allow_hosts: tuple[str, ...], allow_origins: tuple[str, ...]
) -> Callable[..., None]:
    """What serves, on a socket that is there already: a port that is taken is told before anything else."""
    from ..server.http import HttpAddress, serve_http

    address = HttpAddress(host, port, token, allow_hosts, allow_origins)
    return partial(serve_http, gate=address.gate(), listening=address.listen())


def _over_stdio() -> Callable[..., None]:
    from ..server.stdio import serve_stdio

    serve: Callable[..., None] = serve_stdio
    return serve


def _with_tools(serve: Callable[..., None], access: Access, read_only: bool) -> Callable[[], None]:
    os.chdir(access.workspace)
    # Jobs and workers that the tools start count paths from there too.
    os.environ[WORKSPACE_VARIABLE] = str(access.workspace)

    from ..server.app import build_server
    from ..server.logs import log_to_stderr
    from ..server.options import ServerOptions
    from ..server.work import WorkRoom

    log_to_stderr()
    room = WorkRoom(access.workspace)
    return partial(serve, build_server(ServerOptions(access, read_only=read_only), room), at_end=[room.close])


def _refuse_without_effect(http: bool) -> None:
    context = click.get_current_context()
    given = [
        option for name, option in _ONLY_HTTP.items() if context.get_parameter_source(name) != ParameterSource.DEFAULT
    ]
    if given and not http:
        raise UsageError(f"{given[0]} is for --http alone.", next_step=f"Add --http, or leave {given[0]} out.")


def _taken_token() -> str | None:
    """The bearer token, which jobs and workers have no business with."""
    # It is hidden wherever it might be shown, by a look at the environment while it is still there.
    hidden_secrets("")
    return os.environ.pop("QLORA_MCP_TOKEN", None) or None


def _workspace(option: str | None) -> Path:
    if option is not None:
        return _directory(option, "--workspace")
    of_environment = os.environ.get(WORKSPACE_VARIABLE)
    return _directory(of_environment or ".", WORKSPACE_VARIABLE if of_environment else "The current directory")


def _directory(text: str, what: str) -> Path:
    """A directory that tools may use. Raises `UsageError` for one that is missing, or that holds more than a project."""
    path = as_path(text).resolve()
    if not path.is_dir():
        raise UsageError(f"{what}: {path} is no directory.", next_step="Make it, or name one that exists.")
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home raises for users that have none
    if path == path.parent or (home.is_absolute() and home.resolve().is_relative_to(path)):
        raise UsageError(
            f"{what}: {path} holds your home directory, with keys and mail; agents get one project, not the disk.",
            next_step="Name a directory inside it: qlora mcp --workspace ~/my-project.",
        )
    return path


def _greet(workspace: Path) -> None:
    """For a person who started it by hand and now sees nothing happen."""
    if sys.stdin is not None and sys.stdin.isatty():
        click.echo(
            f"qlora mcp: a server for agents. It now waits for MCP messages on stdin, for {workspace}; Ctrl-D ends it.\n"
            f"Agents start it themselves: claude mcp add qlora -- qlora mcp --workspace {workspace}\n"
            "`qlora mcp --help` has the same for other clients, and for HTTP.",
            err=True,
        )
