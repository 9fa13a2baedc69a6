"""The server over Streamable HTTP: who may speak to it, what it answers, and how it ends."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from qlora_tools.server.gate import Gate, checked_host, checked_origin
from qlora_tools.server.http import MAX_BODY_BYTES, HttpAddress, http_app

from qlora_tools.errors import MachineError, UsageError

TOKEN = "a-token-of-the-tests"
LEGACY = "2025-11-25"
MODERN = "2026-07-28"
HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
CLIENT = {"name": "test", "version": "1"}
HELLO = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": CLIENT}


def small_server() -> MCPServer:
    server: MCPServer = MCPServer("small", version="1")

    @server.tool()
    def double(number: int) -> int:
        return 2 * number

    return server


@contextlib.asynccontextmanager
async def client_of(gate: Gate, url: str = "http://127.0.0.1:8765") -> AsyncIterator[httpx2.AsyncClient]:
    server = small_server()
    transport = httpx2.ASGITransport(app=http_app(server, gate))
    async with server.session_manager.run(), httpx2.AsyncClient(transport=transport, base_url=url) as client:
        yield client


def status_of(gate: Gate, headers: list[tuple[str, str]], method: str = "GET", path: str = "/") -> httpx2.Response:
    async def ask() -> httpx2.Response:
        async with client_of(gate) as client:
            return await client.request(method, path, headers=headers)

    return anyio.run(ask)


def message(method: str, params: Any, id_: int = 1) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})


def events(response: httpx2.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]


HERE = Gate(frozenset())
AWAY = Gate(frozenset({"gpu.example.org", "10.0.0.5:9000"}), frozenset({"https://page.example.org"}), TOKEN, False)
BEARER = ("Authorization", f"Bearer {TOKEN}")


@pytest.mark.parametrize(
    ("gate", "host", "good"),
    [
        (HERE, "127.0.0.1", True),
        (HERE, "127.0.0.1:8765", True),
        (HERE, "LocalHost:9000", True),
        (HERE, "[::1]:8765", True),
        (HERE, "evil.example.org", False),
        (HERE, "127.0.0.1.evil.example.org", False),
        (HERE, "localhost.", False),
        (HERE, "localhost:8765@evil.example.org", False),
        (HERE, "localhost:8765:80", False),
        (HERE, "::1", False),
        (HERE, "", False),
        (AWAY, "gpu.example.org", True),
        (AWAY, "GPU.example.org:443", True),
        (AWAY, "10.0.0.5:9000", True),
        (AWAY, "10.0.0.5", False),
        (AWAY, "10.0.0.5:80", False),
        (AWAY, "x.gpu.example.org", False),
        (AWAY, "localhost", False),
        (AWAY, "127.0.0.1:8765", False),
    ],
)
def test_a_host_is_known_or_refused(gate: Gate, host: str, good: bool) -> None:
    assert gate.knows_host(host) is good
    if host.isprintable():
        assert status_of(gate, [("Host", host), BEARER]).status_code == (200 if good else 421)


@pytest.mark.parametrize(
    ("gate", "origin", "good"),
    [
        (HERE, "http://localhost:6274", True),
        (HERE, "https://127.0.0.1", True),
        (HERE, "http://[::1]:1", True),
        (HERE, "http://evil.example.org", False),
        (HERE, "http://localhost.evil.example.org", False),
        (HERE, "http://localhost@evil.example.org", False),
        (HERE, "file://localhost", False),
        (HERE, "null", False),
        (HERE, "", False),
        (AWAY, "https://page.example.org", True),
        (AWAY, "HTTPS://Page.Example.org", True),
        (AWAY, "http://page.example.org", False),
        (AWAY, "https://page.example.org:444", False),
        (AWAY, "http://localhost:6274", False),
    ],
)
def test_an_origin_is_known_or_refused(gate: Gate, origin: str, good: bool) -> None:
    host = ("Host", "localhost" if gate.loopback else "gpu.example.org")
    assert gate.knows_origin(origin) is good
    assert status_of(gate, [host, BEARER, ("Origin", origin)]).status_code == (200 if good else 403)


def test_one_bad_origin_among_several_is_refused() -> None:
    headers = [("Host", "localhost"), ("Origin", "http://localhost"), ("Origin", "http://evil.example.org")]
    assert status_of(HERE, headers).status_code == 403
    assert status_of(HERE, [("Host", "localhost"), ("Host", "evil.example.org")]).status_code == 421


@pytest.mark.parametrize(
    ("given", "good"),
    [
        ([f"Bearer {TOKEN}"], True),
        ([f"bearer  {TOKEN}"], True),
        ([], False),
        ([""], False),
        ([TOKEN], False),
        ([f"Basic {TOKEN}"], False),
        ([f"Bearer {TOKEN}x"], False),
        ([f"Bearer {TOKEN[:-1]}"], False),
        ([f"Bearer {TOKEN.upper()}"], False),
        (["Bearer"], False),
        (["Bearer \xe9"], False),
        ([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], False),
    ],
)
@pytest.mark.parametrize("gate", [AWAY, Gate(frozenset(), token=TOKEN)], ids=["away", "loopback"])
def test_a_token_that_is_set_is_wanted_everywhere(gate: Gate, given: list[str], good: bool) -> None:
    host = ("Host", "localhost" if gate.loopback else "gpu.example.org")
    headers: Any = [host, *(("Authorization", value.encode("latin-1")) for value in given)]
    for method, path, status in (("GET", "/", 200), ("GET", "/none", 404), ("POST", "/mcp", 400)):
        answer = status_of(gate, headers, method, path)
        assert answer.status_code == (status if good else 401)
        told = answer.headers.get("www-authenticate")
        if good:
            assert told is None
        else:
            assert told == 'Bearer realm="qlora"' + (', error="invalid_token"' if given else "")
            assert TOKEN not in answer.text


def test_a_page_that_is_allowed_may_ask_beforehand_and_read_the_answer() -> None:
    page = [("Host", "gpu.example.org"), ("Origin", "https://page.example.org")]
    wanted = ("Access-Control-Request-Headers", "authorization,content-type,mcp-protocol-version")
    asked = status_of(AWAY, [*page, ("Access-Control-Request-Method", "POST"), wanted], "OPTIONS", "/mcp")
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == "https://page.example.org"
    answer = status_of(AWAY, [*page, BEARER])
    assert answer.headers["access-control-allow-origin"] == "https://page.example.org"
    other = status_of(HERE, [("Host", "localhost"), ("Origin", "http://localhost:6274")])
    assert "access-control-allow-origin" not in other.headers


def test_the_root_says_what_this_is_in_a_line() -> None:
    answer = status_of(HERE, [("Host", "localhost")])
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.startswith("qlora-tools ")
    assert answer.text.endswith(", at /mcp.\n")
    assert answer.text.count("\n") == 1


def test_a_client_of_the_handshake_is_served_in_its_session() -> None:
    async def talk() -> None:
        async with client_of(HERE) as client:
            hello = await client.post("/mcp", content=message("initialize", HELLO), headers=HEADERS)
            assert hello.status_code == 200
            assert events(hello)[0]["result"]["protocolVersion"] == LEGACY
            session = {"Mcp-Session-Id": hello.headers["mcp-session-id"], "Mcp-Protocol-Version": LEGACY}
            call = message("tools/call", {"name": "double", "arguments": {"number": 4}}, 2)
            answer = await client.post("/mcp", content=call, headers={**HEADERS, **session})
            assert events(answer)[-1]["result"]["structuredContent"] == {"result": 8}
            unknown = await client.post("/mcp", content=call, headers={**HEADERS, **session, "Mcp-Session-Id": "none"})
            assert unknown.status_code == 404
            assert (await client.delete("/mcp", headers={**HEADERS, **session})).status_code == 200
            assert (await client.post("/mcp", content=call, headers={**HEADERS, **session})).status_code == 404

    anyio.run(talk)


def test_a_client_without_handshake_is_served_by_each_request() -> None:
    async def talk() -> None:
        async with client_of(HERE) as client:
            about = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": CLIENT,
                "io.modelcontextprotocol/clientCapabilities": {},
            }
            call = message("tools/call", {"name": "double", "arguments": {"number": 4}, "_meta": about})
            named = {"Mcp-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "double"}
            answer = await client.post("/mcp", content=call, headers={**HEADERS, **named})
            assert answer.status_code == 200, answer.text
            told = events(answer) or [answer.json()]
            assert told[-1]["result"]["structuredContent"] == {"result": 8}

    anyio.run(talk)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b'{"jsonrpc": "2.0", "id": 1, "method"', {"Mcp-Protocol-Version": MODERN}, 400),
        (b"\xff\xfe", {}, 400),
        (b"[]", {}, 400),
        (message("initialize", HELLO).encode(), {"Content-Type": "text/plain"}, 400),
        (message("initialize", HELLO).encode(), {"Accept": "text/html"}, 406),
        (message("tools/list", {}).encode(), {}, 400),
        (b" " * (MAX_BODY_BYTES + 1), {}, 413),
    ],
)
def test_what_is_no_request_is_refused(content: bytes, headers: dict[str, str], status: int) -> None:
    async def ask() -> int:
        async with client_of(HERE) as client:
            return (await client.post("/mcp", content=content, headers={**HEADERS, **headers})).status_code

    assert anyio.run(ask) == status


def test_a_body_without_a_length_is_limited_too() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 2**20

    async def ask() -> int:
        async with client_of(HERE) as client:
            return (await client.post("/mcp", content=parts(), headers=HEADERS)).status_code

    assert anyio.run(ask) == 413


LOOPBACK = ("127.0.0.1", "::1", "localhost", "127.5.5.5")
OTHERS = ("0.0.0.0", "::", "10.0.0.5", "gpu.example.org", "")


@pytest.mark.parametrize(("token", "hosts"), [*itertools.product((None, TOKEN), ((), ("gpu.example.org",)))])
def test_other_machines_are_let_in_with_token_and_names_only(token: str | None, hosts: tuple[str, ...]) -> None:
    for host in OTHERS:
        address = HttpAddress(host, token=token, allow_hosts=hosts)
        if token and hosts:
            assert address.gate() == Gate(frozenset(hosts), token=token, loopback=False)
        else:
            with pytest.raises(UsageError, match="takes a token and an allow-list of hosts"):
                address.gate()
    for host in LOOPBACK:
        address = HttpAddress(host, token=token, allow_hosts=hosts)
        if hosts and not token:
            with pytest.raises(UsageError, match="through a proxy or another name"):
                address.gate()
        else:
            assert address.gate() == Gate(frozenset(hosts), token=token)


def test_a_name_of_this_machine_needs_no_token() -> None:
    assert HttpAddress(allow_hosts=("localhost:9000",)).gate().hosts == {"localhost:9000"}


@pytest.mark.parametrize(
    "token", ["short", "f" * 15, "with a space in it", "nön-ascii-letters-in", "line\nline-line-line"]
)
def test_a_weak_token_is_refused(token: str) -> None:
    with pytest.raises(UsageError, match="at least 16, all of them ASCII") as caught:
        HttpAddress(token=token).gate()
    assert token not in caught.value.message


@pytest.mark.parametrize("host", ["*", "*.example.org", "http://gpu.example.org", "a/b", "", "a b", "host:port"])
def test_only_hosts_are_allowed_as_hosts(host: str) -> None:
    with pytest.raises(UsageError, match="is no HOST or HOST:PORT"):
        checked_host(host)


@pytest.mark.parametrize("origin", ["*", "null", "gpu.example.org", "https://*.example.org", "https://a/b", ""])
def test_only_origins_are_allowed_as_origins(origin: str) -> None:
    with pytest.raises(UsageError, match="--allow-origin"):
        checked_origin(origin)


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=f"Port {port} of 127.0.0.1 is taken"):
            HttpAddress(port=port).listen()


def test_an_address_of_another_machine_and_a_name_of_none_are_told() -> None:
    with pytest.raises(MachineError, match=r"Cannot listen on port 8765 of 192\.0\.2\.1"):
        HttpAddress("192.0.2.1").listen()
    with pytest.raises(UsageError, match="is no address"):
        HttpAddress("no host").listen()


@pytest.mark.process
def test_the_command_serves_both_protocols_and_ends_in_time_with_streams_open(tmp_path: Path) -> None:
    environment = {**os.environ, "QLORA_MCP_TOKEN": TOKEN}
    arguments = ["mcp", "--http", "--port", "0", "--workspace", str(tmp_path)]
    command = [sys.executable, "-m", "qlora_tools", *arguments]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        url = next(word for word in first.split() if word.startswith("http://127.0.0.1:")).rstrip(";")
        with httpx2.Client(headers=dict([BEARER]), timeout=20) as client:
            assert httpx2.get(url.removesuffix("mcp")).status_code == 401
            assert client.get(url.removesuffix("mcp")).status_code == 200
            assert anyio.run(_tools_in_both_eras, url) == (LEGACY, MODERN)
            hello = client.post(url, content=message("initialize", HELLO), headers=HEADERS)
            session = {"Mcp-Session-Id": hello.headers["mcp-session-id"], "Mcp-Protocol-Version": LEGACY}
            with client.stream("GET", url, headers={**HEADERS, **session}) as stream:
                assert stream.status_code == 200
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
                assert time.monotonic() - began < 2
        assert process.stdout is not None
        assert process.stdout.read() == ""
        assert process.stderr.read() == ""


async def _tools_in_both_eras(url: str) -> tuple[str, str]:
    """What the SDK's own client settles on when it is told to shake hands, and when it is not."""
    found = []
    async with httpx2.AsyncClient(headers=dict([BEARER]), timeout=20) as http:
        for mode in ("legacy", MODERN):
            async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
                assert (await client.list_tools()).tools
                found.append(client.protocol_version)
    return (found[0], found[1])
