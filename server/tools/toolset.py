"""What all tools share: the workspace, child processes, and threads for what blocks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from mcp.server.mcpserver.context import Context

from ..answers import shown
from ..options import ServerOptions
from ..path_settings import with_resolved_paths
from ..work import Document, WorkRoom

P = ParamSpec("P")
T = TypeVar("T")
# More threads would only take the interpreter from one another.
_THREADS = 4
_LONGEST_TOLD = 500
GIB = 2**30


@dataclass(frozen=True)
class Toolset:
    """Base of the classes whose methods are tools."""

    options: ServerOptions
    room: WorkRoom
    _threads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_THREADS))

    async def _aside(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what blocks in a thread; a caller that goes away does not wait for it."""
        return await anyio.to_thread.run_sync(
            lambda: function(*args, **kwargs), abandon_on_cancel=True, limiter=self._threads
        )

    async def _worked(self, task: str, arguments: Mapping[str, Any], context: Context[Any, Any]) -> Document | None:
        """The answer of a worker; None where it needs longer than a call should last."""

        async def tell(event: Document) -> None:
            values = event["values"]
            # An answer as far as it is written is told by its end.
            message = shown(event["message"])[-_LONGEST_TOLD:]
            await context.report_progress(values.get("done", 0.0), values.get("total"), message)

        return await self.room.done(task, arguments, tell)

    def _so_far(self, task: str, arguments: Mapping[str, Any]) -> str:
        """How far work is that takes longer than a call should last."""
        event = self.room.latest(task, arguments)
        done, total = event["values"].get("done"), event["values"].get("total")
        amount = "" if done is None else f" {done:,.0f}" + (f" of {total:,.0f}" if total else "")
        return f"So far: {event['message']}{amount}."

    def _checked(self, model: str | None, data: str, settings: Mapping[str, Any], output: str = "output") -> Document:
        """Model, data and settings with every path in them checked and resolved. Raises `UsageError`, `ConfigError`."""
        from qlora_tools.config.overrides import config_with, field_path

        asked = {field_path(name): value for name, value in settings.items()}
        config = self.options.access.checked_config(
            config_with(asked, model=model or "any/any", data=data, output=asked.get("output.directory", output))
        )
        return {
            "model": config.model.name if model else None,
            "data": config.data.path,
            "settings": with_resolved_paths(asked, config),
            "output": config.output.directory,
        }


def gib(size: float | None) -> float | None:
    """Bytes as GiB with two decimals."""
    return None if size is None else round(size / GIB, 2)
