"""Talking to the server in memory, as an agent does."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
from mcp import Client
from qlora_tools.server import ServerOptions, build_server
from qlora_tools.server.work import WorkRoom

from qlora_tools.access import Access

T = TypeVar("T")


def talk(workspace: Path, conversation: Callable[[Client], Awaitable[T]], **options: Any) -> T:
    """What `conversation` returns of a client and a new server over `workspace`."""

    access = Access(workspace.resolve(), options.pop("allow_read", ()))
    room = WorkRoom(access.workspace)

    async def run() -> T:
        async with Client(build_server(ServerOptions(access, **options), room)) as client:
            return await conversation(client)

    try:
        return anyio.run(run)
    finally:
        room.close()


def called(workspace: Path, tool: str, **arguments: Any) -> Any:
    """The result of one call."""
    return talk(workspace, lambda client: client.call_tool(tool, arguments))


def text_of(result: Any) -> str:
    """The text of a result."""
    return "\n".join(part.text for part in result.content if part.type == "text")


def tools_of(workspace: Path, **options: Any) -> list[dict[str, Any]]:
    """What `tools/list` answers, as it is on the wire."""

    async def listed(client: Client) -> list[dict[str, Any]]:
        found = (await client.list_tools()).tools
        return [json.loads(tool.model_dump_json(by_alias=True, exclude_none=True)) for tool in found]

    return talk(workspace, listed, **options)
