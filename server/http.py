"""Serving over Streamable HTTP: loopback unless a token and names of hosts are given, and an end within two seconds."""

import errno
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import anyio
import uvicorn
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from qlora_tools import __version__
from qlora_tools.errors import MachineError, UsageError

from .ending import Ending
from .gate import Gate, checked_host, checked_origin, is_loopback_name

PATH = "/mcp"
TOKEN_VARIABLE = "QLORA_MCP_TOKEN"  # noqa: S105 - the name of a variable
LEAST_TOKEN_CHARACTERS = 16
MAX_BODY_BYTES = 4 * 2**20
# Clients seldom end their sessions; those without a request for half an hour are dropped.
_MAX_SESSIONS = 500
_GRACE_SECONDS = 1.4
_SERVER_SECONDS = 1


@dataclass(frozen=True)
class HttpAddress:
    """Where to listen and for whom."""

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()

    def gate(self) -> Gate:
        """The checks of every request. Raises `UsageError` where this address would be open to others."""
        hosts = frozenset(checked_host(host) for host in self.allow_hosts)
        origins = frozenset(checked_origin(origin) for origin in self.allow_origins)
        loopback = _is_loopback(self.host)
        self._check_token()
        if not loopback and not (self.token and hosts):
            missing = [name for name, given in ((TOKEN_VARIABLE, self.token), ("--allow-host", hosts)) if not given]
            raise UsageError(
                f"--host {self.host} lets other machines in, which takes a token and an allow-list of hosts; "
                f"missing: {', '.join(missing)}.",
                next_step=f"Set {TOKEN_VARIABLE} to at least {LEAST_TOKEN_CHARACTERS} characters and name the host that "
                "clients call with --allow-host; or leave --host out.",
            )
        others = sorted(host for host in hosts if not is_loopback_name(host))
        if others and not self.token:
            raise UsageError(
                f"--allow-host {others[0]} lets callers in through a proxy or another name, which takes a token; "
                f"{TOKEN_VARIABLE} is not set.",
                next_step=f"Set {TOKEN_VARIABLE} to at least {LEAST_TOKEN_CHARACTERS} characters.",
            )
        return Gate(hosts, origins, self.token, loopback)

    def _check_token(self) -> None:
        if self.token is None:
            return
        plain = self.token.isascii() and self.token.isprintable() and " " not in self.token
        if len(self.token) < LEAST_TOKEN_CHARACTERS or not plain:
            raise UsageError(
                f"The token in {TOKEN_VARIABLE} has {len(self.token)} characters; it takes at least "
                f"{LEAST_TOKEN_CHARACTERS}, all of them ASCII without spaces.",
                next_step='Make one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
            )

    def listen(self) -> socket.socket:
        """A socket on this address. Raises `MachineError` where it cannot be had, `UsageError` for a wrong name."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (socket.gaierror, UnicodeError) as error:
            raise UsageError(
                f"--host {self.host!r} is no address: {error}.", next_step="Name an address of this machine."
            ) from None
        family, _, _, _, address = min(found, key=lambda item: item[0] != socket.AF_INET)
        try:
            return socket.create_server(address[:2], family=family, backlog=128)
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: OSError) -> MachineError:
        if error.errno == errno.EADDRINUSE:
            return MachineError(
                f"Port {self.port} of {self.host} is taken by another program.",
                next_step="Choose another with --port, or end the one that listens there.",
            )
        return MachineError(
            f"Cannot listen on port {self.port} of {self.host}: {error.strerror}.",
            next_step="Choose another with --port (1024 and up need no rights) or --host.",
        )


def http_app(server: MCPServer, gate: Gate) -> ASGIApp:
    """The server as an ASGI application: `/mcp`, and `/` that says what this is."""
    server.custom_route("/", methods=["GET"])(_about)
    # The gate checks hosts and origins, off loopback too; the SDK's own check would know nothing of its names.
    trusting = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=MAX_BODY_BYTES,
        max_sessions=_MAX_SESSIONS,
        transport_security=trusting,
    )
    return gate.around(app)


def serve_http(
    server: MCPServer, *, gate: Gate, listening: socket.socket, at_end: Sequence[Callable[[], None]] = ()
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP comes; then end the process with code 0. A parent may go: it is no client."""
    app = http_app(server, gate)
    config = uvicorn.Config(
        app,
        http="h11",
        loop="asyncio",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SERVER_SECONDS,
    )
    serving = _Serving(config)
    with Ending(grace_seconds=_GRACE_SECONDS, on_told=serving.leave, at_end=at_end):
        print(f"qlora {__version__} serves MCP on {_url(listening)}; Ctrl-C ends it, jobs go on.", file=sys.stderr)
        anyio.run(serving.serve, [listening])


async def _about(request: Request) -> Response:
    return PlainTextResponse(f"qlora-tools {__version__}: an MCP server for fine-tuning language models, at {PATH}.\n")


class _Serving(uvicorn.Server):
    """Leaves the signals of the process to `Ending`; uvicorn would raise them again and die of them."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Nothing."""
        return nullcontext()

    def leave(self) -> None:
        """Stop listening, give those who wait for an answer a second, and leave."""
        # What it complains about from now on are streams that are cut off on purpose.
        logging.getLogger("uvicorn.error").disabled = True
        self.should_exit = True


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"
