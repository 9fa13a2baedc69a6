"""Who may speak to the server over HTTP: names of hosts, origins, and the bearer token, checked before anything is read."""

import hmac
import re
from dataclasses import dataclass

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from qlora_tools.errors import UsageError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?)(?::(?P<port>\d{1,5}))?")
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[^/?#@\s]+)")
_HEADERS_OF_CLIENTS = [
    "Accept",
    "Authorization",
    "Content-Type",
    "Last-Event-ID",
    "Mcp-Protocol-Version",
    "Mcp-Session-Id",
]


@dataclass(frozen=True)
class Gate:
    """What a request must carry. `hosts` are names with or without a port, `origins` whole ones; all in lower case."""

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    token: str | None = None
    loopback: bool = True

    def around(self, app: ASGIApp) -> ASGIApp:
        """`app` behind the checks: host and origin first, then what a browser asks beforehand, then the token."""
        inner: ASGIApp = _TokenCheck(app, self.token) if self.token else app
        if self.origins:
            inner = CORSMiddleware(
                inner,
                allow_origins=sorted(self.origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=[*_HEADERS_OF_CLIENTS, "Mcp-Method", "Mcp-Name"],
                expose_headers=["Mcp-Session-Id", "WWW-Authenticate"],
            )
        return _AddressCheck(inner, self)

    def knows_host(self, text: str) -> bool:
        """Whether a `Host` header names this server. A name that was allowed without a port is good with any."""
        found = _HOST.fullmatch(text.lower())
        if found is None:
            return False
        names = {found[0], found["name"]}
        return not names.isdisjoint(self.hosts) or (self.loopback and is_loopback_name(text))

    def knows_origin(self, text: str) -> bool:
        """Whether pages of this origin may call: those that were allowed, and on loopback those of this machine."""
        origin = text.lower()
        found = _ORIGIN.fullmatch(origin)
        if found is None:
            return False
        here = found["scheme"] in ("http", "https") and is_loopback_name(found["host"])
        return origin in self.origins or (self.loopback and here)


def is_loopback_name(host: str) -> bool:
    """Whether `HOST[:PORT]` means the machine that one is on."""
    found = _HOST.fullmatch(host.lower())
    return found is not None and found["name"] in _LOOPBACK_NAMES


def checked_host(text: str) -> str:
    """`HOST[:PORT]` in lower case. Raises `UsageError` for anything else, wildcards too."""
    if _HOST.fullmatch(text.lower()) is None:
        raise UsageError(
            f"--allow-host: {text!r} is no HOST or HOST:PORT; wildcards and URLs are not taken.",
            next_step="Write the name that clients have in their URL, such as gpu-box.example.org.",
        )
    return text.lower()


def checked_origin(text: str) -> str:
    """`SCHEME://HOST[:PORT]` in lower case. Raises `UsageError` for anything else, wildcards too."""
    found = _ORIGIN.fullmatch(text.lower())
    if found is None or _HOST.fullmatch(found["host"]) is None:
        raise UsageError(
            f"--allow-origin: {text!r} is no SCHEME://HOST[:PORT]; wildcards and paths are not taken.",
            next_step="Write the origin of the page, such as https://inspector.example.org.",
        )
    return text.lower()


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


class _AddressCheck:
    """Refuses requests that were meant for another name, or that a page of another site sends."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] != "lifespan":
            hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
            if len(hosts) != 1 or not self._gate.knows_host(hosts[0]):
                app = PlainTextResponse("This server does not go by that host; see --allow-host.\n", 421)
            elif not all(self._gate.knows_origin(origin) for origin in origins):
                app = PlainTextResponse("Pages of that origin may not call; see --allow-origin.\n", 403)
        await app(scope, receive, send)


class _TokenCheck:
    """Refuses requests without the bearer token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] != "lifespan":
            given = _values(scope, b"authorization")
            if not self._is_good(given):
                told = 'Bearer realm="qlora"' + (', error="invalid_token"' if given else "")
                text = "This server wants its token: Authorization: Bearer ...\n"
                app = PlainTextResponse(text, 401, {"WWW-Authenticate": told})
        await app(scope, receive, send)

    def _is_good(self, given: list[str]) -> bool:
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        # Takes as long for a wrong first character as for a wrong last one.
        return hmac.compare_digest(token.strip().encode("latin-1"), self._token) and scheme.lower() == "bearer"
