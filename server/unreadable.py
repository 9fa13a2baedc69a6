"""Messages that cannot be read are answered: the SDK drops them, and whoever sent one would wait until it gives up.

It happens to honest callers too: half of an emoji as `\\ud83d`, values nested more than 200 deep.
"""

import json
from typing import Any

from mcp.shared.message import SessionMessage
from mcp.types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError
from pydantic import ValidationError


def answering(incoming: Any, outgoing: Any) -> Any:
    """The messages of `incoming`; what cannot be read is answered on `outgoing` with an error, and left out."""
    return _Readable(incoming, outgoing)


class _Readable:
    def __init__(self, incoming: Any, outgoing: Any) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._incoming, name)

    async def __aenter__(self) -> "_Readable":
        await self._incoming.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._incoming.__aexit__(*error)

    def __aiter__(self) -> "_Readable":
        return self

    async def __anext__(self) -> Any:
        while isinstance(item := await self._incoming.__anext__(), Exception):
            if (answer := _answer(item)) is not None:
                await self._outgoing.send(SessionMessage(answer))
        return item


def _answer(error: Exception) -> JSONRPCError | None:
    """What is wrong with a message, to whoever waits under its id; None for an empty line."""
    if not isinstance(error, ValidationError):
        return _refusal(None, PARSE_ERROR, "The message cannot be read.")
    detail = error.errors(include_url=False)[0]
    if detail["type"] != "json_invalid":
        return _refusal(
            None, INVALID_REQUEST, "The message is JSON, but neither a request nor a notification nor an answer."
        )
    line = str(detail["input"])
    return _refusal(_id_in(line), PARSE_ERROR, f"The message cannot be read. {detail['msg']}") if line.strip() else None


def _refusal(number: int | str | None, code: int, message: str) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=number, error=ErrorData(code=code, message=message))


def _id_in(line: str) -> int | str | None:
    """The id of a request that Python reads and the SDK does not."""
    try:
        value = json.loads(line)
        found = value.get("id") if isinstance(value, dict) else None
        if isinstance(found, str):
            found.encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None
